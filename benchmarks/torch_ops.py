"""What PyTorch has for each op: TORCH[op](torch, a) is a call that does the same work.

`a` holds the op's arguments as tensors. Results go into tensors made before, where PyTorch has such
a form; gradients of losses come from autograd, as there is no other way to ask for them.
"""

from functools import partial


def into(like, function, *args, name="out", **keywords):
    return partial(function, *args, **{name: like.new_empty(like.shape)}, **keywords)


def activation(forward, *extra, **keywords):
    return lambda torch, a: into(a.x, forward(torch), a.x, *extra, **keywords)


def backward_from_output(name):
    def call(torch, a):
        function = getattr(torch.ops.aten, name).grad_input
        return into(a.y, function, a.dy, a.y, name="grad_input")

    return call


def activation_backward(name, *extra, of_output=None, **keywords):
    """`of_output`: PyTorch differentiates from this function's result, not from x."""

    def call(torch, a):
        function = getattr(torch.ops.aten, name).grad_input
        saved = getattr(torch, of_output)(a.x) if of_output else a.x
        return into(a.x, function, a.dy, saved, *extra, name="grad_input", **keywords)

    return call


def softmax(name):
    return lambda torch, a: into(a.x, getattr(torch, name), a.x, -1)


def softmax_backward(name, result):
    def call(torch, a):
        function = getattr(torch.ops.aten, name).out
        return into(a.y, function, a.dy, a.y, -1, a.y.dtype, name=result)

    return call


def loss(function, x, target):
    """Loss and gradient of the scores."""

    def call(torch, a):
        scores = getattr(a, x).requires_grad_()
        forward = getattr(torch.nn.functional, function)
        return lambda: torch.autograd.grad(forward(scores, getattr(a, target)), scores)

    return call


def optimizer(name, **options):
    def call(torch, a):
        param = torch.nn.Parameter(a.param)
        param.grad = a.grad
        return getattr(torch.optim, name)([param], lr=a.lr, **options).step

    return call


def clip_grad_norm(torch, a):
    param = torch.nn.Parameter(a.grad.clone())
    param.grad = a.grad
    return partial(torch.nn.utils.clip_grad_norm_, [param], a.max_norm)


def batch_norm(torch, a):
    statistics = (a.running_mean, a.running_var)
    return partial(torch.native_batch_norm, a.x, a.gamma, a.beta, *statistics, True, 0.1, 1e-5)


def batch_norm_backward(torch, a):
    function = torch.ops.aten.native_batch_norm_backward
    saved = (None, None, a.mean, a.rstd)
    return partial(function, a.dy, a.x, a.gamma, *saved, True, 1e-5, [True] * 3)


def layer_norm(torch, a):
    return partial(torch.native_layer_norm, a.x, a.x.shape[-1:], a.gamma, a.beta, 1e-5)


def layer_norm_backward(torch, a):
    function = torch.ops.aten.native_layer_norm_backward
    saved = (a.mean[:, None], a.rstd[:, None])
    shape, beta = a.x.shape[-1:], torch.zeros_like(a.gamma)
    return partial(function, a.dy, a.x, shape, *saved, a.gamma, beta, [True] * 3)


def matmul(torch, a):
    left = a.a.T if getattr(a, "transpose_a", False) else a.a
    right = a.b.T if getattr(a, "transpose_b", False) else a.b
    return partial(torch.matmul, left, right, out=left @ right)


TORCH = {
    "matmul": matmul,
    "column_sum": lambda torch, a: partial(torch.sum, a.x, 0, out=a.x.new_empty(a.x.shape[1])),
    "relu": activation(lambda torch: torch.clamp_min, 0),
    "leaky_relu": activation(lambda torch: torch.ops.aten.leaky_relu.out, 0.01),
    "sigmoid": activation(lambda torch: torch.sigmoid),
    "hard_sigmoid": activation(lambda torch: torch.ops.aten.hardsigmoid.out),
    "tanh": activation(lambda torch: torch.tanh),
    "gelu": activation(lambda torch: torch.ops.aten.gelu.out),
    "gelu_tanh": activation(lambda torch: torch.ops.aten.gelu.out, approximate="tanh"),
    "silu": activation(lambda torch: torch.ops.aten.silu.out),
    "softplus": activation(lambda torch: torch.ops.aten.softplus.out),
    "relu_backward": activation_backward("threshold_backward", 0),
    "leaky_relu_backward": activation_backward("leaky_relu_backward", 0.01, False),
    "sigmoid_backward": activation_backward("sigmoid_backward", of_output="sigmoid"),
    "sigmoid_backward_from_output": backward_from_output("sigmoid_backward"),
    "hard_sigmoid_backward": activation_backward("hardsigmoid_backward"),
    "tanh_backward": activation_backward("tanh_backward", of_output="tanh"),
    "tanh_backward_from_output": backward_from_output("tanh_backward"),
    "gelu_backward": activation_backward("gelu_backward"),
    "gelu_tanh_backward": activation_backward("gelu_backward", approximate="tanh"),
    "silu_backward": activation_backward("silu_backward"),
    "softplus_backward": activation_backward("softplus_backward", 1, 20),
    "softmax": softmax("softmax"),
    "softmax_backward": softmax_backward("_softmax_backward_data", "grad_input"),
    "log_softmax": softmax("log_softmax"),
    "log_softmax_backward": softmax_backward("_log_softmax_backward_data", "out"),
    "softmax_cross_entropy": loss("cross_entropy", "logits", "targets"),
    "sigmoid_cross_entropy": loss("binary_cross_entropy_with_logits", "logits", "targets"),
    "mse": loss("mse_loss", "pred", "target"),
    "mae": loss("l1_loss", "pred", "target"),
    "batch_norm": batch_norm,
    "batch_norm_backward": batch_norm_backward,
    "layer_norm": layer_norm,
    "layer_norm_backward": layer_norm_backward,
    "dropout": lambda torch, a: partial(torch.native_dropout, a.x, a.p, True),
    "dropout_backward": lambda torch, a: partial(
        torch.ops.aten.native_dropout_backward, a.dy, a.mask, 1 / (1 - a.p)
    ),
    "sgd_step": optimizer("SGD", fused=True),
    "adagrad_step": optimizer("Adagrad", fused=True),
    "rmsprop_step": optimizer("RMSprop", foreach=True),
    "adam_step": optimizer("Adam", fused=True),
    "radam_step": optimizer("RAdam", foreach=True),
    "rescale": lambda torch, a: into(a.x.float(), torch.mul, a.x, a.scale),
    "take_rows": lambda torch, a: partial(
        torch.index_select, a.x, 0, a.index, out=a.x.new_empty(len(a.index), a.x.shape[1])
    ),
    "count_correct": lambda torch, a: lambda: (a.logits.argmax(1) == a.targets).sum(),
    "count_correct_binary": lambda torch, a: lambda: ((a.logits > 0) == (a.targets > 0.5)).sum(),
    "l2_norm": lambda torch, a: partial(torch.linalg.vector_norm, a.x),
    "clip_grad_norm": clip_grad_norm,
    "first_nonfinite": lambda torch, a: lambda: a.x.isfinite().all(),
}

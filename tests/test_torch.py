"""fastnn inside PyTorch, with the native library where there is one, and without it."""

import copy
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from readme import example

import fastnn as fnn

torch = pytest.importorskip("torch", reason="needs PyTorch")
ft = importlib.import_module("fastnn.torch")
F = torch.nn.functional
ops = torch.ops.fastnn
DTYPES = [torch.float32, torch.float64]
ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1),  # PyTorch's gradient has a float32 1/6
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def close(actual, expected, scale=1.0):
    eps = torch.finfo(expected.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=100 * eps, atol=100 * eps * scale)


def leaf(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def compare(ours, theirs, *inputs):
    """Values and gradients of two functions, with a random gradient of the result."""
    results = []
    for function in (ours, theirs):
        copies = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        y = function(*copies)
        wanted = [x for x in copies if x.requires_grad]
        dy = torch.linspace(-1, 1, max(y.numel(), 1), dtype=y.dtype)[: y.numel()].view(y.shape)
        results.append([y, *torch.autograd.grad(y, wanted, dy)])
    for actual, expected in zip(*results, strict=True):
        close(actual, expected, scale=10)


# ---- operators -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_pytorchs(name, dtype):
    compare(getattr(ops, name), ACTIVATIONS[name], leaf(7, 5, dtype=dtype))


def test_activations_take_numbers():
    x = leaf(40)
    compare(lambda x: ops.leaky_relu(x, 0.3), lambda x: F.leaky_relu(x, 0.3), x)
    compare(lambda x: ops.softplus(x, beta=3), lambda x: F.softplus(x, 3), x)
    compare(lambda x: ops.softplus(x, 3.0, 1.5), lambda x: F.softplus(x, 3, 1.5), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 8), (8,), (2, 3, 8), (0, 8), (2, 0, 8)])
def test_linear_is_pytorchs(shape, dtype):
    x, w, b = leaf(*shape, dtype=dtype), leaf(5, 8, dtype=dtype), leaf(5, dtype=dtype)
    compare(ops.linear, F.linear, x, w, b)
    compare(ops.linear, F.linear, x, w)


@pytest.mark.parametrize("sizes", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 1, 1)])
def test_linear_of_any_size(sizes):
    n, k, m = sizes
    compare(ops.linear, F.linear, leaf(n, k), leaf(m, k), leaf(m))


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if "softmax" not in n])
def test_linear_with_an_activation(name):
    def theirs(*arguments):
        return ACTIVATIONS[name](F.linear(*arguments))

    x, w, b = leaf(6, 8), leaf(5, 8), leaf(5)
    compare(lambda *arguments: ops.linear(*arguments, name), theirs, x, w, b)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_is_pytorchs(dtype, reduction):
    logits, weight = leaf(9, 4, dtype=dtype), torch.rand(4, dtype=dtype)
    for target in (
        torch.tensor([0, 1, 2, 3, 3, -100, 1, 0, 2]),
        torch.rand(9, 4, dtype=dtype).softmax(1),
    ):
        compare(
            lambda x, t=target: ops.cross_entropy(x, t, weight, reduction, label_smoothing=0.1),
            lambda x, t=target: F.cross_entropy(
                x, t, weight, reduction=reduction, label_smoothing=0.1
            ),
            logits,
        )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_other_integer_types(dtype):
    logits, target = torch.randn(6, 4), torch.tensor([0, 3, 1, 2, 2, 0])
    expected = F.cross_entropy(logits, target)
    close(ops.cross_entropy(logits, target.to(dtype)), expected)
    close(
        ops.cross_entropy(logits[::2], target.to(dtype)[::2]),
        F.cross_entropy(logits[::2], target[::2]),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 3), (2, 5, 3, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_pytorchs(shape, training, dtype):
    x, gamma, beta = (leaf(*s, dtype=dtype) for s in (shape, (5,), (5,)))
    running = [(torch.randn(5, dtype=dtype), torch.rand(5, dtype=dtype) + 0.5) for _ in "ab"]
    for mean, var in running[1:]:
        mean.copy_(running[0][0])
        var.copy_(running[0][1])

    compare(
        lambda *a: ops.batch_norm(*a, *running[0], training, 0.3, 1e-3)[0],
        lambda x, g, b: F.batch_norm(x, *running[1], g, b, training, 0.3, 1e-3),
        x,
        gamma,
        beta,
    )
    for actual, expected in zip(*running, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 5), (2, 3, 5), (5,), (0, 5)])
def test_layer_norm_is_pytorchs(shape, dtype):
    x, gamma, beta = (leaf(*s, dtype=dtype) for s in (shape, (5,), (5,)))
    compare(
        lambda x, g, b: ops.layer_norm(x, g, b, 1e-3)[0],
        lambda x, g, b: F.layer_norm(x, (5,), g, b, 1e-3),
        x,
        gamma,
        beta,
    )
    compare(lambda x: ops.layer_norm(x, None, None)[0], lambda x: F.layer_norm(x, (5,)), x)


def batch_norm_of_torch(x):
    return F.batch_norm(x, None, None, training=True)


LAYOUTS = {
    "transposed": lambda x: x.t(),
    "reversed": lambda x: x.flip(0).t().flip(0).t(),
    "strided": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_layout(layout):
    x = LAYOUTS[layout](torch.randn(6, 6)).detach().requires_grad_()
    w = LAYOUTS[layout](torch.randn(6, 6)).detach().requires_grad_()
    assert layout == "reversed" or not x.is_contiguous()
    pairs = [
        (ops.tanh, torch.tanh),
        (lambda x: ops.linear(x, w), lambda x: F.linear(x, w)),
        (lambda x: ops.layer_norm(x, None, None)[0], lambda x: F.layer_norm(x, (6,))),
        (lambda x: ops.batch_norm(x, None, None, None, None, True)[0], batch_norm_of_torch),
    ]
    for ours, theirs in pairs[: 3 if layout == "expanded" else 4]:  # its variance would be 0
        y, expected = ours(x), theirs(x)
        close(y, expected)
        dy = LAYOUTS[layout](torch.randn(6, 6))
        close(torch.autograd.grad(y, x, dy)[0], torch.autograd.grad(expected, x, dy)[0], scale=10)


def test_running_statistics_of_any_layout():
    running = torch.zeros(5, 2)[:, 0], torch.ones(5, 2)[:, 0]
    plain = torch.zeros(5), torch.ones(5)
    x = torch.randn(8, 5)
    ops.batch_norm(x, None, None, *running, True)
    ops.batch_norm(x, None, None, *plain, True)
    torch.testing.assert_close(running, plain, rtol=0, atol=0)


def test_functions_are_the_operators():
    assert set(ft.functional.__all__) < set(dir(ft.functional))
    x, w = torch.randn(4, 3), leaf(2, 3)
    compare(ft.functional.linear, ops.linear, x, w)
    assert "activation=None" in ft.functional.linear.__doc__
    with torch.no_grad():
        assert torch.equal(ft.functional.linear(x, w, activation="relu"), ops.linear(x, w).relu())


def test_a_tensor_may_be_used_twice():
    def twice(f):
        return lambda x: f(x) * x + f(f(x)) + x

    compare(twice(ops.tanh), twice(torch.tanh), leaf(5, 5))
    compare(lambda x: ops.linear(x, x), lambda x: F.linear(x, x), leaf(5, 5))


def test_a_graph_may_be_walked_twice():
    logits = leaf(5, 3)
    loss = ops.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    first = torch.autograd.grad(loss, logits, torch.tensor(3.0), retain_graph=True)[0]
    close(torch.autograd.grad(loss, logits, torch.tensor(6.0))[0], 2 * first)


def test_gradients_only_where_needed():
    x, w = torch.randn(4, 3), leaf(2, 3)
    ops.linear(x, w).sum().backward()
    assert x.grad is None
    frozen = torch.randn(2, 3)
    y = ops.linear(x, frozen, torch.zeros(2))
    assert not y.requires_grad
    with torch.no_grad():
        assert not ops.linear(x, w).requires_grad


# ---- refusals --------------------------------------------------------------------------------

REFUSED = {
    "bfloat16": lambda: ops.relu(torch.ones(3, dtype=torch.bfloat16)),
    "int64": lambda: ops.tanh(torch.ones(3, dtype=torch.int64)),
    "float64": lambda: ops.linear(torch.ones(2, 3), torch.ones(4, 3, dtype=torch.float64)),
    r"got .*\(4, [23]\)": lambda: ops.layer_norm_backward(
        torch.ones(4, 3), torch.ones(4, 2), None, torch.ones(4), torch.ones(4)
    ),
    r"\(4, 3\)": lambda: ops.linear(torch.ones(4, 3), torch.ones(2, 5)),
    r"got .*\(4,\)": lambda: ops.batch_norm(
        torch.ones(2, 3), torch.ones(4), None, None, None, True
    ),
    "label 3 at row 1; valid 0..2": lambda: ops.cross_entropy(
        torch.ones(2, 3), torch.tensor([0, 3])
    ),
    "beta must be > 0, got -1": lambda: ops.softplus(torch.ones(3), -1.0),
    "'average'": lambda: ops.cross_entropy(
        torch.ones(2, 3), torch.zeros(2).long(), None, "average"
    ),
    "'swish'": lambda: ops.linear(torch.ones(2, 3), torch.ones(2, 3), None, "swish"),
    "more than 1 value": lambda: ops.batch_norm(torch.ones(1, 3), None, None, None, None, True),
    "label_smoothing": lambda: ops.cross_entropy(
        torch.ones(2, 3), torch.zeros(2).long(), label_smoothing=2.0
    ),
    "has no gradient": lambda: ops.relu_backward(leaf(3), leaf(3)),
    "no gradient of target": lambda: ops.cross_entropy(torch.ones(2, 3), leaf(2, 3)),
}


@pytest.mark.parametrize("text", REFUSED)
def test_errors_say_what_is_wrong(text):
    with pytest.raises(RuntimeError, match=text):
        REFUSED[text]()


def test_after_an_error_nothing_is_changed():
    params, grads = [torch.ones(3), torch.ones(2)], [torch.ones(3), torch.ones(3)]
    with pytest.raises(RuntimeError, match="sgd_step: grad"), torch.no_grad():
        ops.sgd_step(params, grads, [], 0.1)
    assert all((p == 1).all() for p in params)


def test_second_derivatives_are_refused():
    x, target = leaf(4, 3), torch.zeros(4, dtype=torch.int64)
    for y in (ops.tanh(x), ops.linear(x, x), ops.cross_entropy(x, target)):
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(y.sum(), x, create_graph=True)


def test_changes_in_place_are_seen_by_autograd():
    x, w = torch.randn(4, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    loss = ops.linear(x, w).sum()
    with torch.no_grad():
        ops.sgd_step([w], [torch.ones(2, 3)], [], 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    mean = torch.zeros(3)
    for batch_norm in (ops.batch_norm, ft.functional.batch_norm):
        for batch in (x, x.detach()):
            before = mean._version
            batch_norm(batch, None, None, mean, torch.ones(3), True)
            assert mean._version == before + 1


def test_inference_mode():
    x, target = torch.randn(4, 6), torch.zeros(4, dtype=torch.int64)
    model = ft.convert(network())
    with torch.inference_mode():
        y = model(x)
        assert y.is_inference()
        close(ft.nn.CrossEntropyLoss()(y, target), F.cross_entropy(y, target))
        ft.convert(network())(x)  # a model made here


# ---- layers ----------------------------------------------------------------------------------

LAYERS = [
    ("Linear", (6, 4), (5, 6)),
    ("BatchNorm1d", (6,), (5, 6)),
    ("BatchNorm1d", (6, 1e-3, None), (5, 6, 3)),
    ("BatchNorm1d", (6, 1e-3, 0.2, False), (5, 6)),
    ("BatchNorm1d", (6, 1e-3, 0.2, True, False), (5, 6)),
    ("BatchNorm2d", (6,), (5, 6, 2, 3)),
    ("BatchNorm3d", (6,), (5, 6, 2, 3, 2)),
    ("LayerNorm", (6,), (5, 6)),
    ("LayerNorm", ((5, 6),), (2, 5, 6)),
    ("LayerNorm", (6, 1e-3, False), (5, 6)),
    ("ReLU", (), (5, 6)),
    ("LeakyReLU", (0.2,), (5, 6)),
    ("Sigmoid", (), (5, 6)),
    ("Hardsigmoid", (), (5, 6)),
    ("Tanh", (), (5, 6)),
    ("GELU", (), (5, 6)),
    ("GELU", ("tanh",), (5, 6)),
    ("SiLU", (), (5, 6)),
    ("Softplus", (2, 3), (5, 6)),
    ("Softmax", (1,), (5, 6)),
    ("Softmax", (0,), (5, 6, 2)),
    ("LogSoftmax", (-2,), (5, 6, 2)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS)
def test_layers_are_pytorchs(name, arguments, shape):
    theirs = getattr(torch.nn, name)(*arguments)
    ours = getattr(ft.nn, name)(*arguments)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    for training in (True, True, False):
        theirs.train(training)
        ours.train(training)
        compare(ours, theirs, leaf(*shape))
    theirs.load_state_dict(ours.state_dict())
    for parameter in theirs.parameters():
        assert parameter.requires_grad


def test_the_same_initial_values():
    torch.manual_seed(3)
    theirs = torch.nn.Linear(5, 4)
    torch.manual_seed(3)
    assert torch.equal(ft.nn.Linear(5, 4).weight, theirs.weight)


def test_linear_layer_with_activation():
    layer = ft.nn.Linear(5, 4, activation="relu")
    assert "activation='relu'" in repr(layer)
    x = torch.randn(3, 5)
    close(layer(x), F.linear(x, layer.weight, layer.bias).relu())
    assert copy.deepcopy(layer).activation == "relu"


@pytest.mark.parametrize("shape", [(7, 4), (4,), (3, 4, 2)])
def test_cross_entropy_loss_is_pytorchs(shape):
    target = torch.randint(4, (shape[0], *shape[2:]) if len(shape) > 1 else ())
    keywords = {"label_smoothing": 0.1, "weight": torch.rand(4)}
    ours, theirs = ft.nn.CrossEntropyLoss(**keywords), torch.nn.CrossEntropyLoss(**keywords)
    compare(lambda x: ours(x, target), lambda x: theirs(x, target), leaf(*shape))


def network():
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.GELU()),
        torch.nn.Linear(8, 3),
    )


def test_convert_shares_everything():
    model = network()
    before = {name: id(value) for name, value in model.named_parameters()}
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(4, 6)
    expected = copy.deepcopy(model)(x)
    assert ft.convert(model) is model
    assert [type(layer).__module__ for layer in model.modules()].count("fastnn.torch.nn") == 7
    assert {name: id(value) for name, value in model.named_parameters()} == before
    seen.clear()
    close(model(x), expected)
    assert seen == [1]
    ft.convert(model)  # again: nothing to do
    close(copy.deepcopy(model).eval()(x), model.eval()(x))


def test_convert_leaves_what_it_does_not_know():
    class Own(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(Own(2, 2), torch.nn.ReLU(inplace=True), torch.nn.Softmax())
    ft.convert(model)
    assert [type(layer) for layer in model] == [Own, torch.nn.ReLU, torch.nn.Softmax]
    assert type(ft.convert(torch.nn.Tanh())) is ft.nn.Tanh


def test_layers_in_float64_pass_gradcheck():
    model = ft.convert(network()).double()
    assert torch.autograd.gradcheck(model, leaf(5, 6, dtype=torch.float64))


def test_autocast_computes_in_float32():
    model = ft.convert(network())
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(4, 6).bfloat16())
        loss = ft.nn.CrossEntropyLoss()(y, torch.zeros(4).long())
    assert y.dtype == loss.dtype == torch.float32
    loss.backward()
    assert model[0].weight.grad.dtype == torch.float32


# ---- torch.compile, several processes --------------------------------------------------------


def test_compile_takes_a_whole_training_step_as_one_graph():
    model, loss_of = ft.convert(network()), ft.nn.CrossEntropyLoss()
    plain = copy.deepcopy(model)
    x, target = torch.randn(5, 6), torch.randint(3, (5,))
    compiled = torch.compile(
        lambda x: loss_of(model(x), target), fullgraph=True, backend="aot_eager"
    )
    expected = loss_of(plain(x), target)
    expected.backward()
    loss = compiled(x)
    loss.backward()
    close(loss, expected)
    for (name, actual), (_, wanted) in zip(
        model.named_parameters(), plain.named_parameters(), strict=True
    ):
        close(actual.grad, wanted.grad, scale=10), name
    for actual, wanted in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_compile_of_an_update():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def update(p, g):
        ops.sgd_step([p], [g], [], 0.5)
        return p * 2

    p, g = torch.ones(4), torch.ones(4)
    assert torch.equal(update(p, g), torch.ones(4))
    assert torch.equal(p, torch.full((4,), 0.5))


def train(rank, path, ranks):
    """One of the processes of the test below; rank -1 trains alone."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        ft.nn.Linear(6, 8, activation="tanh"), ft.nn.LayerNorm(8), ft.nn.Linear(8, 3)
    )
    x, target = torch.randn(8, 6), torch.randint(3, (8,))
    if rank >= 0:
        store = torch.distributed.FileStore(f"{path}/store", ranks)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        model = torch.nn.parallel.DistributedDataParallel(model)
        x, target = x[rank::ranks], target[rank::ranks]
    optimizer = ft.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        ft.nn.CrossEntropyLoss()(model(x), target).backward()
        optimizer.step()
    if rank >= 0:
        torch.distributed.destroy_process_group()
        model = model.module
    torch.save(model.state_dict(), f"{path}/{rank}.pt")


def test_two_processes_train_as_one(tmp_path):
    torch.multiprocessing.spawn(train, (str(tmp_path), 2), nprocs=2)
    train(-1, tmp_path, 1)
    alone, first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (-1, 0, 1))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6)


# ---- optimizers ------------------------------------------------------------------------------

OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.1, "amsgrad": True, "betas": (0.8, 0.95)}),
    ("AdamW", {"weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
]


class Problem:
    """Parameters, one without a gradient at times, and an optimizer."""

    def __init__(self, module, name, options):
        generator = torch.Generator().manual_seed(5)
        shapes = (4, 3), (3,), (2, 5)
        params = [torch.randn(s, generator=generator) for s in shapes]
        params[2] = params[2].t()
        self.params = [torch.nn.Parameter(p) for p in params]
        groups = [{"params": self.params[:1]}, {"params": self.params[1:], "lr": 0.05}]
        self.optimizer = getattr(module, name)(groups, lr=0.02, **options)

    def run(self, steps):
        for i in steps:
            generator = torch.Generator().manual_seed(i)
            for j, p in enumerate(self.params):
                g = torch.randn(p.shape, generator=generator)
                p.grad = None if j == 1 and i % 3 == 0 else g
            self.optimizer.step()


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_optimizers_are_pytorchs(name, options):
    ours, theirs = (Problem(module, name, options) for module in (ft.optim, torch.optim))
    for problem in (ours, theirs):
        problem.run(range(10))
    for actual, expected in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
@pytest.mark.parametrize("ours_first", [True, False])
def test_optimizer_states_go_both_ways(name, options, ours_first):
    unbroken, first, second = (
        Problem(module, name, options) for module in (torch.optim, ft.optim, torch.optim)
    )
    if not ours_first:
        first, second = second, first
    unbroken.run(range(10))
    first.run(range(5))
    second.params[0].data.copy_(first.params[0].data)
    for to, since in zip(second.params, first.params, strict=True):
        to.data.copy_(since.data)
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.run(range(5, 10))
    for actual, expected in zip(second.params, unbroken.params, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_optimizers_run_closures_schedules_and_hooks():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.optim.SGD([p], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum() / 2
        loss.backward()
        return loss

    assert optimizer.step(closure) == 1.5
    assert torch.equal(p, torch.zeros(3))
    schedule.step()
    p.data.fill_(1)
    optimizer.step(closure)
    assert torch.equal(p, torch.full((3,), 0.5))
    assert calls == [1, 1]


@pytest.mark.parametrize("option", ["fused", "capturable", "differentiable"])
def test_options_that_are_not_there_are_refused(option):
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=f"Adam: {option}=True is not supported"):
        ft.optim.Adam([p], **{option: True})
    state = torch.optim.Adam([p]).state_dict()
    state["param_groups"][0][option] = True
    with pytest.raises(ValueError, match=f"Adam: {option}=True is not supported"):
        ft.optim.Adam([p]).load_state_dict(state)


def test_parameters_that_cannot_be_updated_are_refused():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"float32 or float64.* got bfloat16"):
        ft.optim.Adam([p]).step()
    q = torch.nn.Parameter(torch.ones(3))
    q.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        ft.optim.SGD([q], 0.1).step()


def test_an_optimizer_without_gradients_does_nothing():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.optim.Adam([p])
    optimizer.step()
    assert optimizer.state_dict()["state"] == {}


# ---- what is in use --------------------------------------------------------------------------


def test_show_config_says_which_operators_run():
    facts = fnn.show_config("dicts")["torch"]
    assert facts["operators"] == ("native" if ft.native else "python")
    assert facts["why_not_native"] == ft.why_not_native
    code = "import fastnn, sys; print(fastnn.show_config('dicts')['torch'], 'torch' in sys.modules)"
    printed = run_python("-c", code)
    assert "'operators': 'not imported'" in printed
    assert printed.strip().endswith("False")


def run_python(*arguments, **environment):
    paths = [str(Path(fnn.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not ft.native, reason="what runs here are the Python functions")
def test_the_python_functions_pass_these_tests():
    run_python(*("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__), FASTNN_TORCH="python")


def test_the_example_in_the_readme():
    exec(compile(example("### PyTorch"), "README.md", "exec"), {"__name__": "example"})

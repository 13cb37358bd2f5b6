"""PyTorch's own checks and inputs on `torch.ops.fastnn`.

`torch.library.opcheck` on every operator, `gradcheck`, and the sample inputs of PyTorch's operator
database: values and gradients next to PyTorch's.
"""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("expecttest", reason="PyTorch's tests need expecttest")

import fastnn.torch as ft  # noqa: E402

F = torch.nn.functional
ops = torch.ops.fastnn


def tensor(*shape, dtype=torch.float64, grad=False):
    return torch.rand(shape, dtype=dtype).add_(0.5).requires_grad_(grad)


# ---- opcheck and gradcheck -------------------------------------------------------------------


def calls(dtype=torch.float64, grad=True):
    """Arguments for every operator; those with a gradient in tensors that require one."""

    def t(*shape, grad=grad):
        return tensor(*shape, dtype=dtype, grad=grad)

    def plain(*shape):
        return t(*shape, grad=False)

    labels = torch.tensor([0, 2, 1, -100])
    unary = [*ft.functional.__all__]
    for name in ("linear", "cross_entropy", "batch_norm", "layer_norm"):
        unary.remove(name)
    for name in unary:
        yield name, (t(3, 4),)
        yield f"{name}_backward", (plain(3, 4), plain(3, 4))
    yield "leaky_relu", (t(5), 0.3)
    yield "softplus", (t(5), 2.0, 3.0)
    yield "linear", (t(3, 4), t(2, 4), t(2))
    yield "linear", (t(2, 3, 4), t(2, 4), None, "gelu")
    yield "linear_preactivation", (plain(3, 4), plain(2, 4), plain(2), "tanh")
    yield "linear_backward", (plain(3, 2), plain(3, 4), plain(2, 4), True, False, True)
    for reduction in ("mean", "sum", "none"):
        yield "cross_entropy", (t(4, 3), labels, plain(3), reduction, -100, 0.1)
        yield "softmax_cross_entropy", (plain(4, 3), plain(4, 3).softmax(1), None, reduction)
    for training in (True, False):
        running = plain(3), plain(3)
        yield "batch_norm", (t(5, 3, 2), t(3), t(3), *running, training, 0.2, 1e-3)
        yield "batch_norm_backward", (plain(5, 3), plain(5, 3), plain(3), *running, training)
    yield "batch_norm", (t(5, 3), None, None, None, None, True)
    yield "layer_norm", (t(2, 5, 3), t(3), t(3))
    yield "layer_norm_backward", (plain(5, 3), plain(5, 3), plain(3), plain(5), plain(5))

    def lists(count):
        return [[plain(3, 2), plain(4)] for _ in range(count)]

    yield "sgd_step", (*lists(3), 0.1, 0.9)
    yield "adagrad_step", (*lists(3), 0.1)
    yield "rmsprop_step", (*lists(5), 0.1, 0.9, 1e-8, 0.9, True)
    yield "adam_step", (*lists(5), 3, 0.1)
    yield "adam_step", (*lists(4), [], 1, 0.1)


def test_every_operator_is_called_here():
    registered = torch._C._dispatch_get_all_op_names()
    names = {name.split(".")[0] for name in registered if name.startswith("fastnn::")}
    assert {f"fastnn::{name}" for name, _ in calls()} == names


NO_GRADIENT = ("_backward", "_step", "linear_preactivation", "softmax_cross_entropy")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(dtype):
    for name, arguments in calls(dtype):
        checks = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
        if not name.endswith(NO_GRADIENT):
            checks.append("test_autograd_registration")
        torch.library.opcheck(getattr(ops, name).default, arguments, test_utils=checks)
        bare = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        torch.library.opcheck(getattr(ops, name).plain, bare, test_utils=checks[:3])


def test_gradcheck():
    for name, arguments in calls():
        if name.endswith(NO_GRADIENT):
            continue
        op = getattr(ops, name).default
        if name.endswith("norm"):  # mean and rstd have no gradient

            def op(*a, op=op):
                return op(*a)[0]

        assert torch.autograd.gradcheck(op, arguments), name


# ---- PyTorch's operator database -------------------------------------------------------------


def mm(a, b):
    return ops.linear(a, b.mT)


def addmm(bias, a, b, **options):
    return ops.linear(a, b.mT, bias.expand(b.shape[1]))


def batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    return ops.batch_norm(x, weight, bias, mean, var, training, momentum, eps)[0]


def native_batch_norm(x, weight, bias, *others):
    mean, var, training, momentum, eps = (None,) * (5 - len(others)) + others
    y, mean, rstd = ops.batch_norm(x, weight, bias, mean, var, training, momentum, eps)
    return (y, mean, rstd) if training else (y, mean[:0], rstd[:0])


def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
    return native_layer_norm(x, shape, weight, bias, eps)[0]


def native_layer_norm(x, shape, weight, bias, eps):
    flat = [None if p is None else p.flatten() for p in (weight, bias)]
    y, mean, rstd = ops.layer_norm(x.flatten(-len(shape)), *flat, eps)
    ones = (1,) * len(shape)
    return y.view(x.shape), mean.view(*mean.shape, *ones), rstd.view(*rstd.shape, *ones)


def cross_entropy(x, target, weight=None, **options):
    return ops.cross_entropy(x, target, weight, **options)


def nll_loss(x, target, **options):
    """PyTorch's for `THEIRS`: fastnn has it behind log_softmax only."""
    return F.nll_loss(F.log_softmax(x, -1), target, **options)


def gelu(x, approximate="none"):
    return ops.gelu_tanh(x) if approximate == "tanh" else ops.gelu(x)


def along(function):
    def run(x, dim):
        return function(x) if x.dim() == 0 else function(x.movedim(dim, -1)).movedim(-1, dim)

    return run


def inplace_ignored(function):
    return lambda x, *numbers, inplace=False, **options: function(x, *numbers, **options)


OURS = {
    "mm": mm,
    "addmm": addmm,
    "nn.functional.linear": ops.linear,
    "nn.functional.cross_entropy": cross_entropy,
    "nn.functional.nll_loss": cross_entropy,
    "nn.functional.batch_norm": batch_norm,
    "native_batch_norm": native_batch_norm,
    "_native_batch_norm_legit": native_batch_norm,
    "nn.functional.layer_norm": layer_norm,
    "native_layer_norm": native_layer_norm,
    "nn.functional.relu": inplace_ignored(ops.relu),
    "nn.functional.leaky_relu": inplace_ignored(ops.leaky_relu),
    "nn.functional.hardsigmoid": inplace_ignored(ops.hard_sigmoid),
    "nn.functional.gelu": gelu,
    "nn.functional.silu": inplace_ignored(ops.silu),
    "nn.functional.softplus": ops.softplus,
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "softmax": along(ops.softmax),
    "log_softmax": along(ops.log_softmax),
}

THEIRS = {"nn.functional.nll_loss": nll_loss}

# Samples that are not run: operator, why not, and how to tell them.
DESELECTED = [
    ("addmm", "alpha or beta other than 1", lambda s: {*s.kwargs.values()} - {1}),
    ("addmm", "a bias for every row", lambda s: s.input.dim() > 1),
    ("softmax", "another dtype for the result", lambda s: "dtype" in s.kwargs),
    ("log_softmax", "another dtype for the result", lambda s: "dtype" in s.kwargs),
    ("nn.functional.cross_entropy", "more axes than (n, c)", lambda s: s.input.dim() > 2),
    (
        "nn.functional.cross_entropy",
        "a gradient of the target",
        lambda s: s.args[0].requires_grad,
    ),
    ("nn.functional.nll_loss", "more axes than (n, c)", lambda s: s.input.dim() > 2),
    ("nn.functional.nll_loss", "no examples' axis", lambda s: s.input.dim() < 2),
    ("nn.functional.batch_norm", "negative momentum", lambda s: s.kwargs.get("momentum", 0) < 0),
    ("native_batch_norm", "negative momentum", lambda s: s.args[-2] < 0),
    ("_native_batch_norm_legit", "negative momentum", lambda s: s.args[-2] < 0),
    ("nn.functional.batch_norm", "no channels' axis", lambda s: s.input.dim() < 2),
    ("nn.functional.layer_norm", "negative eps", lambda s: s.kwargs.get("eps", 1) < 0),
    ("native_layer_norm", "negative eps", lambda s: s.args[3] < 0),
]


def run(function, sample, dtype):
    """Results, and gradients of all that require one, computed in a type."""
    leaves = []

    def copied(value):
        if not isinstance(value, torch.Tensor):
            return value
        copy = value.detach().clone()
        if copy.is_floating_point():
            copy = copy.to(dtype)
        if value.requires_grad:
            leaves.append(copy.requires_grad_())
        return copy

    keywords = {name: copied(value) for name, value in sample.kwargs.items()}
    results = function(copied(sample.input), *map(copied, sample.args), **keywords)
    results = results if isinstance(results, tuple) else (results,)
    y = results[0]
    dy = torch.linspace(-1, 1, max(y.numel(), 1), dtype=dtype)[: y.numel()].view(y.shape)
    grads = torch.autograd.grad(y, leaves, dy, allow_unused=True)
    return [r.detach() for r in results] + [*grads]


# Next to PyTorch in float64, whose hardsigmoid has a gradient of float32's 1/6.
TOLERANCE = {
    torch.float32: {"rtol": 2e-6, "atol": 2e-5},
    torch.float64: {"rtol": 1e-7, "atol": 1e-9},
}


@pytest.mark.parametrize("name", OURS)
def test_samples_of_the_operator_database(name, record_property):
    from torch.testing._internal.common_methods_invocations import op_db

    deselected = [(why, tell) for op, why, tell in DESELECTED if op == name]
    count = dict.fromkeys([why for why, _ in deselected], 0)
    passed = 0
    for info in op_db:
        for dtype in (torch.float32, torch.float64):
            if info.name != name or not info.supports_dtype(dtype, "cpu"):
                continue
            for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
                whys = [why for why, tell in deselected if tell(sample)]
                if whys:
                    count[whys[0]] += 1
                    continue
                actual = run(OURS[name], sample, dtype)
                expected = run(THEIRS.get(name, info.op), sample, torch.float64)
                torch.testing.assert_close(
                    actual,
                    [
                        None if e is None else e.to(a.dtype)
                        for a, e in zip(actual, expected, strict=True)
                    ],
                    **TOLERANCE[dtype],
                    equal_nan=True,
                    msg=lambda text, sample=sample: f"{text}\n{sample}",
                )
                passed += 1
    record_property("passed", passed)
    record_property("deselected", count)
    assert passed > 0
    assert all(count.values()), "a reason that no sample has"


# ---- torch.compile ---------------------------------------------------------------------------


def test_compile_a_training_step_with_the_default_compiler():
    model = ft.convert(
        torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        )
    )
    x, target = tensor(5, 6, dtype=torch.float32), torch.tensor([0, 2, 1, 1, 0])
    loss_of = ft.nn.CrossEntropyLoss()
    loss_of(model(x), target).backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    torch.compile(lambda: loss_of(model(x), target), fullgraph=True)().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)

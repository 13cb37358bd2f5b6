import copy
import functools
import inspect
import itertools
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastnn as fnn
from fastnn import ops

DTYPES = {"float32": 2e-5, "float64": 1e-12}


def case(make, twin, *shape, spread=1.0):
    return make, twin, shape, spread


# Our layer, PyTorch's, the shape of an input and how far its values lie from 0.
CASES = {
    "linear": case(lambda: fnn.Linear(5, 3), lambda nn: nn.Linear(5, 3), 7, 5),
    "linear-no-bias": case(
        lambda: fnn.Linear(5, 3, bias=False), lambda nn: nn.Linear(5, 3, bias=False), 7, 5
    ),
    "linear-axes": case(lambda: fnn.Linear(5, 3), lambda nn: nn.Linear(5, 3), 2, 4, 5),
    "linear-one-row": case(lambda: fnn.Linear(5, 1), lambda nn: nn.Linear(5, 1), 1, 5),
    "batch-norm": case(lambda: fnn.BatchNorm(3), lambda nn: nn.BatchNorm1d(3), 8, 3),
    "batch-norm-axes": case(lambda: fnn.BatchNorm(3), lambda nn: nn.BatchNorm2d(3), 4, 3, 2, 5),
    "batch-norm-options": case(
        lambda: fnn.BatchNorm(3, eps=1e-2, momentum=0.3, affine=False),
        lambda nn: nn.BatchNorm1d(3, eps=1e-2, momentum=0.3, affine=False),
        *(8, 3),
    ),
    "layer-norm": case(lambda: fnn.LayerNorm(6), lambda nn: nn.LayerNorm(6), 4, 6),
    "layer-norm-axes": case(lambda: fnn.LayerNorm(6), lambda nn: nn.LayerNorm(6), 2, 3, 6),
    "layer-norm-options": case(
        lambda: fnn.LayerNorm(6, eps=1e-2, elementwise_affine=False),
        lambda nn: nn.LayerNorm(6, eps=1e-2, elementwise_affine=False),
        *(4, 6),
    ),
    "relu": case(lambda: fnn.ReLU(), lambda nn: nn.ReLU(), 4, 6),
    "leaky-relu": case(lambda: fnn.LeakyReLU(), lambda nn: nn.LeakyReLU(), 4, 6),
    "leaky-relu-steep": case(lambda: fnn.LeakyReLU(0.3), lambda nn: nn.LeakyReLU(0.3), 4, 6),
    "leaky-relu-negative": case(lambda: fnn.LeakyReLU(-0.3), lambda nn: nn.LeakyReLU(-0.3), 4, 6),
    "sigmoid": case(lambda: fnn.Sigmoid(), lambda nn: nn.Sigmoid(), 4, 6),
    "hard-sigmoid": case(lambda: fnn.HardSigmoid(), lambda nn: nn.Hardsigmoid(), 4, 6, spread=3.0),
    "tanh": case(lambda: fnn.Tanh(), lambda nn: nn.Tanh(), 4, 6),
    "gelu": case(lambda: fnn.GELU(), lambda nn: nn.GELU(), 4, 6),
    "gelu-tanh": case(lambda: fnn.GELU("tanh"), lambda nn: nn.GELU(approximate="tanh"), 4, 6),
    "silu": case(lambda: fnn.SiLU(), lambda nn: nn.SiLU(), 4, 6),
    "softplus": case(lambda: fnn.Softplus(), lambda nn: nn.Softplus(), 4, 6),
    "softplus-options": case(
        lambda: fnn.Softplus(2.0, 3.0), lambda nn: nn.Softplus(2.0, 3.0), 4, 6, spread=3.0
    ),
    "softmax": case(lambda: fnn.Softmax(), lambda nn: nn.Softmax(-1), 2, 3, 6),
    "log-softmax": case(lambda: fnn.LogSoftmax(), lambda nn: nn.LogSoftmax(-1), 2, 3, 6),
    "flatten": case(lambda: fnn.Flatten(), lambda nn: nn.Flatten(), 2, 3, 4),
    "sequential": case(
        lambda: fnn.Sequential(
            fnn.Linear(5, 4), fnn.BatchNorm(4), fnn.ReLU(), fnn.Linear(4, 3), fnn.Tanh()
        ),
        lambda nn: nn.Sequential(
            nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh()
        ),
        *(8, 5),
    ),
}
ALL = [pytest.param(*values, id=name) for name, values in CASES.items()]


def inputs(shape, spread=1.0, dtype="float64", seed=0):
    return (spread * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def built(make, shape, dtype="float64"):
    """A layer whose parameters and running statistics are none of the trivial values."""
    layer = make()
    layer.build(shape, dtype, 11)
    rng = np.random.default_rng(12)
    for _, part in layer.named_layers():
        for array in (*part.params.values(), *part.buffers.values()):
            array += rng.uniform(0.1, 0.6, array.shape).astype(dtype)
    return layer


def gradients(layer):
    return {
        prefix + name: array
        for prefix, part in layer.named_layers()
        for name, array in part.grads.items()
    }


# ---- values and gradients --------------------------------------------------------------------


def twin_of(torch, layer, make, dtype):
    """PyTorch's layer with our values; its names are ours without 'layers.'."""
    twin = make(torch.nn).to(getattr(torch, dtype))
    linear = [name for name, part in layer.named_layers() if isinstance(part, fnn.Linear)]
    state = {
        name.replace("layers.", ""): torch.tensor(
            array.T if name.endswith("weight") and name[: -len("weight")] in linear else array
        )
        for name, array in layer.state_dict().items()
    }
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return twin


def of_twin(twin, attribute):
    """Arrays of PyTorch's layer in our layout, by our names."""
    linear = {
        f"{name}.weight".lstrip(".")
        for name, part in twin.named_modules()
        if type(part).__name__ == "Linear"
    }
    sequential = type(twin).__name__ == "Sequential"
    return {
        "layers." * sequential + name: (array.T if name in linear else array).detach().numpy()
        for name, array in attribute(twin)
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "twin", "shape", "spread"), ALL)
def test_matches_torch(make, twin, shape, spread, training, dtype):
    torch = pytest.importorskip("torch")
    layer, tolerance = built(make, shape, dtype), DTYPES[dtype]
    if isinstance(layer, fnn.HardSigmoid):
        tolerance = max(tolerance, 1e-7)  # PyTorch's 1/6 is a float32
    theirs = twin_of(torch, layer, twin, dtype).train(training)
    x, close = inputs(shape, spread, dtype), functools.partial(assert_allclose, rtol=tolerance)
    x_theirs = torch.tensor(x, requires_grad=True)
    y_theirs = theirs(x_theirs)
    dy = inputs(y_theirs.shape, dtype=dtype, seed=1)
    y_theirs.backward(torch.tensor(dy))

    y, backprop = layer.forward(x, training)
    dx = backprop(dy)
    assert y.dtype == dx.dtype == dtype
    close(y, y_theirs.detach().numpy(), atol=tolerance)
    close(dx, x_theirs.grad.numpy(), atol=tolerance)
    expected = of_twin(theirs, lambda t: [(n, p.grad) for n, p in t.named_parameters()])
    assert gradients(layer).keys() == expected.keys()
    for name, grad in gradients(layer).items():
        close(grad, expected[name], atol=tolerance, err_msg=name)
    running = of_twin(theirs, lambda t: [b for b in t.named_buffers() if b[1].ndim])
    for name, value in running.items():
        close(layer.state_dict()[name], value, err_msg=name)
    assert (len(running) > 0) == any(isinstance(p, fnn.BatchNorm) for _, p in layer.named_layers())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "twin", "shape", "spread"), ALL)
def test_gradient_is_the_slope(make, twin, shape, spread, training):
    """Central differences of sum(y * dy) by the input and by every parameter."""
    layer, x = built(make, shape), inputs(shape, spread)
    running = copy.deepcopy([part.buffers for _, part in layer.named_layers()])
    y, backprop = layer.forward(x, training)
    dy = inputs(y.shape, seed=1)
    found = {"x": backprop(dy), **gradients(layer)}

    def value():
        for (_, part), buffers in zip(layer.named_layers(), running, strict=True):
            part.buffers = copy.deepcopy(buffers)
        return (layer.forward(x, training)[0] * dy).sum()

    places = {"x": x} | {
        prefix + name: part.params[name]
        for prefix, part in layer.named_layers()
        for name in part.params
    }
    assert found.keys() == places.keys()
    for name, array in places.items():
        slope = np.empty(array.shape)
        for i in np.ndindex(array.shape):
            before, step = array[i], 1e-6
            array[i] = before + step
            above = value()
            array[i] = before - step
            below = value()
            array[i] = before
            slope[i] = (above - below) / (2 * step)
        shifted_away = training and name == "layers.0.bias"  # by the batch norm behind it
        assert (np.abs(slope).max() > 1e-3) != shifted_away, name
        assert_allclose(found[name], slope, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("make", "twin", "shape", "spread"), ALL)
def test_takes_a_batch_of_none(make, twin, shape, spread):
    layer = built(make, shape)
    state = {n: a.copy() for n, a in layer.state_dict().items()}
    y, backprop = layer.forward(np.empty((0, *shape[1:])))
    assert y.shape == (0, *layer.forward(inputs(shape))[0].shape[1:])
    dx = backprop(np.empty(y.shape))
    assert dx.shape == (0, *shape[1:])
    for name, grad in gradients(layer).items():
        assert not grad.any(), name
    for name, array in layer.state_dict().items():
        assert_array_equal(array, state[name])


SURROUNDINGS = {
    "alone": lambda layer: layer,
    "chain": lambda layer: fnn.Sequential(layer),
    "passed-through": lambda layer: fnn.Sequential(layer, fnn.Dropout(0.5), fnn.Flatten()),
    "nested": lambda layer: fnn.Sequential(fnn.Sequential(layer), fnn.Sequential(fnn.Flatten())),
    "before-nested": lambda layer: fnn.Sequential(layer, fnn.Sequential(fnn.Flatten())),
    "behind": lambda layer: fnn.Sequential(fnn.Sequential(fnn.Tanh()), layer),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("surround", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize(("make", "twin", "shape", "spread"), ALL)
def test_leaves_the_callers_arrays_alone(make, twin, shape, spread, surround, training):
    model, x = built(lambda: surround(make()), shape), inputs(shape, spread)
    x_before = x.copy()
    y, backprop = model.forward(x, training)
    dy = inputs(y.shape, seed=1)
    y_before, dy_before = y.copy(), dy.copy()
    first = backprop(dy).copy()
    assert_array_equal(x, x_before)
    assert_array_equal(y, y_before)
    assert_array_equal(dy, dy_before)
    assert_array_equal(backprop(dy), first)


@pytest.mark.parametrize(("make", "twin", "shape", "spread"), ALL)
def test_takes_strided_arrays(make, twin, shape, spread):
    """A view with holes, reversed, gives the bits of its copy."""
    wide = inputs((*shape[:-1], 2 * shape[-1]), spread)
    x = wide[..., ::-2]
    assert not x.flags.c_contiguous
    results = []
    for array in (x, x.copy()):
        layer = built(make, shape)
        y, backprop = layer.forward(array, training=True)
        dy = inputs((*y.shape[:-1], 2 * y.shape[-1]), seed=1)[..., ::-2]
        dx = backprop(dy if array is x else dy.copy())
        results.append([y, dx, *gradients(layer).values()])
    for strided, contiguous in zip(*results, strict=True):
        assert_array_equal(strided, contiguous)


# ---- the gradients' places -------------------------------------------------------------------


def parametric():
    return [p for p in ALL if p.id.startswith(("linear", "batch-norm", "layer-norm", "sequential"))]


@pytest.mark.parametrize(("make", "twin", "shape", "spread"), parametric())
def test_writes_into_the_gradients_it_finds(make, twin, shape, spread):
    layer, x = built(make, shape), inputs(shape, spread)
    y, backprop = layer.forward(x, training=True)
    backprop(inputs(y.shape, seed=1))
    fresh = {name: array.copy() for name, array in gradients(layer).items()}
    for _, part in layer.named_layers():
        part.grads = {name: np.full(array.shape, np.nan) for name, array in part.params.items()}
    places = gradients(layer)
    backprop(inputs(y.shape, seed=1))
    assert places.keys() == fresh.keys()
    assert all(gradients(layer)[name] is array for name, array in places.items())
    for name, array in places.items():
        assert_array_equal(array, fresh[name])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "twin", "shape", "spread"), ALL)
def test_spares_dx_when_nobody_needs_it(make, twin, shape, spread, training):
    layer, x = built(make, shape), inputs(shape, spread)
    y, backprop = layer.forward(x, training)
    assert backprop(inputs(y.shape, seed=1)).shape == shape
    wanted = copy.deepcopy(gradients(layer))
    for _, part in layer.named_layers():
        part.grads = {}
    layer.needs_input_grad = False
    assert backprop(inputs(y.shape, seed=1)) is None
    assert gradients(layer).keys() == wanted.keys()
    for name, array in gradients(layer).items():
        assert_array_equal(array, wanted[name])


def test_a_chain_spares_only_the_layers_up_to_the_first_with_parameters(calls):
    model = fnn.Sequential(fnn.Tanh(), fnn.Flatten(), fnn.Linear(4, 3), fnn.Linear(3, 2))
    model.needs_input_grad = False
    assert [layer.needs_input_grad for layer in model] == [False, False, False, True]
    _, backprop = model.forward(inputs((6, 4)), training=True)
    calls.clear()
    assert backprop(inputs((6, 2))) is None
    assert [name for name, *_ in calls] == [
        *("matmul", "matmul", "column_sum"),  # dx, dW and db of the last layer
        *("matmul", "column_sum"),
    ]
    model.needs_input_grad = True
    assert all(layer.needs_input_grad for layer in model)
    assert backprop(inputs((6, 2))).shape == (6, 4)


def test_refuses_a_gradient_of_another_shape():
    layer = built(lambda: fnn.Linear(3, 2), (4, 5, 3))
    _, backprop = layer.forward(inputs((4, 5, 3)))
    for shape in [(5, 4, 2), (20, 2), (4, 5, 3), (4, 5)]:
        with pytest.raises(fnn.ShapeError, match=r"Linear: dy must have shape \(4, 5, 2\), got"):
            backprop(inputs(shape))
    assert not layer.grads


# ---- fusion ----------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """Every call of an op while the test runs: its name, arguments, options and result."""
    seen = []

    def watch(name, op):
        def watched(*arguments, **options):
            result = op(*arguments, **options)
            seen.append((name, arguments, options, result))
            return result

        monkeypatch.setattr(ops, name, watched)

    for name in ops.__all__:
        watch(name, getattr(ops, name))
    return seen


ACTIVATIONS = {
    "relu": fnn.ReLU(),
    "leaky_relu": fnn.LeakyReLU(),
    "sigmoid": fnn.Sigmoid(),
    "hard_sigmoid": fnn.HardSigmoid(),
    "tanh": fnn.Tanh(),
    "gelu": fnn.GELU(),
    "gelu_tanh": fnn.GELU("tanh"),
    "silu": fnn.SiLU(),
    "softplus": fnn.Softplus(),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "activation"), ACTIVATIONS.items(), ids=ACTIVATIONS)
def test_linear_and_activation_are_one_op(name, activation, training, calls):
    model = fnn.Sequential(fnn.Linear(4, 3), activation)
    y, backprop = model.forward(inputs((5, 4)), training)
    [(op, _, options, _)] = calls
    assert op == "matmul"
    assert options["activation"] == name
    from_y = name in ("relu", "leaky_relu", "sigmoid", "tanh")  # their gradients need y alone
    assert options["return_preactivation"] == (training and not from_y)
    calls.clear()
    backprop(y)
    again = [] if training or from_y else ["matmul"]  # not kept, so computed once more
    assert [op for op, *_ in calls] == [
        *(*again, activation.backward or f"{name}_backward"),
        *("matmul", "matmul", "column_sum"),  # dx, dW, db
    ]


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_relu_are_one_op(training, calls):
    model = fnn.Sequential(fnn.BatchNorm(4), fnn.ReLU())
    _, backprop = model.forward(inputs((5, 4)), training)
    backprop(inputs((5, 4)))
    assert [op for op, *_ in calls] == ["batch_norm", "batch_norm_backward"]
    assert all(options["activation"] == "relu" for _, _, options, _ in calls)


@pytest.mark.parametrize(
    "activation",
    [
        fnn.LeakyReLU(0.2),
        fnn.Softplus(2.0),
        fnn.Softplus(1.0, 5.0),
        fnn.Softmax(),
        fnn.LogSoftmax(),
    ],
    ids=repr,
)
def test_what_no_op_does_in_one_pass_is_two_ops(activation, calls):
    fnn.Sequential(fnn.Linear(4, 3), activation).forward(inputs((5, 4)), training=True)
    assert [op for op, *_ in calls] == ["matmul", activation.op]
    calls.clear()
    fnn.Sequential(fnn.BatchNorm(4), fnn.Tanh()).forward(inputs((5, 4)), training=True)
    fnn.Sequential(fnn.Linear(4, 3), fnn.ReLU(), fnn.Tanh()).forward(inputs((5, 4)))
    assert [op for op, *_ in calls] == ["batch_norm", "tanh", "matmul", "tanh"]


POOL = [
    lambda: fnn.Linear(4, 4),
    lambda: fnn.Linear(4, 4, bias=False),
    lambda: fnn.BatchNorm(4),
    lambda: fnn.BatchNorm(4, affine=False),
    lambda: fnn.LayerNorm(4),
    lambda: fnn.Dropout(0.4),
    lambda: fnn.Flatten(),
    lambda: fnn.Softmax(),
    lambda: fnn.LeakyReLU(0.3),
    lambda: fnn.Sequential(fnn.Tanh(), fnn.Flatten(), fnn.Linear(4, 4), fnn.ReLU()),
    *(functools.partial(copy.deepcopy, activation) for activation in ACTIVATIONS.values()),
]


def bits_of_chain(makers, dtype, training, rows, fused):
    """Everything that a chain computes, layer by layer or as a Sequential."""
    model = fnn.Sequential(*(make() for make in makers))
    model.build(None, dtype, 7)
    x, dy = inputs((rows, 4), dtype=dtype), inputs((rows, 4), dtype=dtype, seed=1)
    if fused:
        y, backprop = model.forward(x, training)
        dx = backprop(dy)
    else:
        y, steps = x, []
        for layer in model.layers:
            y, step = layer.forward(y, training)
            steps.append(step)
        dx = dy
        for step in reversed(steps):
            dx = step(dx)
    grads = {f"d {name}": array for name, array in gradients(model).items()}
    return {"y": y, "dx": dx, **grads, **model.state_dict()}


@settings(max_examples=150)
@given(
    makers=st.lists(st.sampled_from(POOL), max_size=6),
    dtype=st.sampled_from(list(DTYPES)),
    training=st.booleans(),
    rows=st.integers(2, 9),
)
def test_a_chain_has_the_bits_of_its_layers(makers, dtype, training, rows):
    fused = bits_of_chain(makers, dtype, training, rows, fused=True)
    single = bits_of_chain(makers, dtype, training, rows, fused=False)
    assert fused.keys() == single.keys()
    for name, array in fused.items():
        assert_array_equal(array, single[name], err_msg=name, strict=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "activation"), ACTIVATIONS.items(), ids=ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fused_pair_has_the_bits_of_two_layers(name, activation, training, dtype):
    for first in (lambda: fnn.Linear(4, 4), lambda: fnn.BatchNorm(4)):
        makers = [first, lambda: activation]
        fused = bits_of_chain(makers, dtype, training, 9, fused=True)
        single = bits_of_chain(makers, dtype, training, 9, fused=False)
        assert len(fused) >= 6
        for key, array in fused.items():
            assert_array_equal(array, single[key], err_msg=key, strict=True)


def test_a_gradient_made_in_the_chain_is_overwritten(calls):
    model = fnn.Sequential(
        fnn.ReLU(), fnn.Dropout(0.5), fnn.Tanh(), fnn.Flatten(), fnn.Linear(4, 3)
    )
    _, backprop = model.forward(inputs((5, 4)), training=True)
    calls.clear()
    dx = backprop(inputs((5, 3)))
    made = calls[0][3]  # dx of the Linear
    assert [op for op, *_ in calls] == [
        *("matmul", "matmul", "column_sum", "tanh_backward_from_output"),
        *("dropout_backward", "relu_backward"),
    ]
    for _, _, options, result in calls[3:]:
        assert np.shares_memory(options["out"], made)
        assert result is options["out"]
    assert np.shares_memory(dx, made)


class Stored(fnn.Layer):
    """Hands back an array that it keeps."""

    def forward(self, x, training=False):
        self.kept = np.ones_like(x)
        return x, lambda dy: self.kept


@pytest.mark.parametrize("behind", [fnn.Tanh(), fnn.Linear(4, 4)], ids=repr)
def test_a_gradient_of_a_layer_of_ones_own_is_not_overwritten(behind):
    own = Stored()
    model = fnn.Sequential(fnn.ReLU(), fnn.Dropout(0.5, seed=1), fnn.Flatten(), own, behind)
    _, backprop = model.forward(inputs((5, 4)), training=True)
    dx = backprop(inputs((5, 4)))
    assert dx.any()
    assert not dx.all()
    assert_array_equal(own.kept, np.ones((5, 4)))


# ---- recording -------------------------------------------------------------------------------


class Blind(np.ndarray):
    """An array whose values nobody may look at or compute with."""

    def __array_ufunc__(self, *arguments, **options):
        raise AssertionError("arithmetic outside fastnn.ops")

    def __array_function__(self, *arguments, **options):
        raise AssertionError("a NumPy function outside fastnn.ops")

    def refuse(self, *arguments):
        raise AssertionError("a value was looked at")

    __bool__ = __float__ = __int__ = __getitem__ = __setitem__ = __iter__ = refuse
    item = tolist = copy = astype = sum = max = min = any = all = refuse


def blinded(value):
    if isinstance(value, tuple):
        return tuple(map(blinded, value))
    return value.view(Blind) if isinstance(value, np.ndarray) else value


def plain(value):
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain, value))
    return value.view(np.ndarray) if isinstance(value, Blind) else value


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "twin", "shape", "spread"), ALL)
def test_built_in_layers_never_look_at_values(make, twin, shape, spread, training, monkeypatch):
    layer = built(lambda: fnn.Sequential(make(), fnn.Dropout(0.5), fnn.Flatten()), shape)
    count = itertools.count()

    def blind(op):
        def watched(*arguments, **options):
            next(count)
            return blinded(op(*plain(arguments), **{k: plain(v) for k, v in options.items()}))

        return watched

    for name in ops.__all__:
        monkeypatch.setattr(ops, name, blind(getattr(ops, name)))
    assert layer.recordable
    y, backprop = layer.forward(inputs(shape, spread).view(Blind), training)
    assert type(y) is Blind
    assert type(backprop(inputs(y.shape, seed=1).view(Blind))) is Blind
    assert next(count) >= 2 or not training


def test_a_layer_of_ones_own_is_not_recorded_unless_it_says_so():
    class Doubled(fnn.ReLU):
        def forward(self, x, training=False):
            y, backprop = super().forward(x, training)
            return 2 * y, lambda dy: 2 * backprop(dy)

    class Declared(fnn.Layer):
        recordable = True

        def forward(self, x, training=False):
            return ops.relu(x), lambda dy: ops.relu_backward(dy, x)

    class Renamed(fnn.Linear):
        pass

    class Chain(fnn.Sequential):
        def forward(self, x, training=False):
            return super().forward(np.abs(x), training)

    assert not fnn.Layer.recordable
    assert not Chain(fnn.Linear(2, 2)).recordable
    assert not Doubled().recordable
    assert Declared().recordable
    assert Renamed(2, 2).recordable
    assert fnn.Sequential(fnn.Linear(2, 2), fnn.Sequential(Declared())).recordable
    assert not fnn.Sequential(fnn.Linear(2, 2), fnn.Sequential(Doubled())).recordable

    linear = fnn.Linear(4, 4)
    model = fnn.Sequential(linear, Doubled(), fnn.Linear(4, 4))
    model.build(None, "float64", 1)
    x = inputs((5, 4))
    y, backprop = model.forward(x, training=True)  # not fused: its own forward counts
    half = np.maximum(x @ linear.weight + linear.bias, 0)
    assert_allclose(y, 2 * half @ model[2].weight + model[2].bias, rtol=1e-12)
    dy = inputs((5, 4), seed=1)
    dx = 2 * (dy @ model[2].weight.T) * (half > 0) @ linear.weight.T
    assert_allclose(backprop(dy), dx, rtol=1e-12)


# ---- initial values --------------------------------------------------------------------------


def test_linear_starts_as_pytorchs():
    layer = fnn.Linear(400, 300)
    layer.build(None, "float64", 1)
    bound = 1 / math.sqrt(400)
    for array in (layer.weight, layer.bias):
        assert 0.95 * bound < np.abs(array).max() <= bound
        assert abs(array.mean()) < 4 * bound / math.sqrt(3 * array.size)
    assert_allclose(layer.weight.std(), bound / math.sqrt(3), rtol=0.01)


def test_normalisation_starts_as_the_identity():
    for layer in (fnn.BatchNorm(3), fnn.LayerNorm(3)):
        layer.build(None, "float32")
        assert layer.weight.tolist() == [1, 1, 1]
        assert layer.bias.tolist() == [0, 0, 0]
    batch_norm = fnn.BatchNorm(3)
    batch_norm.build(None, "float32")
    assert batch_norm.running_mean.tolist() == [0, 0, 0]
    assert batch_norm.running_var.tolist() == [1, 1, 1]


def test_initializers_by_name_and_by_function():
    layer = fnn.Linear(
        3, 4, weight_init="orthogonal", bias_init=lambda rng, shape, dtype: [1, 2, 3, 4]
    )
    layer.build(None, "float64", 0)
    assert_allclose(layer.weight @ layer.weight.T, np.eye(3), atol=1e-14)
    assert layer.bias.tolist() == [1, 2, 3, 4]
    wrong = fnn.Linear(3, 4, bias_init=lambda rng, shape, dtype: np.zeros(3))
    with pytest.raises(
        fnn.ShapeError, match=r"Linear: initializer of bias must return \(4,\), got"
    ):
        wrong.build(None, "float32")
    with pytest.raises(ValueError, match="initializer must be callable or one of"):
        fnn.Linear(3, 4, weight_init="glorot")


def network():
    return fnn.Sequential(
        fnn.Linear(4, 4), fnn.Sequential(fnn.Linear(4, 4), fnn.Dropout(0.5)), fnn.Linear(4, 4)
    )


def weights(model):
    return [array.tobytes() for _, array in model.named_parameters()]


def test_values_follow_from_the_seed_with_a_stream_a_layer():
    models = [network() for _ in range(4)]
    models[0].build(None, "float32", 5)
    models[1].build(None, "float32", np.random.Generator(np.random.Philox(5)))
    models[2].build(None, "float32", 6)
    models[3].seed = 5
    models[3].forward(inputs((2, 4), dtype="float32"))
    assert weights(models[0]) == weights(models[1]) == weights(models[3])
    assert models[0][1][1].seed == models[1][1][1].seed == models[3][1][1].seed
    assert not set(weights(models[0])) & set(weights(models[2]))
    assert len(set(weights(models[0]))) == 6
    # Another layer in front or another size does not move the stream of the last.
    other = fnn.Sequential(fnn.Linear(4, 9), fnn.Linear(9, 4), fnn.Linear(4, 4))
    other.build(None, "float32", 5)
    assert weights(other)[-2:] == weights(models[0])[-2:]


def test_float32_weights_are_the_rounded_float64_ones():
    single, double = network(), network()
    single.build(None, "float32", 5)
    double.build(None, "float64", 5)
    for (name, a), (_, b) in zip(single.named_parameters(), double.named_parameters(), strict=True):
        assert a.dtype == np.float32
        assert b.dtype == np.float64
        assert_array_equal(a, b.astype(np.float32), err_msg=name)


def test_a_first_use_alone_draws_fresh_values():
    models = [network(), network()]
    for model in models:
        model.forward(inputs((2, 4)))
        assert {array.dtype for array in model.state_dict().values()} == {np.dtype("float64")}
    assert not set(weights(models[0])) & set(weights(models[1]))
    before = weights(models[0])
    models[0].forward(inputs((3, 4)))
    assert weights(models[0]) == before


def test_there_are_no_values_before_the_first_use():
    layer = fnn.Linear(4, 3)
    with pytest.raises(AttributeError, match="weight is drawn at the first use"):
        layer.weight  # noqa: B018
    assert not hasattr(layer, "bias")
    with pytest.raises(AttributeError, match="Linear: weight is drawn at the first use"):
        fnn.Sequential(layer).state_dict()


def test_building_again_keeps_what_is_there():
    layer = fnn.Linear(4, 3)
    weight = inputs((4, 3), dtype="float32")
    layer.weight = weight
    layer.build((2, 4), np.float32, 3)
    assert_array_equal(layer.weight, weight)
    bias = layer.bias
    assert bias.any()
    layer.build(None, "float32", 4)
    assert_array_equal(layer.bias, bias)
    with pytest.raises(fnn.DTypeError, match="Linear: dtype is float32 already, got float64"):
        layer.build(None, "float64")


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: fnn.Linear(4, 3), (2, 5), r"Linear: x must have length 4 on the last axis"),
        (lambda: fnn.Linear(4, 3), (4,), r"Linear: x must have length 4 on the last axis"),
        (lambda: fnn.LayerNorm(4), (2, 4, 3), r"LayerNorm: x must have length 4 on the last axis"),
        (lambda: fnn.BatchNorm(4), (4, 3), r"BatchNorm: x must have length 4 on axis 1, got"),
        (lambda: fnn.Sequential(fnn.Linear(4, 3)), (2, 5), r"Linear: x must have length 4"),
    ],
)
def test_a_wrong_first_input_draws_nothing(make, shape, message):
    layer = make()
    with pytest.raises(fnn.ShapeError, match=f"^{message}"):
        layer.forward(inputs(shape))
    assert not any(part.params or part.buffers for _, part in layer.named_layers())
    built(lambda: layer, None)
    with pytest.raises(fnn.ShapeError):
        layer.forward(inputs(shape))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((2, 4), np.int64), fnn.DTypeError, "Linear: dtype must be float32 or float64"),
        (np.zeros((2, 4), np.float16), fnn.DTypeError, "Linear: dtype must be float32 or float64"),
        (
            np.zeros((2, 4), ">f4"),
            fnn.DTypeError,
            "Linear: dtype must be float32 or float64, got >f4",
        ),
        (np.ma.zeros((2, 4)), fnn.DTypeError, "Linear: x must be a plain array: its mask"),
        ([[0.0] * 4], TypeError, "Linear: x must be a NumPy or CuPy array, got list"),
        (None, TypeError, "Linear: x must be a NumPy or CuPy array, got NoneType"),
    ],
    ids=["int64", "float16", "big-endian", "masked", "list", "None"],
)
def test_refuses_inputs_that_are_no_float_arrays(x, error, message):
    layer = fnn.Linear(4, 3)
    with pytest.raises(error, match=f"^{message}"):
        layer.forward(x)
    assert not layer.params
    built(lambda: layer, None)
    with pytest.raises(TypeError):
        layer.forward(x)


# ---- names and values ------------------------------------------------------------------------


def test_reading_gives_a_snapshot():
    layer = built(lambda: fnn.Linear(4, 3), None)
    weight = layer.weight
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = 1
    before = weight.copy()
    layer.params["weight"] += 1
    assert_array_equal(weight, before)
    assert_array_equal(layer.weight, before + 1)
    assert fnn.Linear(4, 3, bias=False).bias is None


def test_assigning_writes_in_place():
    layer = built(lambda: fnn.Linear(4, 3), None)
    live, value = layer.params["weight"], inputs((3, 4)).T
    layer.weight = value
    assert layer.params["weight"] is live
    assert_array_equal(live, value)
    value[:] = 0
    assert layer.weight.any()
    norm = built(lambda: fnn.BatchNorm(3), None)
    norm.running_var = np.array([1.0, 2.0, 3.0])
    assert norm.buffers["running_var"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("before_the_first_use", [True, False])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            np.zeros((3, 4)),
            fnn.ShapeError,
            r"Linear: weight must have shape \(4, 3\), got \(",
        ),
        (np.zeros(()), fnn.ShapeError, r"Linear: weight must have shape \(4, 3\), got \(\)"),
        (np.zeros((4, 3), int), fnn.DTypeError, "Linear: weight must be .*float64, got int64"),
        (np.zeros((4, 3), ">f8"), fnn.DTypeError, "Linear: weight must be .*float64, got >f8"),
        (np.ma.zeros((4, 3)), fnn.DTypeError, "Linear: weight must be a plain array"),
        ([[0.0] * 3] * 4, TypeError, "Linear: weight must be a NumPy or CuPy array, got list"),
        (0.0, TypeError, "Linear: weight must be a NumPy or CuPy array, got float"),
    ],
    ids=["shape", "scalar", "int", "big-endian", "masked", "list", "number"],
)
def test_refuses_values_that_do_not_fit(value, error, message, before_the_first_use):
    layer = fnn.Linear(4, 3)
    if not before_the_first_use:
        layer.build(None, "float64", 0)
    before = {name: array.copy() for name, array in layer.params.items()}
    with pytest.raises(error, match=f"^{message}"):
        layer.weight = value
    assert layer.params.keys() == before.keys()
    for name, array in before.items():
        assert_array_equal(layer.params[name], array)


def test_refuses_a_value_of_another_precision():
    layer = built(lambda: fnn.Linear(4, 3), None, "float32")
    with pytest.raises(fnn.DTypeError, match="Linear: weight must be float32, got float64"):
        layer.weight = np.zeros((4, 3))
    with pytest.raises(ValueError, match="Linear: there is no bias to set"):
        fnn.Linear(4, 3, bias=False).bias = np.zeros(3)


def nested():
    return fnn.Sequential(
        fnn.Linear(4, 3, bias=False),
        fnn.Sequential(fnn.BatchNorm(3), fnn.ReLU()),
        fnn.LayerNorm(3),
        fnn.Dropout(0.1),
    )


def test_names():
    model = built(nested, None)
    trainable = [
        "layers.0.weight",
        *("layers.1.layers.0.weight", "layers.1.layers.0.bias"),
        *("layers.2.weight", "layers.2.bias"),
    ]
    running = ["layers.1.layers.0.running_mean", "layers.1.layers.0.running_var"]
    assert [name for name, _ in model.named_parameters()] == trainable
    assert list(model.state_dict()) == [*trainable[:3], *running, *trainable[3:]]
    assert list(model[1][0].state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert [name for name, _ in model.named_layers()] == [
        *("", "layers.0.", "layers.1.", "layers.1.layers.0.", "layers.1.layers.1."),
        *("layers.2.", "layers.3."),
    ]
    assert not any(array.flags.writeable for array in model.state_dict().values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used_before", [True, False])
def test_state_goes_from_one_model_to_another(used_before, dtype):
    source, target = built(nested, None, dtype), nested()
    if used_before:
        target.build(None, dtype, 99)
        live = [part.params for _, part in target.named_layers()]
        live = [array for params in live for array in params.values()]
    target.load_state_dict(source.state_dict())
    for name, array in target.state_dict().items():
        assert_array_equal(array, source.state_dict()[name], strict=True)
    x = inputs((5, 4), dtype=dtype)
    assert_array_equal(source.forward(x)[0], target.forward(x)[0])
    if used_before:
        now = [part.params for _, part in target.named_layers()]
        now = [array for params in now for array in params.values()]
        assert len(now) == 5
        assert all(a is b for a, b in zip(now, live, strict=True))


def dropped(state, key):
    del state[key]


@pytest.mark.parametrize("used_before", [True, False])
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda s: dropped(s, "layers.2.weight"), ValueError, "missing key 'layers.2.weight'"),
        (lambda s: s.update(a=np.zeros(1)), ValueError, "unknown key 'a'"),
        (lambda s: s.clear(), ValueError, "missing key 'layers.0.weight'"),
        (
            lambda s: s.update({"layers.2.bias": np.zeros(4)}),
            fnn.ShapeError,
            r"layers.2.bias must have shape \(3,\), got \(4,\)",
        ),
        (
            lambda s: s.update({"layers.2.bias": np.zeros(3, np.float16)}),
            fnn.DTypeError,
            "layers.2.bias must be .*float64, got float16",
        ),
        (
            lambda s: s.update({"layers.2.bias": np.zeros(3, np.float32)}),
            fnn.DTypeError,
            "layers.2.bias must be float64, got float32|arrays must have one dtype",
        ),
        (
            lambda s: s.update({"layers.2.bias": [0.0] * 3}),
            TypeError,
            "layers.2.bias must be a NumPy or CuPy array, got list",
        ),
    ],
    ids=["missing", "unknown", "empty", "shape", "float16", "float32", "list"],
)
def test_loads_all_or_nothing(spoil, error, message, used_before):
    state = {name: array.copy() for name, array in built(nested, None).state_dict().items()}
    spoil(state)
    model = nested()
    if used_before:
        model.build(None, "float64", 99)
    before = copy.deepcopy([(part.params, part.buffers) for _, part in model.named_layers()])
    with pytest.raises(error, match=f"^load_state_dict: (?:{message})"):
        model.load_state_dict(state)
    for (_, part), (params, buffers) in zip(model.named_layers(), before, strict=True):
        for now, then in ((part.params, params), (part.buffers, buffers)):
            assert now.keys() == then.keys()
            for name, array in then.items():
                assert_array_equal(now[name], array)


def test_one_array_under_two_names_is_refused():
    layer = fnn.Linear(4, 4)
    message = "layers.0.weight and layers.1.layers.0.weight are one array"
    with pytest.raises(ValueError, match=message):
        fnn.Sequential(layer, fnn.Sequential(layer))
    model = built(lambda: fnn.Sequential(fnn.Linear(4, 4), fnn.Linear(4, 4)), None)
    model[1].params["weight"] = model[0].params["weight"]
    message = "layers.0.weight and layers.1.weight are one array"
    for use in (model.state_dict, lambda: list(model.named_parameters())):
        with pytest.raises(ValueError, match=message):
            use()
    with pytest.raises(ValueError, match=message):
        model.build(None, "float64")
    relu = fnn.ReLU()
    fnn.Sequential(fnn.Linear(4, 4), relu, fnn.Linear(4, 4), relu)  # without parameters: fine


# ---- single layers ---------------------------------------------------------------------------


def test_batch_norm_moves_the_running_statistics_only_in_training():
    x = inputs((6, 3)) + 2
    for unbiased in (True, False):
        layer = fnn.BatchNorm(3, momentum=0.25, unbiased_running_var=unbiased)
        layer.forward(x, training=True)
        assert_allclose(layer.running_mean, 0.25 * x.mean(0), rtol=1e-12)
        variance = 0.75 + 0.25 * x.var(0, ddof=int(unbiased))
        assert_allclose(layer.running_var, variance, rtol=1e-12)
        before = layer.state_dict()
        layer.forward(x, training=False)
        for name, array in layer.state_dict().items():
            assert_array_equal(array, before[name])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer.forward(x[:1], training=True)


def test_dropout_zeroes_and_scales():
    layer = fnn.Dropout(0.25, seed=3)
    x = np.ones((100, 100))
    y, backprop = layer.forward(x, training=True)
    kept = y != 0
    assert abs(kept.mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / x.size)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert_array_equal(backprop(x), y)
    expected, _ = ops.dropout(x, 0.25, seed=3, offset=0)
    assert_array_equal(y, expected)


def test_dropout_at_rest_does_nothing():
    layer, x = fnn.Dropout(0.25), inputs((5, 4))
    y, backprop = layer.forward(x)
    assert y is x
    assert backprop(x) is x
    assert layer.offset == 0


def test_dropout_draws_other_bits_each_time():
    x = np.ones((50, 50))
    layer, again = fnn.Dropout(0.5, seed=3), fnn.Dropout(0.5, seed=3)
    masks = [layer.forward(x, training=True)[0] for _ in range(3)]
    assert layer.offset == 3
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(masks, 2))
    for mask in masks:
        assert_array_equal(again.forward(x, training=True)[0], mask)
    other = fnn.Dropout(0.5, seed=4).forward(x, training=True)[0]
    assert not np.array_equal(other, masks[0])
    unseeded = [fnn.Dropout(0.5).forward(x, training=True)[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_dropout_leaves_a_shared_counter_alone():
    x, counter = np.ones((50, 50)), np.array(7)
    layers = [fnn.Dropout(0.5, seed=seed) for seed in (3, 4)]
    for layer in layers:
        layer.offset, layer.shared_counter = counter, True
    first = [layer.forward(x, training=True)[0] for layer in layers]
    assert counter == 7
    assert not np.array_equal(*first)
    for layer, y in zip(layers, first, strict=True):
        assert_array_equal(layer.forward(x, training=True)[0], y)
    counter += 1
    for layer, y in zip(layers, first, strict=True):
        assert not np.array_equal(layer.forward(x, training=True)[0], y)
        expected, _ = ops.dropout(x, 0.5, seed=layer.seed, offset=8)
        assert_array_equal(layer.forward(x, training=True)[0], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rescaling_takes_bytes(dtype):
    model = fnn.Sequential(fnn.Flatten(), fnn.Rescaling(1 / 255, -0.5), fnn.Linear(6, 2))
    model.build(None, dtype, 0)
    x = np.random.default_rng(0).integers(0, 256, (5, 2, 3), dtype=np.uint8)
    y, _ = model[1].forward(x)
    assert y.dtype == dtype
    assert_allclose(y, x / 255 - 0.5, rtol=DTYPES[dtype], atol=DTYPES[dtype])
    y, backprop = model.forward(x, training=True)
    assert y.dtype == dtype
    assert backprop(np.ones((5, 2), dtype)) is None
    assert model[2].grads["weight"].any()


def test_rescaling_alone_is_float32():
    model = fnn.Sequential(fnn.Rescaling(2.0), fnn.Linear(4, 2))
    x = np.full((3, 4), 7, np.uint8)
    assert fnn.Rescaling(2.0, 1.0).forward(x)[0].tolist() == [[15.0] * 4] * 3
    assert model.forward(x)[0].dtype == np.float32
    with pytest.raises(fnn.DTypeError, match="uint8"):
        fnn.Rescaling(2.0).forward(x.astype(np.float32))


def test_flatten_keeps_the_first_axis():
    for shape, flat in [
        ((2, 3, 4), (2, 12)),
        ((5,), (5, 1)),
        ((3, 0, 2), (3, 0)),
        ((0, 3), (0, 3)),
    ]:
        x = inputs(shape)
        y, backprop = fnn.Flatten().forward(x)
        assert y.shape == flat
        assert backprop(y).shape == shape
    with pytest.raises(fnn.ShapeError, match="Flatten: x must have at least one axis"):
        fnn.Flatten().forward(np.array(1.0))


def test_linear_passes_its_precision_on(calls):
    layer = built(lambda: fnn.Linear(4, 3), None, "float32")
    layer.precision = "bf16"
    y, backprop = layer.forward(inputs((5, 4), dtype="float32"))
    backprop(y)
    products = [options["precision"] for op, _, options, _ in calls if op == "matmul"]
    assert products == ["bf16"] * 3


def test_a_chain_is_a_sequence():
    layers = fnn.Linear(4, 3), fnn.ReLU(), fnn.Linear(3, 2)
    model = fnn.Sequential(*layers)
    assert len(model) == 3
    assert model[1] is layers[1]
    assert model[-1] is layers[2]
    assert list(model) == list(layers) == list(model.layers)
    empty, x = fnn.Sequential(), inputs((2, 3))
    y, backprop = empty.forward(x)
    assert y is x
    assert backprop(x) is x
    with pytest.raises(TypeError, match="Sequential: layer 1 must be a Layer, got type"):
        fnn.Sequential(fnn.ReLU(), fnn.ReLU)
    with pytest.raises(TypeError, match="Sequential: layer 0 must be a Layer, got list"):
        fnn.Sequential([fnn.ReLU()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fnn.Linear(-1, 3), "Linear: in_features must be an integer >= 0, got -1"),
        (lambda: fnn.Linear(3, 2.0), "Linear: out_features must be an integer >= 0, got 2.0"),
        (lambda: fnn.Linear(True, 2), "Linear: in_features must be an integer >= 0, got True"),
        (lambda: fnn.BatchNorm("3"), "BatchNorm: num_features must be an integer >= 0, got '3'"),
        (lambda: fnn.BatchNorm(3, eps=0), "BatchNorm: eps must be finite and > 0, got 0"),
        (
            lambda: fnn.BatchNorm(3, momentum=1.1),
            r"BatchNorm: momentum must be .* got 1.1",
        ),
        (lambda: fnn.BatchNorm(3, momentum=math.nan), r"BatchNorm: momentum must be in \[0, 1\]"),
        (lambda: fnn.LayerNorm((3,)), r"LayerNorm: normalized_shape must be an integer >= 0"),
        (lambda: fnn.LayerNorm(3, eps=-1e-5), "LayerNorm: eps must be finite and > 0, got -1e-05"),
        (lambda: fnn.Dropout(1.0), r"Dropout: p must be in \[0, 1\), got 1.0"),
        (lambda: fnn.Dropout(-0.1), r"Dropout: p must be in \[0, 1\), got -0.1"),
        (lambda: fnn.Dropout(math.nan), r"Dropout: p must be in \[0, 1\), got nan"),
        (lambda: fnn.Dropout(0.5, seed=-1), "Dropout: seed must be .* got -1"),
        (
            lambda: fnn.Dropout(0.5, seed=1 << 64),
            "Dropout: seed must be .* got 18446744",
        ),
        (lambda: fnn.Linear(2, 2).build(None, "float32", -1), "build: seed must be .* got -1"),
        (lambda: fnn.LeakyReLU(math.inf), "LeakyReLU: negative_slope must be finite, got inf"),
        (lambda: fnn.GELU("exact"), "GELU: approximate must be 'none' or 'tanh', got 'exact'"),
        (lambda: fnn.Softplus(0.0), "Softplus: beta must be finite and > 0, got 0.0"),
    ],
)
def test_refuses_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


# ---- layers of one's own ---------------------------------------------------------------------


class Residual(fnn.Layer):
    """x + scale * inner(x), with a parameter and a layer inside."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.add_parameter("scale", (1,), "ones")

    def children(self):
        return {"inner": self.inner}

    def forward(self, x, training=False):
        self.first_use(x)
        y, backprop = self.inner.forward(x, training)
        scale = self.params["scale"]

        def back(dy):
            self.grads["scale"] = np.array([(dy * y).sum()])
            return dy + backprop(scale * dy)

        return x + scale * y, back


def test_a_layer_of_ones_own():
    model = fnn.Sequential(
        fnn.Linear(4, 4), Residual(fnn.Sequential(fnn.Linear(4, 4), fnn.Tanh())), fnn.ReLU()
    )
    assert model[1].has_parameters
    assert not model[2].has_parameters
    assert not fnn.BatchNorm(3, affine=False).has_parameters
    model.build(None, "float64", 0)
    names = [name for name, _ in model.named_parameters()]
    assert names == [
        *("layers.0.weight", "layers.0.bias", "layers.1.scale"),
        *("layers.1.inner.layers.0.weight", "layers.1.inner.layers.0.bias"),
    ]
    x = inputs((6, 4))
    y, backprop = model.forward(x, training=True)
    dy = inputs(y.shape, seed=1)
    dx = backprop(dy)
    assert set(gradients(model)) == set(names)
    step = 1e-6
    for i in np.ndindex(x.shape):
        away = np.zeros(x.shape)
        away[i] = step
        above, below = (model.forward(x + sign * away)[0] for sign in (1, -1))
        assert_allclose(dx[i], ((above - below) * dy).sum() / (2 * step), rtol=1e-6, atol=1e-8)
    scale = model[1].params["scale"]
    scale += step
    above = model.forward(x)[0]
    scale -= 2 * step
    below = model.forward(x)[0]
    slope = ((above - below) * dy).sum() / (2 * step)
    assert_allclose(model[1].grads["scale"][0], slope, rtol=1e-6)


def test_arrays_put_straight_into_params_have_names_too():
    class Scale(fnn.Layer):
        def __init__(self):
            super().__init__()
            self.params["scale"] = np.ones(3)
            self.buffers["uses"] = np.zeros((), np.int64)

    model = fnn.Sequential(Scale())
    assert model.has_parameters
    assert [name for name, _ in model.named_parameters()] == ["layers.0.scale"]
    state = {"layers.0.scale": np.full(3, 2.0), "layers.0.uses": np.array(5)}
    model.load_state_dict(state)
    assert model.state_dict()["layers.0.scale"].tolist() == [2, 2, 2]
    assert model.state_dict()["layers.0.uses"] == 5
    with pytest.raises(NotImplementedError, match="Scale must define forward"):
        model[0].forward(np.ones(3))


# ---- as values -------------------------------------------------------------------------------


def every_class():
    return [
        fnn.Linear(4, 3, bias=False, weight_init="he_normal"),
        fnn.BatchNorm(3, eps=1e-3, momentum=0.2, affine=False, unbiased_running_var=False),
        fnn.LayerNorm(3, eps=1e-3, elementwise_affine=False),
        fnn.Dropout(0.25, seed=2**63 + 1),
        fnn.ReLU(),
        fnn.LeakyReLU(0.2),
        fnn.Sigmoid(),
        fnn.HardSigmoid(),
        fnn.Tanh(),
        fnn.GELU("tanh"),
        fnn.SiLU(),
        fnn.Softplus(2.0, 10.0),
        fnn.Softmax(),
        fnn.LogSoftmax(),
        fnn.Flatten(),
        fnn.Rescaling(1 / 255, -0.5),
    ]


def test_survives_json():
    model = fnn.Sequential(*every_class(), fnn.Sequential(fnn.Linear(4, 3), fnn.ReLU()))
    tested = {type(layer).__name__ for layer in model} | {"Layer"}
    assert tested == set(fnn.layers.__all__)
    config = fnn.to_config(model)
    again = fnn.from_config(json.loads(json.dumps(config)))
    assert fnn.to_config(again) == config
    assert [type(layer) for layer in again] == [type(layer) for layer in model]
    for layer, other in zip(model, again, strict=True):
        for name in inspect.signature(type(layer)).parameters:
            if name not in ("layers", "bias"):
                assert getattr(layer, name) == getattr(other, name), name
    assert again[0].bias is None
    assert repr(again) == repr(model)
    assert repr(model).startswith(
        "Sequential(Linear(in_features=4, out_features=3, bias=False, weight_init='he_normal'), "
    )


def test_config_leaves_initializers_of_ones_own_out():
    layer = fnn.Linear(
        4, 3, weight_init=lambda rng, shape, dtype: np.zeros(shape), bias_init="ones"
    )
    again = fnn.from_config(fnn.to_config(layer))
    assert (again.weight_init, again.bias_init) == (None, "ones")


def test_config_refuses_foreign_classes():
    class Linear(fnn.Linear):
        pass

    for foreign in (Linear(2, 2), Stored(), fnn.Sequential(Stored()), 3, dict, "ReLU"):
        with pytest.raises(ValueError, match=r"^to_config: \w+ is not a class of fastnn"):
            fnn.to_config(foreign)
    for config in (
        {},
        {"class": "os.system"},
        {"class": "Layer"},
        {"class": "Trainer"},
        {"class": ["ReLU"]},
        {"class": "Sequential", "layers": [{"class": "Mine"}]},
    ):
        with pytest.raises(ValueError, match=r"^from_config: unknown class"):
            fnn.from_config(config)
    for config in (
        {"class": "ReLU", "slope": 1},
        {"class": "Linear", "in_features": 3},
        {"class": "Sequential"},
        {"class": "Sequential", "layers": [], "more": 1},
        {"class": "Sequential", "layers": [3]},
    ):
        with pytest.raises(ValueError, match=r"^from_config: wrong arguments for"):
            fnn.from_config(config)


def test_layers_can_be_copied_and_pickled():
    model = built(nested, None)
    x = inputs((5, 4))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_array_equal(twin.forward(x)[0], model.forward(x)[0])
        twin[0].params["weight"] += 1
        assert not np.array_equal(twin.forward(x)[0], model.forward(x)[0])

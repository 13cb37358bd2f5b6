"""fastnn.thinc: thinc's functions on fastnn's kernels, with thinc's own results."""

from importlib.metadata import entry_points

import numpy as np
import pytest
from readme import example

pytest.importorskip("thinc", reason="thinc is not installed")

from thinc.api import (
    Adam,
    Model,
    NumpyOps,
    Relu,
    Softmax,
    chain,
    fix_random_seed,
    get_current_ops,
    use_ops,
)

from fastnn import ops
from fastnn.thinc import FastnnOps

OURS = FastnnOps()
THEIRS = NumpyOps(use_blis=False)  # blis gives float64 products of transposes a wrong shape
DTYPES = [np.float32, np.float64]
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-12}

installed = pytest.mark.skipif(
    not any(point.name == "FastnnOps" for point in entry_points(group="thinc_ops")),
    reason="fastnn is not installed, so thinc can't find it by name",
)


def draw(dtype, *shape, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def calls_of(monkeypatch, *names):
    """The names of the kernels that are called from now on, in order."""
    calls = []
    for name in names:
        kernel = getattr(ops, name)
        monkeypatch.setattr(
            ops,
            name,
            lambda *a, kernel=kernel, name=name, **k: calls.append(name) or kernel(*a, **k),
        )
    return calls


def assert_alike(ours, theirs, dtype, tolerance=None):
    assert ours.dtype == theirs.dtype == dtype
    tolerance = tolerance or TOLERANCE[dtype]
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@installed
def test_thinc_finds_it_by_name():
    with use_ops("fastnn"):
        assert type(get_current_ops()) is FastnnOps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trans1", [False, True])
@pytest.mark.parametrize("trans2", [False, True])
def test_products(dtype, trans1, trans2):
    x = draw(dtype, *((7, 5) if trans1 else (5, 7)))
    y = draw(dtype, *((4, 7) if trans2 else (7, 4)), seed=1)
    ours = OURS.gemm(x, y, trans1=trans1, trans2=trans2)
    assert_alike(ours, THEIRS.gemm(x, y, trans1=trans1, trans2=trans2), dtype, 1e-5)
    out = np.empty((5, 4), dtype)
    assert OURS.gemm(x, y, out=out, trans1=trans1, trans2=trans2) is out
    assert (out == ours).all()


def test_products_refuse_what_thinc_refuses():
    for x, y in [((2, 3, 1), (1, 2)), ((3,), (3, 2))]:
        with pytest.raises(ValueError, match="2-dimensional"):
            OURS.gemm(draw(np.float32, *x), draw(np.float32, *y))


@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_is_one_kernel(dtype, monkeypatch):
    x, w, b = draw(dtype, 6, 5), draw(dtype, 4, 5, seed=1), draw(dtype, 4, seed=2)
    calls = calls_of(monkeypatch, "matmul")
    assert_alike(OURS.affine(x, w, b), THEIRS.affine(x, w, b), dtype, 1e-5)
    assert calls == ["matmul"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ["relu", "sigmoid", "swish", "gelu", "gelu_approx"])
def test_activations_and_their_gradients(name, inplace, dtype):
    x = draw(dtype, 9, 11)
    dy = draw(dtype, 9, 11, seed=1)
    given = x.copy()
    y = getattr(OURS, name)(given, inplace=inplace)
    assert (y is given) == inplace
    # thinc's erf is good to 1.5e-7, the constants in its gradient of gelu_approx to six digits.
    assert_alike(y, getattr(THEIRS, name)(x.copy(), inplace=inplace), dtype, 1e-6)
    forward = {"relu": (y,), "sigmoid": (y.copy(),), "swish": (x, y)}.get(name, (x,))
    given = dy.copy()
    dx = getattr(OURS, f"backprop_{name}")(given, *forward, inplace=inplace)
    assert (dx is (forward[0] if name == "sigmoid" else given)) == inplace
    if name == "sigmoid":
        forward = (y.copy(),)
    if dtype == np.float32 or name != "gelu_approx":  # thinc's is float32 there
        expected = getattr(THEIRS, f"backprop_{name}")(dy.copy(), *forward, inplace=inplace)
        assert_alike(dx, expected, dtype, 2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_stays_in_thincs_range(dtype):
    x = np.array([-1000, -25, 25, 1000], dtype)
    assert_alike(OURS.sigmoid(x), THEIRS.sigmoid(x), dtype)
    assert (OURS.sigmoid(x) > 0).all()
    assert (x == np.array([-1000, -25, 25, 1000])).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4), (7,)])
def test_softmax_and_its_gradient(shape, temperature, dtype):
    x, dy = draw(dtype, *shape), draw(dtype, *shape, seed=1)
    y = OURS.softmax(x, temperature=temperature)
    assert_alike(y, THEIRS.softmax(x, temperature=temperature), dtype)
    dx = OURS.backprop_softmax(y, dy, temperature=temperature)
    assert_alike(dx, THEIRS.backprop_softmax(y, dy, temperature=temperature), dtype)


def test_softmax_over_another_axis_is_thincs(monkeypatch):
    x = draw(np.float32, 6, 5)
    calls = calls_of(monkeypatch, "softmax", "softmax_backward")
    y = OURS.softmax(x, axis=0)
    assert (y == THEIRS.softmax(x, axis=0)).all()
    assert (OURS.backprop_softmax(y, x, axis=0) == THEIRS.backprop_softmax(y, x, axis=0)).all()
    assert calls == []


def test_adam_takes_thincs_steps():
    """The rate comes corrected for the moments' bias, and the gradient is left at zero."""
    state = [draw(np.float32, 50, seed=s) for s in range(4)]
    state[3] = np.abs(state[3])
    ours, theirs = [a.copy() for a in state], [a.copy() for a in state]
    for gradient in (draw(np.float32, 50, seed=s) for s in range(5, 8)):
        for arrays, thinc_ops in ((ours, OURS), (theirs, THEIRS)):
            arrays[1][:] = gradient
            got = thinc_ops.adam(*arrays, 0.9, 0.999, 1e-3, 0.01)
            assert all(a is b for a, b in zip(got, arrays, strict=True))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=5e-6, atol=1e-7)
        assert not ours[1].any()


@pytest.mark.parametrize("name", ["relu", "swish", "gelu", "sigmoid", "softmax"])
def test_other_types_are_thincs(name):
    x = np.array([[-1.0, 0.5, 2.0]], np.float16)
    ours, theirs = getattr(OURS, name)(x.copy()), getattr(THEIRS, name)(x.copy())
    assert ours.dtype == theirs.dtype
    assert (ours == theirs).all()


def test_spacys_parser_gets_thincs_c_functions():
    assert type(OURS.cblas()) is type(THEIRS.cblas())


def network(seed):
    model = chain(Relu(16), Softmax(3))
    x = draw(np.float32, 12, 5, seed=seed)
    return model.initialize(X=x, Y=np.eye(3, dtype=np.float32)[np.arange(12) % 3]), x


def train(model: Model, x, steps=20):
    optimizer = Adam(0.01)
    target = np.eye(3, dtype=np.float32)[np.arange(len(x)) % 3]
    losses = []
    for _ in range(steps):
        y, backprop = model.begin_update(x)
        losses.append(float(((y - target) ** 2).sum()))
        backprop(y - target)
        model.finish_update(optimizer)
    return losses


@installed
def test_a_network_learns_as_on_thincs_ops(monkeypatch):
    fix_random_seed(0)
    theirs, x = network(0)
    with use_ops("fastnn"):
        ours, _ = network(0)
    for mine, other in zip(ours.walk(), theirs.walk(), strict=True):
        assert isinstance(mine.ops, FastnnOps)
        for name in mine.param_names:
            mine.set_param(name, other.get_param(name).copy())
    calls = calls_of(monkeypatch, "matmul", "relu", "relu_backward", "softmax")
    got = train(ours, x)
    assert {*calls} == {"matmul", "relu", "relu_backward", "softmax"}
    expected = train(theirs, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert expected[-1] < expected[0] / 2


@installed
def test_readme_example_teaches_spacy(capsys):
    pytest.importorskip("spacy", reason="spaCy is not installed")
    exec(example("thinc and spaCy"), {})
    assert float(capsys.readouterr().out) > 0.8

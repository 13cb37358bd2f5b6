"""fastnn.jax: fastnn's results inside JAX, by XLA's foreign functions and through Python."""

import numpy as np
import pytest
from readme import example

pytest.importorskip("jax", reason="JAX is not installed")

import jax
import jax.numpy as jnp

import fastnn as fnn
from fastnn import jax as F
from fastnn import ops
from fastnn.jax import _call
from fastnn.jax._arrays import by_row

RNG = np.random.default_rng(0)
ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "hard_sigmoid", "tanh", "gelu", "gelu_tanh", "silu")


@pytest.fixture(params=["native", "python"], autouse=True, scope="module")
def way(request):
    """Both ways to the kernels, one after the other: JAX remembers what it compiled."""
    if request.param == "native" and _call.native is None:
        pytest.skip(fnn.show_config("dicts")["jax"]["reason"])
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(_call, "native", None)
        jax.clear_caches()
        yield request.param
        jax.clear_caches()


def draw(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def assert_same(got, expected):
    got = got if isinstance(got, tuple) else (got,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def test_show_config_says_which_way_calls_go():
    facts = fnn.show_config("dicts")["jax"]
    assert facts["calls"] in ("native", "through Python")
    assert ("reason" in facts) == (facts["calls"] != "native")


# ---- the same bits as fastnn.ops -----------------------------------------------------------


@pytest.mark.parametrize("name", [*ACTIVATIONS, "softplus", "softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 3, 4)])
def test_activations_are_fastnns(name, shape):
    if shape == () and name.endswith("softmax"):
        with pytest.raises(fnn.ShapeError, match=f"^{name}: x must have an axis"):
            getattr(F, name)(np.float32(1))
        return
    x, dy = draw(*shape), draw(*shape)
    y, backprop = jax.vjp(jax.jit(getattr(F, name)), x)
    assert_same(y, getattr(ops, name)(x))
    kept = np.asarray(y) if name.endswith("softmax") else x
    assert_same(backprop(jnp.asarray(dy)), getattr(ops, f"{name}_backward")(dy, kept))


def test_parameters_of_activations():
    x, dy = draw(9), draw(9)
    for f, op, parameters in (
        (F.leaky_relu, "leaky_relu", (0.3,)),
        (F.softplus, "softplus", (2.0, 1.5)),
    ):
        y, backprop = jax.vjp(lambda x, f=f, p=parameters: f(x, *p), x)
        assert_same(y, getattr(ops, op)(x, *parameters))
        assert_same(backprop(jnp.asarray(dy)), getattr(ops, f"{op}_backward")(dy, x, *parameters))


@pytest.mark.parametrize(
    ("activation", "leading", "biased"),
    [
        *((activation, (6,), True) for activation in (*ACTIVATIONS, "softplus")),
        *((None, leading, biased) for leading in ((), (6,), (2, 3)) for biased in (True, False)),
    ],
)
def test_linear_is_fastnns(activation, leading, biased):
    x, w, dy = draw(*leading, 7), draw(7, 5), draw(*leading, 5)
    b = draw(5) if biased else None
    y, backprop = jax.vjp(jax.jit(lambda *a: F.linear(*a, activation=activation)), x, w, b)
    rows, drows = x.reshape(-1, 7), dy.reshape(-1, 5)
    expected, before = ops.matmul(rows, w, bias=b, activation=activation, return_preactivation=True)
    assert_same(y, expected.reshape(dy.shape))
    if activation is not None:
        drows = getattr(ops, f"{activation}_backward")(drows, before)
    dx, dw, db = backprop(jnp.asarray(dy))
    assert_same(dx, ops.matmul(drows, w, transpose_b=True).reshape(x.shape))
    assert_same(dw, ops.matmul(rows, drows, transpose_a=True))
    assert db is None if b is None else (db == ops.column_sum(drows)).all()


LOSSES = {
    "softmax_cross_entropy": (draw(6, 4), np.array([0, 3, -100, 1, 2, 3])),
    "sigmoid_cross_entropy": (draw(6, 4), RNG.random((6, 4), np.float32)),
    "mse": (draw(6, 4), draw(6, 4)),
    "mae": (draw(6, 4), draw(6, 4)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_fastnns(name, reduction):
    pred, target = LOSSES[name]
    options = {"sample_weight": RNG.random(6).astype(np.float32), "reduction": reduction}
    if name == "softmax_cross_entropy":
        options |= {"weight": RNG.random(4).astype(np.float32), "label_smoothing": 0.1}
    if name == "sigmoid_cross_entropy":
        options |= {"pos_weight": RNG.random(4).astype(np.float32)}
    loss, backprop = jax.vjp(lambda p: getattr(F, name)(p, target, **options), pred)
    expected, dpred = getattr(ops, name)(pred, target, **options)
    assert_same(loss, expected)
    assert_same(backprop(jnp.ones_like(loss)), dpred)
    doubled = backprop(2 * jnp.ones_like(loss))
    assert_same(doubled, 2 * dpred)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_class_indices_of_every_type(dtype):
    logits, targets = draw(3, 4), np.array([3, 0, 1], dtype)
    assert_same(
        F.softmax_cross_entropy(logits, targets), ops.softmax_cross_entropy(logits, targets)[0]
    )


def test_class_probabilities():
    logits, targets = draw(3, 4), RNG.random((3, 4), np.float32)
    assert_same(
        F.softmax_cross_entropy(logits, targets), ops.softmax_cross_entropy(logits, targets)[0]
    )


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_fastnns(shape, affine, activation, training):
    x, dy = draw(*shape), draw(*shape)
    gamma, beta = (draw(3), draw(3)) if affine else (None, None)
    running = [draw(3), np.abs(draw(3))]
    options = {"training": training, "activation": activation, "momentum": 0.3}
    given = [a.copy() for a in running]
    y, backprop, new = jax.vjp(
        jax.jit(lambda *a: (lambda y, *new: (y, new))(*F.batch_norm(*a, *running, **options))),
        *(x, gamma, beta),
        has_aux=True,
    )
    expected, mean, rstd = ops.batch_norm(x, gamma, beta, *given, **options)
    assert_same((y, *new), (expected, *given))
    dx, dgamma, dbeta = backprop(jnp.asarray(dy))
    expected = ops.batch_norm_backward(
        dy,
        x,
        gamma,
        mean,
        rstd,
        training=training,
        activation=activation,
        y=expected if activation else None,
    )
    assert_same(dx, expected[0])
    if affine:
        assert_same((dgamma, dbeta), expected[1:])
    else:
        assert dgamma is dbeta is None


def test_batch_norm_without_running_arrays():
    x = draw(5, 3)
    y, mean, var = F.batch_norm(x)
    assert mean is var is None
    assert_same(y, ops.batch_norm(x)[0])


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_is_fastnns(shape, affine):
    x, dy = draw(*shape), draw(*shape)
    gamma, beta = (draw(4), draw(4)) if affine else (None, None)
    y, backprop = jax.vjp(lambda *a: F.layer_norm(*a, eps=1e-3), x, gamma, beta)
    expected, mean, rstd = ops.layer_norm(x, gamma, beta, eps=1e-3)
    assert_same(y, expected)
    dx, dgamma, dbeta = backprop(jnp.asarray(dy))
    expected = ops.layer_norm_backward(dy, x, gamma, mean, rstd)
    assert_same(dx, expected[0])
    assert (dgamma is None) == (gamma is None)
    if affine:
        assert_same((dgamma, dbeta), expected[1:])


# ---- updates -------------------------------------------------------------------------------


def positive(*shape):
    return np.abs(draw(*shape))


STEPS = {
    "adam": ("adam_step", ("exp_avg", "exp_avg_sq"), {"step": 3, "weight_decay": 0.1}),
    "adamw": ("adam_step", ("exp_avg", "exp_avg_sq"), {"step": 1, "decoupled": True}),
    "amsgrad": ("adam_step", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), {"step": 2}),
    "sgd": ("sgd_step", (), {}),
    "nesterov": ("sgd_step", ("velocity",), {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("adagrad_step", ("sum_sq",), {}),
    "rmsprop": ("rmsprop_step", ("square_avg",), {"eps_in_sqrt": True}),
    "centered": (
        "rmsprop_step",
        ("square_avg", "velocity", "grad_avg"),
        {"momentum": 0.5},
    ),
}


def step_arguments(state, *shape):
    rest = {name: positive(*shape) for name in state}
    if "grad_avg" in rest:
        rest["grad_avg"] *= 0.01
    return {"param": draw(*shape), "grad": draw(*shape), **rest}


def fastnn_step(op, arrays, numbers):
    """What fastnn.ops makes of copies of the arrays."""
    extra = {"amsgrad": True} if "max_exp_avg_sq" in arrays else {}
    extra |= {"centered": True} if "grad_avg" in arrays else {}
    copies = {name: a.copy() for name, a in arrays.items()}
    getattr(ops, op)(**copies, **numbers, **extra, lr=np.float32(0.01))
    return tuple(a for name, a in copies.items() if name != "grad")


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_fastnns(name):
    op, state, numbers = STEPS[name]
    arrays = step_arguments(state, 5, 3)
    given = {key: a.copy() for key, a in arrays.items()}
    step = jax.jit(lambda arrays: getattr(F, op)(**arrays, **numbers, lr=0.01))
    assert_same(step(arrays), fastnn_step(op, arrays, numbers))
    for key, a in arrays.items():
        np.testing.assert_array_equal(a, given[key])


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_trees_are_those_of_their_leaves(name):
    op, state, numbers = STEPS[name]
    leaves = [step_arguments(state, 4), step_arguments(state, 2, 3)]
    trees = {key: {"a": leaves[0][key], "b": [leaves[1][key]]} for key in leaves[0]}
    got = getattr(F, op)(**trees, **numbers, lr=0.01)
    for i, expected in enumerate(fastnn_step(op, arrays, numbers) for arrays in leaves):
        assert_same(tuple(jax.tree.leaves(tree)[i] for tree in got), expected)


def test_a_tree_without_leaves():
    assert F.sgd_step({}, {}, lr=0.1) == ({},)


def test_rate_and_step_may_be_traced():
    arrays = step_arguments(("exp_avg", "exp_avg_sq"), 6)
    step = jax.jit(lambda step, lr: F.adam_step(**arrays, step=step, lr=lr))
    for t in (1, 2, 7):
        expected = fastnn_step("adam_step", arrays, {"step": t})
        assert_same(step(jnp.int32(t), jnp.float32(0.01)), expected)
    assert step._cache_size() == 1


def test_donated_memory_is_updated_in_place(way):
    state = [jnp.asarray(a) for a in (draw(1000), positive(1000), positive(1000))]
    before = [a.unsafe_buffer_pointer() for a in state]
    grad = jnp.asarray(draw(1000))
    step = jax.jit(
        lambda p, m, v, g: F.adam_step(p, g, m, v, step=1, lr=0.1), donate_argnums=(0, 1, 2)
    )
    new = step(*state, grad)
    if way == "native":
        assert [a.unsafe_buffer_pointer() for a in new] == before
    assert all(a.is_deleted() for a in state)
    assert not grad.is_deleted()


# ---- vmap ----------------------------------------------------------------------------------


def loops(f, *args):
    """How many loops JAX makes of a function."""
    return str(jax.make_jaxpr(f)(*args)).count("scan[")


def test_vmap_takes_rows_at_once():
    x, w, b, gamma = draw(6, 7), draw(7, 5), draw(5), draw(7)
    linear = jax.vmap(lambda x: F.linear(x, w, b, activation="tanh"))
    assert_same(linear(x), ops.matmul(x, w, bias=b, activation="tanh"))
    norm = jax.vmap(jax.vmap(lambda x: F.layer_norm(x, gamma)))
    assert_same(norm(x.reshape(2, 3, 7)), ops.layer_norm(x.reshape(2, 3, 7), gamma)[0])
    soft = jax.vmap(F.softmax, in_axes=1)
    assert_same(soft(x), ops.softmax(np.ascontiguousarray(x.T)))
    for f in (linear, soft, jax.vmap(F.gelu)):
        assert loops(f, x) == 0
    assert loops(norm, x.reshape(2, 3, 7)) == 0


def test_vmap_of_what_rows_share_runs_one_by_one():
    x, w, b = draw(3, 6, 7), draw(3, 7, 5), draw(5)
    y = jax.vmap(F.linear, in_axes=(0, 0, None))(x, w, b)
    assert_same(y, np.stack([ops.matmul(x[i], w[i], bias=b) for i in range(3)]))
    y = jax.vmap(F.linear, in_axes=(None, 0, None))(x[0], w, b)
    assert_same(y, np.stack([ops.matmul(x[0], w[i], bias=b) for i in range(3)]))
    logits, targets = draw(3, 6, 4), RNG.integers(0, 4, (3, 6))
    losses = jax.vmap(F.softmax_cross_entropy)(logits, targets)
    expected = [ops.softmax_cross_entropy(*pair)[0] for pair in zip(logits, targets, strict=True)]
    assert_same(losses, np.stack(expected))
    params, grads = draw(3, 4), draw(3, 4)
    (new,) = jax.vmap(lambda p, g: F.sgd_step(p, g, lr=0.5))(params, grads)
    np.testing.assert_allclose(new, params - np.float32(0.5) * grads, rtol=1e-6)


def test_gradients_under_vmap_and_of_it():
    x, w, b = draw(6, 7), draw(7, 5), draw(5)

    def loss(w, x):
        return F.linear(x, w, b, activation="relu").sum()

    whole = jax.grad(loss)(w, x)
    each = jax.vmap(jax.grad(loss), (None, 0))(w, x)
    summed = jax.grad(lambda w: jax.vmap(loss, (None, 0))(w, x).sum())(w)
    np.testing.assert_allclose(each.sum(0), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(summed, whole, rtol=1e-5, atol=1e-5)


def test_by_row_keeps_pytrees():
    double = by_row(lambda x, shared: (x * 2 if shared is None else x * shared,))
    x = draw(3, 2)
    assert_same(jax.vmap(lambda x: double(x, None))(x), (2 * x,))
    assert_same(jax.vmap(double, (0, 0))(x, x), (x * x,))


# ---- refusals ------------------------------------------------------------------------------


def refusals():
    f32, f16, ints = draw(3, 4), draw(3, 4).astype(np.float16), np.arange(3)
    d, s, t = fnn.DTypeError, fnn.ShapeError, TypeError
    yield d, "relu: x must be float32 or float64, got float16", F.relu, f16
    yield d, "linear: weight must be float32 or float64, got float16", F.linear, f32, f16.T
    yield s, r"linear: x must have shape \(3, 5\), got \(3, 4\)", F.linear, f32, draw(5, 2)
    yield s, "linear: x must be", F.linear, f32, draw(4)
    yield s, r"linear: bias must have shape \(2,\)", F.linear, f32, draw(4, 2), draw(3)
    yield (
        s,
        r"softmax_cross_entropy: targets must have shape \(3,\), got \(4,\)",
        (F.softmax_cross_entropy),
        f32,
        np.arange(4),
    )
    yield s, "softmax_cross_entropy: logits must be", F.softmax_cross_entropy, draw(3), ints
    yield s, "mse: target must have shape", F.mse, f32, f32.T
    yield s, "layer_norm: gamma must have shape", F.layer_norm, f32, draw(3)
    yield s, "batch_norm: x must be", F.batch_norm, draw(3)
    yield (
        ValueError,
        "batch_norm: running_mean and running_var must be given",
        (F.batch_norm),
        f32,
        None,
        None,
        draw(4),
    )
    yield s, r"sgd_step: grad must have shape \(3, 4\), got \(4, 3\)", sgd, f32, f32.T
    yield d, "sgd_step: grad must be float32 or float64 as param is", sgd, f32, f16
    yield t, "sgd_step: grad must have the structure of param", sgd, [f32], (f32,)


def sgd(param, grad):
    return F.sgd_step(param, grad, lr=0.1)


@pytest.mark.parametrize("case", list(refusals()), ids=lambda case: case[1].split(":")[0])
def test_refuses_while_it_is_traced(case):
    error, text, function, *args = case
    with pytest.raises(error, match=f"^{text}"):
        jax.eval_shape(function, *args)


def test_refuses_an_unknown_reduction_and_activation():
    x = draw(3, 4)
    with pytest.raises(ValueError, match="mse: reduction must be"):
        F.mse(x, x, reduction="median")
    with pytest.raises(Exception, match=r"activation must .*swish"):
        jax.block_until_ready(F.linear(x, x.T, activation="swish"))


def test_a_label_out_of_range_is_an_error_when_it_runs():
    loss = jax.jit(F.softmax_cross_entropy)
    with pytest.raises(Exception, match=r"label 4 at row 1; valid 0\.\.3"):
        jax.block_until_ready(loss(draw(2, 4), np.array([0, 4])))


def test_a_violated_requirement_is_an_error_when_it_runs():
    with pytest.raises(Exception, match="adam_step: step must be >= 1, got 0"):
        jax.block_until_ready(F.adam_step(*[draw(3)] * 4, step=0, lr=0.1))


def test_a_gradient_that_there_is_not_is_refused():
    logits, targets = draw(3, 4), RNG.random((3, 4), np.float32)
    with pytest.raises(TypeError, match="no gradient with respect to targets"):
        jax.grad(F.softmax_cross_entropy, 1)(logits, targets)
    with pytest.raises(TypeError, match="no gradient with respect to sample_weight"):
        jax.grad(lambda w: F.mse(logits, targets, sample_weight=w))(draw(3))
    weight = jnp.asarray(positive(3))
    jax.grad(lambda p: F.mse(p, targets, sample_weight=jax.lax.stop_gradient(weight)))(logits)


def test_there_are_no_second_derivatives():
    with pytest.raises(Exception, match=r"cannot be differentiated|do not support JVP"):
        jax.grad(jax.grad(lambda x: F.tanh(x)))(1.0)


def test_the_handler_refuses_buffers_that_do_not_fit(way):
    """Whoever calls it: it never touches memory outside of what XLA handed over."""
    if way != "native":
        pytest.skip("Python checks there")
    x, op = jnp.asarray(draw(3, 4)), np.int64
    relu = {"op": op(ops.__all__.index("relu")), "count": op(1), "arrays": op(0b10)}

    bytes_ = jnp.zeros((3, 4), jnp.uint8)
    take = {"op": op(ops.__all__.index("take_rows")), "count": op(1), "arrays": op(0b11000)}

    def run(results, *operands, **attributes):
        call = jax.ffi.ffi_call("fastnn_relu", results)
        return jax.block_until_ready(call(*operands, **attributes))

    like = jax.ShapeDtypeStruct
    assert (run(like((3, 4), x.dtype), x, **relu) == jnp.maximum(x, 0)).all()
    for text, results, operands, attributes in (
        ("y must be of shape", like((3, 3), x.dtype), [x], relu),
        ("y must be float32 or", like((3, 4), jnp.int32), [x], relu),
        ("x must be float32 or", like((3, 4), x.dtype), [x.astype(jnp.int32)], relu),
        ("y is no array", like((3, 4), x.dtype), [x, x], relu | {"arrays": op(0b110)}),
        ("n is no array", like((3, 4), x.dtype), [x[0, 0], x], relu | {"arrays": op(0b11)}),
        ("x is missing", like((3, 4), x.dtype), [], relu | {"arrays": op(0)}),
        ("index can't be passed", like((3, 4), jnp.uint8), [bytes_, bytes_[0]], take),
        ("out of range", like((3, 4), x.dtype), [x], relu | {"count": op(2)}),
        (".*", like((3, 4), x.dtype), [x], relu | {"op": op(10_000)}),
    ):
        with pytest.raises(Exception, match=text):
            run(results, *operands, **attributes)


# ---- more ----------------------------------------------------------------------------------


def test_large_arrays_and_many_calls_in_one_program():
    x, w = draw(512, 512), draw(512, 512) / 32

    @jax.jit
    def deep(x):
        for _ in range(8):
            x = F.layer_norm(F.linear(x, w, activation="relu"))
        return x

    expected = x
    for _ in range(8):
        expected = ops.layer_norm(ops.matmul(expected, w, activation="relu"))[0]
    assert_same(deep(x), expected)


def test_scan_and_checkpoint():
    x, w = draw(4, 5), draw(5, 5)

    def loss(w):
        layer = jax.checkpoint(lambda h: F.linear(h, w, activation="tanh"))
        h, _ = jax.lax.scan(lambda h, _: (layer(h), None), jnp.asarray(x), None, length=3)
        return F.mse(h, jnp.zeros_like(h))

    def plain(w):
        h = x
        for _ in range(3):
            h = jnp.tanh(h @ w)
        return (h**2).mean()

    np.testing.assert_allclose(jax.grad(loss)(w), jax.grad(plain)(w), rtol=1e-4, atol=1e-6)


def test_readme_example_learns(capsys):
    exec(example("JAX"), {})
    first, last = map(float, capsys.readouterr().out.split())
    assert last < first / 10

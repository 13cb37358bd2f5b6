"""JAX's checks of gradients and its transformations on fastnn.jax; optax's and Flax's results."""

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

from fastnn import jax as F

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _doubles():
    with jax.enable_x64(True):
        yield


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape))


def away_from_zero(*shape):
    x = draw(*shape)
    return x + jnp.copysign(0.1, x)


ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": F.sigmoid,
    "hard_sigmoid": F.hard_sigmoid,
    "tanh": F.tanh,
    "gelu": F.gelu,
    "gelu_tanh": F.gelu_tanh,
    "silu": F.silu,
    "softplus": lambda x: F.softplus(x, 2.0, 10.0),
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
}
LABELS = np.array([0, 3, -100, 1, 2])
SHARES = RNG.dirichlet(np.ones(4), 5)
WEIGHT, SAMPLE_WEIGHT = RNG.random(4), RNG.random(5)
RUNNING = RNG.standard_normal(4), RNG.random(4)

# Every differentiable function and every way it takes gradients: its arguments' shapes.
CASES = {
    **{name: (f, (5, 4)) for name, f in ACTIVATIONS.items()},
    "linear": (F.linear, (5, 7), (7, 4), (4,)),
    "linear without bias": (F.linear, (5, 7), (7, 4)),
    "linear of a vector": (F.linear, (7,), (7, 4), (4,)),
    **{
        f"linear {name}": (
            lambda *a, name=name: F.linear(*a, activation=name),
            *((2, 3, 7), (7, 4), (4,)),
        )
        for name in ("relu", "gelu", "softplus")
    },
    **{
        f"{name} {reduction}": (lambda *a, f=f, r=reduction: f(*a, reduction=r), *shapes)
        for reduction in ("mean", "sum", "none")
        for name, f, *shapes in [
            ("cross_entropy", lambda x, **k: F.softmax_cross_entropy(x, LABELS, **k), (5, 4)),
            (
                "weighted cross_entropy",
                lambda x, **k: F.softmax_cross_entropy(
                    *(x, LABELS), weight=WEIGHT, sample_weight=SAMPLE_WEIGHT, **k
                ),
                (5, 4),
            ),
            (
                "cross_entropy of shares",
                lambda x, **k: F.softmax_cross_entropy(x, SHARES, label_smoothing=0.2, **k),
                (5, 4),
            ),
            (
                "sigmoid_cross_entropy",
                lambda x, **k: F.sigmoid_cross_entropy(
                    *(x, SHARES), pos_weight=WEIGHT, sample_weight=SAMPLE_WEIGHT, **k
                ),
                (5, 4),
            ),
            ("mse", lambda *a, **k: F.mse(*a, sample_weight=SAMPLE_WEIGHT, **k), (5, 4), (5, 4)),
            ("mae", lambda x, **k: F.mae(x, SHARES + 9, **k), (5, 4)),
        ]
    },
    "layer_norm": (F.layer_norm, (5, 4), (4,), (4,)),
    "layer_norm without weights": (F.layer_norm, (2, 3, 4)),
    "batch_norm": (lambda *a: F.batch_norm(*a, *RUNNING)[0], (8, 4), (4,), (4,)),
    "batch_norm of images": (lambda *a: F.batch_norm(*a)[0], (3, 4, 2, 2), (4,), (4,)),
    "batch_norm without weights": (lambda x: F.batch_norm(x)[0], (8, 4)),
    "batch_norm relu": (lambda *a: F.batch_norm(*a, activation="relu")[0], (8, 4), (4,), (4,)),
    "batch_norm inference": (
        lambda *a: F.batch_norm(*a, *RUNNING, training=False)[0],
        *((8, 4), (4,), (4,)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_check_grads(name):
    function, *shapes = CASES[name]
    args = [away_from_zero(*shape) for shape in shapes]
    check_grads(function, args, order=1, modes=["rev"], eps=1e-6)


MAPPED = [name for name in CASES if not name.endswith(" sum")]


@pytest.mark.parametrize("name", MAPPED)
def test_check_grads_of_jit_and_vmap(name):
    function, *shapes = CASES[name]
    args = [away_from_zero(3, *shape) for shape in shapes]
    mapped = jax.jit(jax.vmap(function))
    check_grads(mapped, args, order=1, modes=["rev"], eps=1e-6)
    one_by_one = [function(*(a[i] for a in args)) for i in range(3)]
    assert (mapped(*args) == jnp.stack(one_by_one)).all()


@pytest.mark.parametrize("name", MAPPED)
def test_vmap_over_the_first_argument_alone(name):
    function, first, *rest = CASES[name]
    x, others = away_from_zero(3, *first), [away_from_zero(*shape) for shape in rest]
    mapped = jax.vmap(function, (0, *(None for _ in others)))
    one_by_one = [function(x[i], *others) for i in range(3)]
    assert (mapped(x, *others) == jnp.stack(one_by_one)).all()
    check_grads(mapped, [x, *others], order=1, modes=["rev"], eps=1e-6)


# What jax.nn and optax compute.
SAME = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "tanh": jnp.tanh,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
}


@pytest.mark.parametrize("name", SAME)
def test_activations_agree_with_jax(name):
    x, dy = 3 * draw(6, 5), draw(6, 5)
    for a, b in zip(jax.vjp(ACTIVATIONS[name], x), jax.vjp(SAME[name], x), strict=True):
        a, b = (a(dy)[0], b(dy)[0]) if callable(a) else (a, b)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["adam", "adagrad", "rmsprop", "sgd"])
def test_donation(name):
    state = {
        "adam": ("exp_avg", "exp_avg_sq"),
        "adagrad": ("sum_sq",),
        "rmsprop": ("square_avg",),
        "sgd": ("velocity",),
    }[name]
    extra = {"adam": {"step": 1}, "sgd": {"momentum": 0.9}}.get(name, {})
    step = getattr(F, f"{name}_step")

    def update(param, rest, grad):
        return step(param, grad, **rest, **extra, lr=0.1)

    param, grad, rest = draw(100), draw(100), {key: jnp.abs(draw(100)) for key in state}
    expected = update(param, rest, grad)
    donated = jax.jit(update, donate_argnums=(0, 1))(param, rest, grad)
    assert all((a == b).all() for a, b in zip(donated, expected, strict=True))
    assert param.is_deleted()
    assert all(a.is_deleted() for a in rest.values())


# ---- optax ---------------------------------------------------------------------------------

OPTIMIZERS = {
    "adam": {},
    "adam eps": {"eps": 1e-2, "b1": 0.8, "b2": 0.9},
    "adamw": {"weight_decay": 0.1},
    "sgd": {},
    "sgd momentum": {"momentum": 0.9},
    "sgd nesterov": {"momentum": 0.9, "nesterov": True},
    "rmsprop": {},
    "rmsprop outside": {"eps_in_sqrt": False, "eps": 1e-2, "initial_scale": 0.5},
    "rmsprop centered": {"centered": True, "momentum": 0.9},
    "adagrad": {},
    "adagrad eps": {"eps": 1e-2, "initial_accumulator_value": 0.0},
}


def train(optimizer, params, steps=10):
    import optax

    @jax.jit
    def update(params, state, t):
        grads = jax.tree.map(lambda p: jnp.sin(3 * p + t), params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for t in range(steps):
        params, state = update(params, state, t)
    return params


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_agree_with_optax(name, scheduled, dtype):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    import fastnn.jax.optax as ours

    method, options = name.split()[0], OPTIMIZERS[name]
    rate = optax.exponential_decay(0.05, 3, 0.7) if scheduled else 0.05
    if scheduled and method == "rmsprop" and "momentum" in options:
        with pytest.raises(ValueError, match="momentum with a schedule is not supported"):
            ours.rmsprop(rate, **options)
        return
    params = {"w": draw(4, 3).astype(dtype), "b": [draw(3).astype(dtype)]}
    got = train(getattr(ours, method)(rate, **options), params)
    expected = train(getattr(optax, method)(rate, **options), params)
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("adam", {"eps_root": 1e-8}),
        ("adam", {"mu_dtype": "bfloat16"}),
        ("adam", {"nesterov": True}),
        ("adamw", {"mask": {"w": True}}),
        ("sgd", {"accumulator_dtype": "float32"}),
        ("rmsprop", {"nesterov": True}),
        ("rmsprop", {"bias_correction": True}),
    ],
)
def test_what_the_kernels_do_not_compute_is_refused(method, options):
    pytest.importorskip("optax", reason="optax is not installed")
    import fastnn.jax.optax as ours

    (name,) = options
    with pytest.raises(ValueError, match=f"^{method}: {name}=.* is not supported; use optax"):
        getattr(ours, method)(0.1, **options)


def test_transformations_compose():
    optax = pytest.importorskip("optax", reason="optax is not installed")
    import fastnn.jax.optax as ours

    params = {"w": draw(4, 3)}
    chains = [
        optax.MultiSteps(optax.chain(optax.clip_by_global_norm(0.5), adam(0.1)), 2)
        for adam in (ours.adam, optax.adam)
    ]
    got, expected = (train(chain.gradient_transformation(), params)["w"] for chain in chains)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["labels", "shares", "sigmoid"])
def test_losses_agree_with_optax(name):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    labels = LABELS % 4
    ours, theirs = {
        "labels": (
            lambda x: F.softmax_cross_entropy(x, labels, reduction="none"),
            lambda x: optax.softmax_cross_entropy_with_integer_labels(x, labels),
        ),
        "shares": (
            lambda x: F.softmax_cross_entropy(x, SHARES, reduction="none"),
            lambda x: optax.softmax_cross_entropy(x, SHARES),
        ),
        "sigmoid": (
            lambda x: F.sigmoid_cross_entropy(x, SHARES, reduction="none"),
            lambda x: optax.sigmoid_binary_cross_entropy(x, SHARES),
        ),
    }[name]
    x = 3 * draw(5, 4)
    (y, backprop), (expected, peer) = jax.vjp(ours, x), jax.vjp(theirs, x)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    dy = jnp.ones_like(y)
    np.testing.assert_allclose(backprop(dy)[0], peer(dy)[0], rtol=1e-12, atol=1e-14)


# ---- Flax ----------------------------------------------------------------------------------


def test_a_flax_model_trains_as_with_flax_and_optax():
    pytest.importorskip("flax", reason="Flax is not installed")
    optax = pytest.importorskip("optax", reason="optax is not installed")
    import flax.linen as nn
    from flax.training.train_state import TrainState

    import fastnn.jax.optax as fastnn_optax

    class Net(nn.Module):
        ours: bool

        @nn.compact
        def __call__(self, x):
            init, zeros, ones = (
                nn.initializers.lecun_normal(),
                nn.initializers.zeros,
                nn.initializers.ones,
            )
            for i, n in enumerate((16, 3)):
                w = self.param(f"w{i}", init, (x.shape[-1], n), x.dtype)
                b = self.param(f"b{i}", zeros, (n,), x.dtype)
                last = i == 1
                if self.ours:
                    x = F.linear(x, w, b, activation=None if last else "relu")
                else:
                    x = x @ w + b if last else nn.relu(x @ w + b)
                if not last:
                    scale = self.param("scale", ones, (n,), x.dtype)
                    shift = self.param("shift", zeros, (n,), x.dtype)
                    if self.ours:
                        x = F.layer_norm(x, scale, shift, eps=1e-6)
                    else:
                        norm = nn.LayerNorm(
                            use_scale=False, use_bias=False, use_fast_variance=False
                        )
                        x = norm(x) * scale + shift
            return x

    x, y = draw(30, 5), jnp.arange(30) % 3

    def ours(logits):
        return F.softmax_cross_entropy(logits, y)

    def theirs(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def losses(net, loss, optimizer):
        params = net.init(jax.random.key(0), x)
        state = TrainState.create(apply_fn=net.apply, params=params, tx=optimizer)

        @jax.jit
        def step(state):
            value, grads = jax.value_and_grad(lambda p: loss(state.apply_fn(p, x)))(state.params)
            return value, state.apply_gradients(grads=grads)

        values = []
        for _ in range(30):
            value, state = step(state)
            values.append(float(value))
        return values

    got = losses(Net(True), ours, fastnn_optax.adam(0.01))
    expected = losses(Net(False), theirs, optax.adam(0.01))
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert got[-1] < got[0] / 2

"""The switches for other libraries' conventions, each against the library or its written formula.

The hyper-parameters are sums of few powers of two, exact in the float32 that ONNX keeps them in;
epsilon is large, so that its place matters.
"""

import numpy as np
import pytest

from fastnn import ops

LR, EPS, B1, B2, MOMENTUM = 0.0625, 0.125, 0.875, 0.96875, 0.875
STEPS = 4
RNG = np.random.default_rng(0)
START = RNG.standard_normal(7)
GRADIENTS = RNG.standard_normal((STEPS, 7))
IMAGES = RNG.standard_normal((6, 3)) * 3 + 1


def trained(update):
    """Parameters after some calls of ``update(param, grad, step)``, in place or returning them."""
    param = START.copy()
    for step, grad in enumerate(GRADIENTS, 1):
        result = update(param, grad.copy(), step)
        param = param if result is None else result
    return param


def ours(op, states, **options):
    arrays = {name: np.zeros_like(START) for name in states}

    def update(param, grad, step):
        numbers = {"step": step} if op is ops.adam_step else {}
        op(param, grad, **arrays, lr=LR, **numbers, **options)

    return trained(update)


def with_torch(name, **options):
    torch = pytest.importorskip("torch")
    param = torch.nn.Parameter(torch.tensor(START))
    optimizer = getattr(torch.optim, name)([param], lr=LR, **options)
    for grad in GRADIENTS:
        param.grad = torch.tensor(grad)
        optimizer.step()
    return param.detach().numpy()


def with_optax(make):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    with jax.enable_x64(True):
        optimizer = make(optax)
        param = jax.numpy.asarray(START)
        state = optimizer.init(param)
        for grad in GRADIENTS:
            change, state = optimizer.update(jax.numpy.asarray(grad), state, param)
            param = optax.apply_updates(param, change)
        return np.asarray(param)


def with_scikit_learn(name, **options):
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    param = START.copy()
    optimizer = getattr(optimizers, name)([param], LR, **options)
    for grad in GRADIENTS:
        optimizer.update_params([param], [grad])
    return param


def with_onnx(op, states, first, **attributes):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    names = ["param", "grad", *states]
    results = [f"new_{name}" for name in ("param", *states)]
    node = onnx.helper.make_node(
        op, ["rate", "count", *names], results, domain="ai.onnx.preview.training", **attributes
    )
    reference = ReferenceEvaluator(node)
    arrays = {name: np.zeros_like(START) for name in states}

    def update(param, grad, step):
        given = {"param": param, "grad": grad, **arrays}
        given |= {"rate": np.float64(LR), "count": np.int64(step - 1 + first)}
        param, *new = reference.run(None, given)
        arrays.update(zip(states, new, strict=True))
        return param

    return trained(update)


def assert_equal(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


# ---- Adam: epsilon beside the corrected root, or beside the plain one ----------------------------


def adam(eps_mode):
    return ours(
        ops.adam_step, ("exp_avg", "exp_avg_sq"), beta1=B1, beta2=B2, eps=EPS, eps_mode=eps_mode
    )


def adam_of_keras_and_thinc():
    """Keras 3 and thinc: the rate takes the correction of both moments."""
    m, v = np.zeros_like(START), np.zeros_like(START)

    def update(param, grad, step):
        m[:] = B1 * m + (1 - B1) * grad
        v[:] = B2 * v + (1 - B2) * grad**2
        rate = LR * np.sqrt(1 - B2**step) / (1 - B1**step)
        return param - rate * m / (np.sqrt(v) + EPS)

    return trained(update)


def test_the_places_of_epsilon_in_adam_differ():
    assert np.abs(adam("torch") - adam("hat")).max() > 1e-3


@pytest.mark.parametrize(
    ("eps_mode", "theirs"),
    [
        ("torch", lambda: with_torch("Adam", betas=(B1, B2), eps=EPS)),
        ("torch", lambda: with_optax(lambda optax: optax.adam(LR, B1, B2, EPS))),
        (
            "hat",
            lambda: with_scikit_learn("AdamOptimizer", beta_1=B1, beta_2=B2, epsilon=EPS),
        ),
        ("hat", lambda: with_onnx("Adam", ("m", "v"), 1, alpha=B1, beta=B2, epsilon=EPS)),
        ("hat", adam_of_keras_and_thinc),
    ],
    ids=["torch", "optax", "scikit-learn", "onnx", "keras-thinc"],
)
def test_adam_is_that_of(eps_mode, theirs):
    assert_equal(adam(eps_mode), theirs())


# ---- RMSProp: epsilon beside the root, or under it -----------------------------------------------


def rmsprop(eps_in_sqrt):
    return ours(ops.rmsprop_step, ("square_avg",), alpha=B2, eps=EPS, eps_in_sqrt=eps_in_sqrt)


def rmsprop_of_keras():
    v = np.zeros_like(START)

    def update(param, grad, step):
        v[:] = B2 * v + (1 - B2) * grad**2
        return param - LR * grad / np.sqrt(v + EPS)

    return trained(update)


def test_the_places_of_epsilon_in_rmsprop_differ():
    assert np.abs(rmsprop(False) - rmsprop(True)).max() > 1e-3


@pytest.mark.parametrize(
    ("eps_in_sqrt", "theirs"),
    [
        (False, lambda: with_torch("RMSprop", alpha=B2, eps=EPS)),
        (False, lambda: with_optax(lambda o: o.rmsprop(LR, B2, EPS, eps_in_sqrt=False))),
        (True, lambda: with_optax(lambda o: o.rmsprop(LR, B2, EPS))),
        (True, rmsprop_of_keras),
    ],
    ids=["torch", "optax-beside", "optax", "keras"],
)
def test_rmsprop_is_that_of(eps_in_sqrt, theirs):
    assert_equal(rmsprop(eps_in_sqrt), theirs())


# ---- SGD: the velocity has the rate in it, or not ------------------------------------------------


def sgd(nesterov):
    return ours(ops.sgd_step, ("velocity",), momentum=MOMENTUM, nesterov=nesterov)


def sgd_of_keras(nesterov):
    velocity = np.zeros_like(START)

    def update(param, grad, step):
        velocity[:] = MOMENTUM * velocity - LR * grad
        return param + (MOMENTUM * velocity - LR * grad if nesterov else velocity)

    return trained(update)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    "theirs",
    [
        lambda nesterov: with_torch("SGD", momentum=MOMENTUM, nesterov=nesterov),
        lambda nesterov: with_optax(lambda o: o.sgd(LR, MOMENTUM, nesterov)),
        lambda nesterov: with_scikit_learn("SGDOptimizer", momentum=MOMENTUM, nesterov=nesterov),
        lambda nesterov: with_onnx(
            *("Momentum", ("v",), 0),
            alpha=MOMENTUM,
            beta=1.0,
            norm_coefficient=0.0,
            mode="nesterov" if nesterov else "standard",
        ),
        sgd_of_keras,
    ],
    ids=["torch", "optax", "scikit-learn", "onnx", "keras"],
)
def test_momentum_is_that_of(theirs, nesterov):
    assert_equal(sgd(nesterov), theirs(nesterov))


# ---- batch norm: the running variance is unbiased or not, momentum weighs the new or the old -----


def running(unbiased, momentum):
    mean, var = np.zeros(3), np.ones(3)
    for rows in (IMAGES, 2 * IMAGES[:4]):
        ops.batch_norm(
            rows,
            running_mean=mean,
            running_var=var,
            momentum=momentum,
            unbiased_running_var=unbiased,
        )
    return np.stack([mean, var])


def running_of_torch():
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm1d(3, momentum=1 - MOMENTUM).double()
    for rows in (IMAGES, 2 * IMAGES[:4]):
        layer(torch.tensor(rows))
    return np.stack([layer.running_mean.numpy(), layer.running_var.numpy()])


def running_of_onnx():
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    node = onnx.helper.make_node(
        *("BatchNormalization", ["x", "scale", "b", "mean", "var"], ["y", "new_mean", "new_var"]),
        momentum=MOMENTUM,
        training_mode=1,
    )
    mean, var = np.zeros(3), np.ones(3)
    for rows in (IMAGES, 2 * IMAGES[:4]):
        given = {"x": rows, "scale": np.ones(3), "b": np.zeros(3), "mean": mean, "var": var}
        _, mean, var = ReferenceEvaluator(node).run(None, given)
    return np.stack([mean, var])


def running_of_keras():
    statistics = np.stack([np.zeros(3), np.ones(3)])
    for rows in (IMAGES, 2 * IMAGES[:4]):
        new = np.stack([rows.mean(0), rows.var(0)])
        statistics = statistics * MOMENTUM + new * (1 - MOMENTUM)
    return statistics


@pytest.mark.parametrize(
    ("unbiased", "theirs"),
    [(True, running_of_torch), (False, running_of_onnx), (False, running_of_keras)],
    ids=["torch", "onnx", "keras"],
)
def test_running_statistics_are_those_of(unbiased, theirs):
    """Momentum weighs the new value here and in PyTorch, the old one in ONNX and Keras."""
    found, expected = running(unbiased, 1 - MOMENTUM), theirs()
    assert_equal(found, expected)
    assert np.abs(running(not unbiased, 1 - MOMENTUM) - expected).max() > 1e-2

import dataclasses
import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastnn as fnn

DTYPES = {"float32": 3e-5, "float64": 1e-12}
STEPS = 10

# Ours, and the class of torch.optim with its arguments.
TWINS = {
    "sgd": (fnn.SGD(0.1), "SGD", {}),
    "sgd-momentum": (fnn.SGD(0.1, momentum=0.9), "SGD", {"momentum": 0.9}),
    "sgd-nesterov": (
        fnn.SGD(0.1, momentum=0.9, nesterov=True),
        "SGD",
        {"momentum": 0.9, "nesterov": True},
    ),
    "sgd-decay": (
        fnn.SGD(0.1, momentum=0.5, weight_decay=0.2),
        "SGD",
        {"momentum": 0.5, "weight_decay": 0.2},
    ),
    "sgd-maximize": (fnn.SGD(0.1, maximize=True), "SGD", {"maximize": True}),
    "adagrad": (fnn.Adagrad(), "Adagrad", {}),
    "adagrad-all": (
        fnn.Adagrad(0.1, eps=1e-3, weight_decay=0.2, maximize=True),
        "Adagrad",
        {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.2, "maximize": True},
    ),
    "rmsprop": (fnn.RMSProp(), "RMSprop", {}),
    "rmsprop-momentum": (fnn.RMSProp(momentum=0.8), "RMSprop", {"momentum": 0.8}),
    "rmsprop-centered": (fnn.RMSProp(centered=True), "RMSprop", {"centered": True}),
    "rmsprop-all": (
        fnn.RMSProp(0.02, 0.9, 1e-3, 0.8, True, weight_decay=0.2, maximize=True),
        "RMSprop",
        {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "momentum": 0.8, "centered": True}
        | {"weight_decay": 0.2, "maximize": True},
    ),
    "adam": (fnn.Adam(), "Adam", {}),
    "adam-betas-eps": (
        fnn.Adam(betas=(0.8, 0.9), eps=1e-2),
        "Adam",
        {"betas": (0.8, 0.9), "eps": 1e-2},
    ),
    "adam-decay": (fnn.Adam(weight_decay=0.2), "Adam", {"weight_decay": 0.2}),
    "adam-amsgrad": (
        fnn.Adam(betas=(0.9, 0.5), amsgrad=True),
        "Adam",
        {"betas": (0.9, 0.5), "amsgrad": True},
    ),
    "adam-maximize": (fnn.Adam(maximize=True), "Adam", {"maximize": True}),
    "adamw": (fnn.AdamW(), "AdamW", {}),
    "adamw-all": (
        fnn.AdamW(0.05, weight_decay=0.3, amsgrad=True, maximize=True),
        "AdamW",
        {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "maximize": True},
    ),
    "radam": (fnn.RAdam(), "RAdam", {}),
    "radam-decay": (fnn.RAdam(0.05, weight_decay=0.2), "RAdam", {"lr": 0.05, "weight_decay": 0.2}),
    "radam-decoupled": (
        fnn.RAdam(0.05, weight_decay=0.2, decoupled_weight_decay=True),
        "RAdam",
        {"lr": 0.05, "weight_decay": 0.2, "decoupled_weight_decay": True},
    ),
    "radam-maximize": (fnn.RAdam(maximize=True), "RAdam", {"maximize": True}),
}
STATE_IN_TORCH = {
    "velocity": "momentum_buffer",
    "sum_sq": "sum",
    "max_exp_avg_sq": "max_exp_avg_sq",
}


def problem(dtype):
    """A parameter and the gradients of ten updates, of mixed sizes."""
    rng = np.random.default_rng(3)
    param = rng.normal(size=(5, 7)).astype(dtype)
    return param, (rng.normal(size=(STEPS, 5, 7)) * rng.uniform(0.01, 3, (5, 7))).astype(dtype)


def train(optimizer, dtype="float64", lr=None):
    param, grads = problem(dtype)
    state = optimizer.init_state(param)
    for step, grad in enumerate(grads, 1):
        optimizer.update(param, grad, state, step=step, lr=optimizer.lr if lr is None else lr)
    return param, state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "name", "arguments"), TWINS.values(), ids=TWINS)
def test_matches_torch_for_ten_updates(ours, name, arguments, dtype):
    torch = pytest.importorskip("torch")
    start, grads = problem(dtype)
    theirs = torch.tensor(start, requires_grad=True)
    optimizer = getattr(torch.optim, name)([theirs], **({"lr": ours.lr} | arguments))
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        optimizer.step()
    expected = theirs.detach().numpy()
    param, state = train(ours, dtype)
    assert np.abs(expected - start).min() > 0
    assert_allclose(param - start, expected - start, rtol=DTYPES[dtype], atol=DTYPES[dtype])
    for key, array in state.items():
        value = optimizer.state[theirs][STATE_IN_TORCH.get(key, key)].numpy()
        assert np.abs(value).min() > 0
        assert_allclose(array, value, rtol=DTYPES[dtype], err_msg=key)


def test_every_switch_has_its_effect():
    """No two of the optimizers compared above do the same."""
    ends = [train(ours, lr=0.1)[0].tobytes() for ours, _, _ in TWINS.values()]
    assert len(set(ends)) == len(TWINS)


def test_dampening_is_torchs_once_there_is_a_velocity():
    torch = pytest.importorskip("torch")
    start, grads = problem("float64")
    theirs = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, dampening=0.4)
    optimizer.state[theirs]["momentum_buffer"] = torch.zeros_like(theirs)
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        optimizer.step()
    param, _ = train(fnn.SGD(0.1, momentum=0.9, dampening=0.4))
    assert_allclose(param, theirs.detach().numpy(), rtol=1e-12)


def test_adam_hat_puts_epsilon_beside_the_plain_root():
    eps, lr = 1e-2, 0.05
    param, grads = problem("float64")
    m = v = np.zeros_like(param)
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        param = param - rate * m / (np.sqrt(v) + eps)
    ours, _ = train(fnn.Adam(lr, eps=eps, eps_mode="hat"))
    assert_allclose(ours, param, rtol=1e-12)
    assert np.abs(ours - train(fnn.Adam(lr, eps=eps))[0]).max() > 1e-3


def test_rmsprop_adds_epsilon_under_the_root():
    eps, lr = 1e-2, 0.05
    param, grads = problem("float64")
    square = np.zeros_like(param)
    for g in grads:
        square = 0.99 * square + 0.01 * g * g
        param = param - lr * g / np.sqrt(square + eps)
    ours, _ = train(fnn.RMSProp(lr, eps=eps, eps_in_sqrt=True))
    assert_allclose(ours, param, rtol=1e-12)
    assert np.abs(ours - train(fnn.RMSProp(lr, eps=eps))[0]).max() > 1e-3


STATE_NAMES = {
    fnn.SGD(0.1): (),
    fnn.SGD(0.1, momentum=0.5): ("velocity",),
    fnn.Adagrad(): ("sum_sq",),
    fnn.RMSProp(): ("square_avg",),
    fnn.RMSProp(momentum=0.5): ("square_avg", "velocity"),
    fnn.RMSProp(centered=True): ("square_avg", "grad_avg"),
    fnn.RMSProp(momentum=0.5, centered=True): ("square_avg", "velocity", "grad_avg"),
    fnn.Adam(): ("exp_avg", "exp_avg_sq"),
    fnn.Adam(amsgrad=True): ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    fnn.AdamW(): ("exp_avg", "exp_avg_sq"),
    fnn.AdamW(amsgrad=True): ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    fnn.RAdam(): ("exp_avg", "exp_avg_sq"),
}
STATE_IDS = ["-".join((type(o).__name__, *names)) for o, names in STATE_NAMES.items()]


@pytest.mark.parametrize(("optimizer", "names"), STATE_NAMES.items(), ids=STATE_IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_state_starts_at_zero(optimizer, names, dtype):
    param, _ = problem(dtype)
    state = optimizer.init_state(param)
    assert optimizer.state_names == tuple(state) == names
    for array in state.values():
        assert type(array) is np.ndarray
        assert array.dtype == dtype
        assert array.shape == param.shape
        assert not array.any()
    assert len({id(array) for array in state.values()}) == len(names)


@pytest.mark.parametrize("optimizer", STATE_NAMES, ids=STATE_IDS)
def test_lists_and_scalar_arrays_give_the_same_bits(optimizer):
    expected, expected_state = train(optimizer)
    rows, grads = problem("float64")
    params = [rows[:2].copy(), rows[2:].copy()]
    states = [optimizer.init_state(param) for param in params]
    state = {name: [one[name] for one in states] for name in optimizer.state_names}
    lr, step = np.array(optimizer.lr), np.array(0)
    for grad in grads:
        step += 1
        optimizer.update(params, [grad[:2].copy(), grad[2:].copy()], state, step=step, lr=lr)
    assert_array_equal(np.concatenate(params), expected)
    for name in optimizer.state_names:
        assert_array_equal(np.concatenate(state[name]), expected_state[name])


def test_the_rate_is_that_of_the_call():
    param, grads = problem("float64")
    before = param.copy()
    optimizer = fnn.SGD(0.1)
    optimizer.update(param, grads[0], {}, step=1, lr=0.0)
    assert_array_equal(param, before)
    optimizer.update(param, grads[0], {}, step=1, lr=0.5)
    assert_allclose(param, before - 0.5 * grads[0], rtol=1e-15)


def test_refused_update_changes_nothing():
    param, grads = problem("float64")
    optimizer = fnn.Adam()
    state = optimizer.init_state(param)
    before = param.copy()
    with pytest.raises(fnn.DTypeError):
        optimizer.update(param, grads[0].astype(np.float32), state, step=1, lr=0.1)
    with pytest.raises(fnn.ShapeError):
        optimizer.update(param, grads[0][:2], state, step=1, lr=0.1)
    with pytest.raises(ValueError, match="lr must be finite and >= 0"):
        optimizer.update(param, grads[0], state, step=1, lr=math.nan)
    with pytest.raises(ValueError, match="step must be >= 1"):
        optimizer.update(param, grads[0], state, step=0, lr=0.1)
    assert_array_equal(param, before)
    assert not state["exp_avg"].any()
    assert not state["exp_avg_sq"].any()


@pytest.mark.parametrize(
    "optimizer",
    [fnn.Adagrad, fnn.RMSProp, fnn.Adam, fnn.AdamW, fnn.RAdam, lambda **k: fnn.SGD(**k)],
)
@pytest.mark.parametrize("lr", [-1e-3, math.nan, math.inf, -math.inf])
def test_refuses_rates(optimizer, lr):
    with pytest.raises(ValueError, match=f"lr must be finite and >= 0, got {lr}"):
        optimizer(lr=lr)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fnn.SGD(0.1, momentum=1.5), r"SGD: momentum must be in \[0, 1\], got 1.5"),
        (lambda: fnn.SGD(0.1, momentum=-0.1), r"SGD: momentum must be in \[0, 1\], got -0.1"),
        (lambda: fnn.SGD(0.1, dampening=math.inf), "SGD: dampening must be finite, got inf"),
        (lambda: fnn.SGD(0.1, nesterov=True), "SGD: nesterov=True needs momentum > 0"),
        (
            lambda: fnn.SGD(0.1, momentum=0.9, dampening=0.1, nesterov=True),
            "SGD: nesterov=True needs momentum > 0 and dampening = 0",
        ),
        (
            lambda: fnn.SGD(0.1, weight_decay=-1),
            "SGD: weight_decay must be finite and >= 0, got -1",
        ),
        (lambda: fnn.Adagrad(eps=0), "Adagrad: eps must be finite and > 0, got 0"),
        (lambda: fnn.RMSProp(alpha=1.1), r"RMSProp: alpha must be in \[0, 1\], got 1.1"),
        (lambda: fnn.RMSProp(momentum=2), r"RMSProp: momentum must be in \[0, 1\], got 2"),
        (lambda: fnn.RMSProp(eps=-1e-8), "RMSProp: eps must be finite and > 0, got -1e-08"),
        (lambda: fnn.Adam(betas=(0.9, 1.0)), r"Adam: betas must be two numbers in \[0, 1\), got"),
        (lambda: fnn.Adam(betas=(-0.1, 0.9)), r"Adam: betas must be two numbers in \[0, 1\), got"),
        (lambda: fnn.Adam(betas=(0.9,)), r"Adam: betas must be two numbers in \[0, 1\), got"),
        (lambda: fnn.Adam(eps=0.0), "Adam: eps must be finite and > 0, got 0.0"),
        (
            lambda: fnn.Adam(eps_mode="keras"),
            "Adam: eps_mode must be 'torch' or 'hat', got 'keras'",
        ),
        (lambda: fnn.AdamW(weight_decay=math.nan), "AdamW: weight_decay must be finite and >= 0"),
        (lambda: fnn.RAdam(betas=(0.9, math.nan)), "RAdam: betas must be two numbers"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("optimizer", [ours for ours, _, _ in TWINS.values()], ids=TWINS)
def test_survives_json(optimizer):
    assert fnn.from_config(json.loads(json.dumps(fnn.to_config(optimizer)))) == optimizer


def test_is_a_frozen_value():
    adam = fnn.Adam(1e-3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        adam.lr = 1.0
    assert dataclasses.replace(adam, lr=0.5) == fnn.Adam(0.5)
    assert adam != fnn.AdamW(1e-3, weight_decay=0.0)
    assert fnn.Adam(betas=[0.9, 0.999]) == adam


def test_an_optimizer_of_ones_own():
    class Own(fnn.optimizers.Optimizer):
        def update(self, param, grad, state, *, step, lr):
            param -= lr * np.sign(grad)

    assert fnn.SGD.recordable
    assert fnn.AdamW.recordable
    assert not Own.recordable
    param, grads = problem("float64")
    before = param.copy()
    Own(0.5).update(param, grads[0], Own(0.5).init_state(param), step=1, lr=0.5)
    assert_array_equal(param, before - 0.5 * np.sign(grads[0]))
    with pytest.raises(ValueError, match="Own: lr must be finite"):
        Own(-1.0)
    with pytest.raises(NotImplementedError, match="must define update"):
        fnn.optimizers.Optimizer(0.1).update(param, grads[0], {}, step=1, lr=0.1)

import dataclasses
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fastnn as fnn

DTYPES = {"float32": 2e-6, "float64": 1e-13}
REDUCTIONS = ("mean", "sum", "none")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def rng():
    return np.random.default_rng(5)


def check(result, value, pred, rtol):
    """Compare (loss, dpred) with PyTorch's value, and the gradient of its sum."""
    loss, dpred = result
    assert loss.dtype == dpred.dtype == pred.detach().numpy().dtype
    assert loss.shape == tuple(value.shape)
    value.sum().backward()
    assert np.abs(dpred).max() > 0
    assert_allclose(loss, value.detach().numpy(), rtol=rtol, atol=rtol)
    assert_allclose(dpred, pred.grad.numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("targets", ["indices", "probabilities"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_cross_entropy_matches_torch(torch, dtype, reduction, targets, weighted, label_smoothing):
    scores = rng().normal(size=(9, 4)).astype(dtype)
    weight = np.array([0.5, 2.0, 1.0, 3.0], dtype) if weighted else None
    if targets == "indices":
        target = np.array([0, 3, 1, -100, 2, 2, 0, -100, 1])
    else:
        target = rng().dirichlet(np.ones(4), 9).astype(dtype)
    loss = fnn.CrossEntropy(weight, label_smoothing, reduction=reduction)
    pred = torch.tensor(scores, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        pred,
        torch.tensor(target),
        weight=None if weight is None else torch.tensor(weight),
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    check(loss(scores, target), expected, pred, DTYPES[dtype])


def test_cross_entropy_ignores_the_index_it_is_told(torch):
    scores, target = rng().normal(size=(5, 3)), np.array([0, 2, 2, 1, 0])
    pred = torch.tensor(scores, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(pred, torch.tensor(target), ignore_index=2)
    loss, dpred = fnn.CrossEntropy(ignore_index=2)(scores, target)
    assert not dpred[1:3].any()
    check((loss, dpred), expected, pred, 1e-13)


def test_cross_entropy_weighs_samples():
    scores, target = rng().normal(size=(6, 3)), np.array([0, 2, 1, 1, 0, 2])
    weight = np.array([1.0, 0.0, 2.0, 0.5, 3.0, 1.5])
    each, gradients = fnn.CrossEntropy(reduction="none")(scores, target)
    loss, dpred = fnn.CrossEntropy()(scores, target, weight)
    assert_allclose(loss, (weight * each).sum() / weight.sum(), rtol=1e-13)
    assert_allclose(dpred, weight[:, None] * gradients / weight.sum(), rtol=1e-12, atol=1e-15)
    assert loss != fnn.CrossEntropy()(scores, target)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_matches_torch(torch, dtype, reduction, weighted):
    logits = 3 * rng().normal(size=(7, 3)).astype(dtype)
    target = rng().integers(0, 2, (7, 3)).astype(dtype)
    pos_weight = np.array([0.5, 2.0, 4.0], dtype) if weighted else None
    loss = fnn.BinaryCrossEntropy(pos_weight, reduction)
    pred = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        pred,
        torch.tensor(target),
        pos_weight=None if pos_weight is None else torch.tensor(pos_weight),
        reduction=reduction,
    )
    check(loss(logits, target), expected, pred, DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("loss", "function"), [(fnn.MSE, "mse_loss"), (fnn.MAE, "l1_loss")])
def test_regression_matches_torch(torch, dtype, reduction, loss, function):
    values, target = rng().normal(size=(2, 5, 3)).astype(dtype)
    target[0, 0] = values[0, 0]  # here the gradient is 0
    pred = torch.tensor(values, requires_grad=True)
    expected = getattr(torch.nn.functional, function)(
        pred, torch.tensor(target), reduction=reduction
    )
    check(loss(reduction)(values, target), expected, pred, DTYPES[dtype])


@pytest.mark.parametrize("loss", [fnn.MSE, fnn.MAE, fnn.BinaryCrossEntropy])
def test_weighs_samples(loss):
    pred, target = rng().uniform(0, 1, size=(2, 4, 3))
    weight = np.array([1.0, 0.0, 2.0, 0.5])
    each, gradients = loss(reduction="none")(pred, target)
    total, dpred = loss(reduction="sum")(pred, target, weight)
    assert_allclose(total, (weight[:, None] * each).sum(), rtol=1e-13)
    assert_allclose(dpred, weight[:, None] * gradients, rtol=1e-13)
    assert total != loss(reduction="sum")(pred, target)[0]


def test_counts_correct_classes():
    scores = np.array([[1.0, 2.0, 0.0], [5.0, 1.0, 1.0], [0.0, 0.0, 3.0], [2.0, 2.0, 1.0]])
    target = np.array([1, 2, 2, 0])
    count = fnn.CrossEntropy().correct(scores, target)
    assert count == 3
    assert count.dtype == np.int64
    assert count.shape == ()
    assert fnn.CrossEntropy().correct(scores, np.eye(3)[target]) == 3


def test_counts_correct_binary():
    logits, target = np.array([[1.0, -2.0], [0.0, 3.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    count = fnn.BinaryCrossEntropy().correct(logits, target)
    assert count == 3
    assert count.dtype == np.int64


def test_regression_has_no_accuracy():
    x = np.ones((3, 2))
    assert fnn.MSE().correct(x, x) is None
    assert fnn.MAE().correct(x, x) is None


@pytest.mark.parametrize(
    ("loss", "classification", "integer_targets"),
    [
        (fnn.CrossEntropy, True, True),
        (fnn.BinaryCrossEntropy, True, False),
        (fnn.MSE, False, False),
        (fnn.MAE, False, False),
    ],
)
def test_says_what_it_is(loss, classification, integer_targets):
    assert loss().classification is classification
    assert loss().integer_targets is integer_targets
    assert loss().recordable is True
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss().reduction = "sum"


def test_a_loss_of_ones_own_is_not_recorded_unless_it_says_so():
    class Own(fnn.losses.Loss):
        def __call__(self, pred, target, sample_weight=None):
            return np.float64(0), np.zeros_like(pred)

    class Derived(fnn.MSE):
        def __call__(self, pred, target, sample_weight=None):
            return super().__call__(pred, target)

    class Declared(Own):
        recordable = True

        def correct(self, pred, target):
            return None

    class Renamed(fnn.MSE):
        pass

    assert [c.recordable for c in (Own, Derived, Declared, Renamed)] == [False, False, True, True]
    assert Own().correct(0, 0) is None
    with pytest.raises(NotImplementedError, match="Loss must define __call__"):
        fnn.losses.Loss()(0, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fnn.CrossEntropy(reduction="avg"), "CrossEntropy: reduction must be one of"),
        (lambda: fnn.BinaryCrossEntropy(reduction=None), "BinaryCrossEntropy: reduction must"),
        (lambda: fnn.MSE("Mean"), "MSE: reduction must be one of"),
        (lambda: fnn.MAE("Mean"), "MAE: reduction must be one of"),
        (
            lambda: fnn.CrossEntropy(label_smoothing=1.5),
            r"CrossEntropy: label_smoothing must be in \[0, 1\], got 1.5",
        ),
        (
            lambda: fnn.CrossEntropy(label_smoothing=float("nan")),
            r"CrossEntropy: label_smoothing must be in \[0, 1\], got nan",
        ),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_weights_of_another_dtype_are_refused_not_cast():
    scores = np.zeros((2, 3), np.float32)
    with pytest.raises(fnn.DTypeError, match="weight"):
        fnn.CrossEntropy(weight=np.ones(3))(scores, np.array([0, 1]))


@pytest.mark.parametrize(
    "loss",
    [
        fnn.CrossEntropy(label_smoothing=0.1, ignore_index=7, reduction="sum"),
        fnn.CrossEntropy(weight=np.array([0.1, 2.0, 1 / 3], np.float32)),
        fnn.BinaryCrossEntropy(pos_weight=np.array([1 / 3]), reduction="none"),
        fnn.MSE("sum"),
        fnn.MAE(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_survives_json(loss):
    again = fnn.from_config(json.loads(json.dumps(fnn.to_config(loss))))
    assert type(again) is type(loss)
    for name, value in vars(loss).items():
        other = getattr(again, name)
        assert type(other) is type(value)
        if isinstance(value, np.ndarray):
            assert other.dtype == value.dtype
            assert other.tolist() == value.tolist()
        else:
            assert other == value

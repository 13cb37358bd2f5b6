"""Losses: each returns its value together with its gradient, from one pass over the predictions.

A loss is a frozen dataclass. ``loss(pred, target)`` gives ``(value, dpred)``, and
``loss.correct(pred, target)`` counts right answers where that has a meaning.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from fastnn import ops

__all__ = ["MAE", "MSE", "BinaryCrossEntropy", "CrossEntropy", "Loss"]

Array: TypeAlias = Any  # an array of any library that fastnn.ops takes

_REDUCTIONS = ("mean", "sum", "none")


class Loss:
    """Base of the losses; derive from it for a loss of your own.

    Attributes
    ----------
    classification : bool
        Whether an accuracy has a meaning (`correct` returns a count).
    integer_targets : bool
        Whether targets may be class indices.
    recordable : bool
        Whether every step of the computation is a call of `fastnn.ops`, so that a `Trainer` may
        record it once and replay it natively.
    """

    classification: ClassVar[bool] = False
    integer_targets: ClassVar[bool] = False
    recordable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """A class that computes for itself is recordable only if it says so."""
        super().__init_subclass__()
        if not {"__call__", "correct"}.isdisjoint(vars(cls)):
            cls.recordable = bool(vars(cls).get("recordable", False))

    def __call__(
        self, pred: Array, target: Array, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """Value of the loss and its gradient with respect to `pred`."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def correct(self, pred: Array, target: Array) -> Array | None:
        """Number of right answers, an int64 array of shape (); None for a regression loss."""
        return None

    def answers(self, target: Array) -> int:
        """Number of answers that `correct` judges."""
        return len(target)

    def weight_of(self, target: Array, sample_weight: Array | None = None) -> float:
        """What the mean over these targets divides by, up to a constant factor."""
        return float(len(target) if sample_weight is None else sample_weight.sum(dtype="float64"))


@dataclass(frozen=True, eq=False)
class CrossEntropy(Loss):
    """Softmax and cross-entropy over classes; the model's output are unnormalised scores.

    Parameters
    ----------
    weight : array of float, shape (c,), optional
        Weight of each class, of the scores' dtype.
    label_smoothing : float, default 0.0
        Share of the target spread evenly over all classes, 0 to 1.
    ignore_index : int, default -100
        Rows with this target contribute nothing.
    reduction : {"mean", "sum", "none"}
        The mean divides by the sum of the weights of the contributing rows, as in PyTorch, and is
        0 when no row contributes.

    Raises
    ------
    ValueError
        If `label_smoothing` or `reduction` is out of range.

    Notes
    -----
    ``loss(pred, target, sample_weight=None)`` takes `pred` float (n, c), `target` class indices of
    any integer dtype (n,) or probabilities (n, c), `sample_weight` float (n,), and returns nats.
    """

    weight: Array | None = None
    label_smoothing: float = 0.0
    ignore_index: int = -100
    reduction: str = "mean"

    classification: ClassVar[bool] = True
    integer_targets: ClassVar[bool] = True
    recordable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_reduction("CrossEntropy", self.reduction)
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(
                f"CrossEntropy: label_smoothing must be in [0, 1], got {self.label_smoothing}"
            )

    def __call__(
        self, pred: Array, target: Array, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        loss, dpred = ops.softmax_cross_entropy(
            pred,
            target,
            weight=self.weight,
            sample_weight=sample_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )
        return loss, dpred

    def correct(self, pred: Array, target: Array) -> Array:
        """Rows whose largest score is the target's: an int64 array of shape ()."""
        return ops.count_correct(pred, target)

    def answers(self, target: Array) -> int:
        """Number of rows that are not ignored."""
        return int((target != self.ignore_index).sum()) if target.ndim == 1 else len(target)

    def weight_of(self, target: Array, sample_weight: Array | None = None) -> float:
        """Sum of the weights of the rows that contribute."""
        if target.ndim == 2 or (self.weight is None and self.answers(target) == len(target)):
            return super().weight_of(target, sample_weight)
        counts = target != self.ignore_index
        rows = target[counts]
        weights = 1.0 if self.weight is None else self.weight[rows]
        samples = 1.0 if sample_weight is None else sample_weight[counts]
        return float((weights * samples * (rows == rows)).sum(dtype="float64"))


@dataclass(frozen=True, eq=False)
class BinaryCrossEntropy(Loss):
    """Sigmoid and binary cross-entropy of each element; the model's output are logits.

    Parameters
    ----------
    pos_weight : array of float, shape (1,) or that of the last axis, optional
        Weight of the positive class.
    reduction : {"mean", "sum", "none"}
        The mean is over all elements.

    Raises
    ------
    ValueError
        If `reduction` is none of the three.

    Notes
    -----
    ``loss(pred, target, sample_weight=None)`` takes `pred` and `target` float (n, ...) of one
    shape, targets in [0, 1], `sample_weight` float (n,), and returns nats.
    """

    pos_weight: Array | None = None
    reduction: str = "mean"

    classification: ClassVar[bool] = True
    recordable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_reduction("BinaryCrossEntropy", self.reduction)

    def __call__(
        self, pred: Array, target: Array, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        loss, dpred = ops.sigmoid_cross_entropy(
            pred,
            target,
            pos_weight=self.pos_weight,
            sample_weight=sample_weight,
            reduction=self.reduction,
        )
        return loss, dpred

    def correct(self, pred: Array, target: Array) -> Array:
        """Elements with ``(pred > 0) == (target > 1/2)``: an int64 array of shape ()."""
        return ops.count_correct_binary(pred, target)

    def answers(self, target: Array) -> int:
        """Number of elements."""
        return int(target.size)


@dataclass(frozen=True)
class MSE(Loss):
    """Squared error ``(pred - target)^2``; `pred` and `target` float (n, ...) of one shape.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        The mean is over all elements.

    Raises
    ------
    ValueError
        If `reduction` is none of the three.
    """

    reduction: str = "mean"

    recordable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_reduction("MSE", self.reduction)

    def __call__(
        self, pred: Array, target: Array, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        loss, dpred = ops.mse(pred, target, sample_weight=sample_weight, reduction=self.reduction)
        return loss, dpred


@dataclass(frozen=True)
class MAE(Loss):
    """Absolute error ``|pred - target|``; `pred` and `target` float (n, ...) of one shape.

    The gradient is 0 where `pred` equals `target`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        The mean is over all elements.

    Raises
    ------
    ValueError
        If `reduction` is none of the three.
    """

    reduction: str = "mean"

    recordable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_reduction("MAE", self.reduction)

    def __call__(
        self, pred: Array, target: Array, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        loss, dpred = ops.mae(pred, target, sample_weight=sample_weight, reduction=self.reduction)
        return loss, dpred


def _check_reduction(owner: str, reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{owner}: reduction must be one of {_REDUCTIONS}, got {reduction!r}")

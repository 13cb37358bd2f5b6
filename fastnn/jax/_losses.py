"""Losses, whose kernels find the gradient in the same pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fastnn.errors import ShapeError
from fastnn.jax._arrays import Array, Numbers, floating, like, require_shape
from fastnn.jax._call import call


def _evaluate(op: str, numbers: Numbers, shape: tuple[int, ...], pred: Any, others: Any) -> Any:
    first = "logits" if op.endswith("cross_entropy") else "pred"
    results = [like(pred, *shape), pred]
    return call(op, [{first: pred, **others}], dict(numbers), results)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _loss(op: str, numbers: Numbers, shape: tuple[int, ...], pred: Any, others: Any) -> Any:
    return _evaluate(op, numbers, shape, pred, others)[0]


def _loss_forward(op: str, numbers: Numbers, shape: tuple[int, ...], pred: Any, others: Any) -> Any:
    for name, other in others.items():
        if other is not None and other.perturbed and not (name == "target" and op == "mse"):
            raise TypeError(
                f"{op}: there is no gradient with respect to {name}; use jax.lax.stop_gradient"
            )
    values = {name: None if other is None else other.value for name, other in others.items()}
    loss, dpred = _evaluate(op, numbers, shape, pred.value, values)
    return loss, (dpred, values)


def _loss_backward(op: str, numbers: Numbers, shape: tuple[int, ...], kept: Any, dloss: Any) -> Any:
    dpred, others = kept
    nothing = dict.fromkeys(others)
    if isinstance(dloss, SymbolicZero):
        return jnp.zeros_like(dpred), nothing
    dpred = dpred * dloss.reshape(shape + (1,) * (dpred.ndim - len(shape)) if shape else ())
    return dpred, {**nothing, "target": -dpred} if op == "mse" else nothing


_loss.defvjp(_loss_forward, _loss_backward, symbolic_zeros=True)


def _reduced(op: str, reduction: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: reduction must be 'mean', 'sum', 'none', got {reduction!r}")
    return shape if reduction == "none" else ()


def softmax_cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """Softmax and cross-entropy in one pass, which finds the gradient, too.

    Parameters
    ----------
    logits : array (n, c)
    targets : integer array (n,), or array (n, c)
        Classes, ``0 <= target < c`` or `ignore_index`; or probabilities. Constants, as the weights
        are: a gradient with respect to them is refused.
    weight : array (c,), optional
    sample_weight : array (n,), optional
    ignore_index, label_smoothing, reduction
        As for `fastnn.ops.softmax_cross_entropy`.

    Returns
    -------
    array () or (n,)
        Nats.

    Raises
    ------
    fastnn.DTypeError, fastnn.ShapeError, ValueError
        While it is traced. A class out of range is a `jax.errors.JaxRuntimeError` when it runs.
    """
    op = "softmax_cross_entropy"
    targets = jnp.asarray(targets)
    logits, weight, sample_weight = floating(
        op, logits=logits, weight=weight, sample_weight=sample_weight
    )
    if logits.ndim != 2:
        raise ShapeError(f"{op}: logits must be (n, c), got shape {logits.shape}")
    n, c = logits.shape
    if jnp.issubdtype(targets.dtype, jnp.integer):
        require_shape(op, "targets", targets, (n,))
    else:
        floating(op, logits=logits, targets=targets)
        require_shape(op, "targets", targets, (n, c))
    require_shape(op, "weight", weight, (c,))
    require_shape(op, "sample_weight", sample_weight, (n,))
    numbers = (
        ("ignore_index", ignore_index),
        ("label_smoothing", label_smoothing),
        ("reduction", reduction),
    )
    others = {"targets": targets, "weight": weight, "sample_weight": sample_weight}
    return _loss(op, numbers, _reduced(op, reduction, (n,)), logits, others)


def sigmoid_cross_entropy(
    logits: Array,
    targets: Array,
    *,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    reduction: str = "mean",
) -> Array:
    """Sigmoid and binary cross-entropy in one pass, as `fastnn.ops.sigmoid_cross_entropy`.

    Parameters
    ----------
    logits, targets : array (n, ...)
        Scores and probabilities; targets and weights are constants.
    pos_weight : array (1,) or of the last axis, optional
    sample_weight : array (n,), optional
    reduction : {'mean', 'sum', 'none'}

    Returns
    -------
    array () or that of logits
    """
    op = "sigmoid_cross_entropy"
    logits, targets, pos_weight, sample_weight = floating(
        op, logits=logits, targets=targets, pos_weight=pos_weight, sample_weight=sample_weight
    )
    require_shape(op, "targets", targets, logits.shape)
    require_shape(op, "sample_weight", sample_weight, logits.shape[:1])
    others = {"targets": targets, "pos_weight": pos_weight, "sample_weight": sample_weight}
    shape = _reduced(op, reduction, logits.shape)
    return _loss(op, (("reduction", reduction),), shape, logits, others)


def _error(
    op: str, pred: Array, target: Array, sample_weight: Array | None, reduction: str
) -> Array:
    pred, target, sample_weight = floating(
        op, pred=pred, target=target, sample_weight=sample_weight
    )
    require_shape(op, "target", target, pred.shape)
    require_shape(op, "sample_weight", sample_weight, pred.shape[:1])
    others = {"target": target, "sample_weight": sample_weight}
    return _loss(op, (("reduction", reduction),), _reduced(op, reduction, pred.shape), pred, others)


def mse(
    pred: Array, target: Array, *, sample_weight: Array | None = None, reduction: str = "mean"
) -> Array:
    """Squared error ``(pred - target)^2`` of arrays (n, ...), as `fastnn.ops.mse`."""
    return _error("mse", pred, target, sample_weight, reduction)


def mae(
    pred: Array, target: Array, *, sample_weight: Array | None = None, reduction: str = "mean"
) -> Array:
    """Absolute error ``|pred - target|`` of arrays (n, ...), as `fastnn.ops.mae`."""
    return _error("mae", pred, target, sample_weight, reduction)

"""Batch and layer normalisation."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from fastnn.errors import ShapeError
from fastnn.jax._arrays import Array, Numbers, by_row, floating, like, require_shape
from fastnn.jax._call import call


def _normalise(numbers: Numbers, x: Any, gamma: Any, beta: Any, running: Any) -> Any:
    arrays = {"x": x, "gamma": gamma, "beta": beta}
    names = ("running_mean", "running_var") if running else ()
    results = call(
        "batch_norm",
        [{**arrays, **dict(zip(names, running, strict=True))}],
        dict(numbers),
        [*running, x, like(x, x.shape[1]), like(x, x.shape[1])],
        updated=names,
    )
    return (*results[: len(running)],), *results[len(running) :]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _batch_norm(numbers: Numbers, x: Any, gamma: Any, beta: Any, running: Any) -> Any:
    running, y, _, _ = _normalise(numbers, x, gamma, beta, running)
    return y, running


def _batch_norm_forward(numbers: Numbers, x: Any, gamma: Any, beta: Any, running: Any) -> Any:
    new, y, mean, rstd = _normalise(numbers, x, gamma, beta, running)
    return (y, new), (x, gamma, beta is not None, mean, rstd, y, running)


def _batch_norm_backward(numbers: Numbers, kept: Any, cotangents: Any) -> Any:
    x, gamma, has_beta, mean, rstd, y, running = kept
    options = dict(numbers)
    activation = options["activation"]
    arrays = {"dy": cotangents[0], "x": x, "gamma": gamma, "mean": mean, "rstd": rstd}
    dx, dgamma, dbeta = call(
        "batch_norm_backward",
        [{**arrays, "y": y if activation else None}],
        {"training": options["training"], "activation": activation},
        [x, mean, mean],
    )
    nothing = tuple(jnp.zeros_like(r) for r in running)
    return dx, None if gamma is None else dgamma, dbeta if has_beta else None, nothing


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    unbiased_running_var: bool = True,
    activation: str | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Batch normalisation (Ioffe & Szegedy 2015) with an optional relu.

    Parameters
    ----------
    x : array (n, c, ...)
    gamma, beta : array (c,), optional
    running_mean, running_var : array (c,), optional
        Both or neither; constants to the gradient. Needed when not training.
    training, momentum, eps, unbiased_running_var, activation
        As for `fastnn.ops.batch_norm`: `momentum` weighs the batch. Flax's
        ``BatchNorm(momentum=m)`` is ``momentum=1 - m, unbiased_running_var=False``.

    Returns
    -------
    tuple
        The result, and the new running arrays (None where they were).
    """
    op = "batch_norm"
    x, gamma, beta, running_mean, running_var = floating(
        op, x=x, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var
    )
    if x.ndim < 2:
        raise ShapeError(f"{op}: x must be (n, c, ...), got shape {x.shape}")
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{op}: running_mean and running_var must be given both or neither")
    if not training and running_mean is None:
        raise ValueError(f"{op}: running_mean and running_var must be arrays when training=False")
    for name, array in (("gamma", gamma), ("beta", beta)):
        require_shape(op, name, array, x.shape[1:2])
    for name, array in (("running_mean", running_mean), ("running_var", running_var)):
        require_shape(op, name, array, x.shape[1:2])
    numbers = (
        ("training", training),
        ("momentum", momentum),
        ("eps", eps),
        ("unbiased_running_var", unbiased_running_var),
        ("activation", activation),
    )
    running = () if running_mean is None else (running_mean, running_var)
    y, running = _batch_norm(numbers, x, gamma, beta, running)
    mean, var = running or (None, None)
    return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(var)


@lru_cache
def _normalise_rows(eps: float) -> Any:
    def normalise(x: Any, gamma: Any, beta: Any) -> Any:
        rows = like(x, *x.shape[:-1])
        arrays = {"x": x, "gamma": gamma, "beta": beta}
        return tuple(call("layer_norm", [arrays], {"eps": eps}, [x, rows, rows]))

    return by_row(normalise)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer_norm(eps: float, x: Any, gamma: Any, beta: Any) -> Any:
    return _normalise_rows(eps)(x, gamma, beta)[0]


def _layer_norm_forward(eps: float, x: Any, gamma: Any, beta: Any) -> Any:
    y, mean, rstd = _normalise_rows(eps)(x, gamma, beta)
    return y, (x, gamma, beta is not None, mean, rstd)


def _layer_norm_backward(eps: float, kept: Any, dy: Any) -> Any:
    x, gamma, has_beta, mean, rstd = kept
    columns = like(x, x.shape[-1])
    arrays = {"dy": dy, "x": x, "gamma": gamma, "mean": mean, "rstd": rstd}
    dx, dgamma, dbeta = call("layer_norm_backward", [arrays], {}, [x, columns, columns])
    return dx, None if gamma is None else dgamma, dbeta if has_beta else None


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def layer_norm(
    x: Array, gamma: Array | None = None, beta: Array | None = None, *, eps: float = 1e-5
) -> Array:
    """Layer normalisation over the last axis (Ba, Kiros & Hinton 2016).

    Parameters
    ----------
    x : array (..., c)
    gamma, beta : array (c,), optional
    eps : float, default 1e-5
        Added to the variance (Flax: 1e-6).
    """
    x, gamma, beta = floating("layer_norm", x=x, gamma=gamma, beta=beta)
    if x.ndim < 1:
        raise ShapeError("layer_norm: x must have an axis, got shape ()")
    require_shape("layer_norm", "gamma", gamma, x.shape[-1:])
    require_shape("layer_norm", "beta", beta, x.shape[-1:])
    return _layer_norm(eps, x, gamma, beta)

"""Activations, and the softmax over the last axis."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from fastnn.errors import ShapeError
from fastnn.jax._arrays import Array, Numbers, floating
from fastnn.jax._call import call


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _elementwise(op: str, numbers: Numbers, x: Any) -> Any:
    return call(op, [{"x": x}], dict(numbers), [x], vmap="broadcast_all")[0]


def _elementwise_forward(op: str, numbers: Numbers, x: Any) -> Any:
    y = _elementwise(op, numbers, x)
    return y, y if op.endswith("softmax") else x


def elementwise_backward(op: str, numbers: Numbers, kept: Any, dy: Any) -> Any:
    arrays = {"dy": dy, "y" if op.endswith("softmax") else "x": kept}
    return tuple(call(f"{op}_backward", [arrays], dict(numbers), [dy], vmap="broadcast_all"))


_elementwise.defvjp(_elementwise_forward, elementwise_backward)


def _activation(op: str, x: Array, *numbers: tuple[str, Any]) -> Array:
    (x,) = floating(op, x=x)
    if op.endswith("softmax") and x.ndim < 1:
        raise ShapeError(f"{op}: x must have an axis, got shape ()")
    return _elementwise(op, numbers, x)


def relu(x: Array) -> Array:
    """``max(x, 0)``, element by element."""
    return _activation("relu", x)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """``x`` where it is positive, else ``negative_slope * x``."""
    return _activation("leaky_relu", x, ("negative_slope", negative_slope))


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``."""
    return _activation("sigmoid", x)


def hard_sigmoid(x: Array) -> Array:
    """``clip(x/6 + 1/2, 0, 1)``."""
    return _activation("hard_sigmoid", x)


def tanh(x: Array) -> Array:
    """``tanh(x)``."""
    return _activation("tanh", x)


def gelu(x: Array) -> Array:
    """``x Phi(x)`` with the normal distribution function, exactly (Hendrycks & Gimpel 2016)."""
    return _activation("gelu", x)


def gelu_tanh(x: Array) -> Array:
    """The approximation of `gelu` by tanh, `jax.nn.gelu`'s default."""
    return _activation("gelu_tanh", x)


def silu(x: Array) -> Array:
    """``x sigmoid(x)``."""
    return _activation("silu", x)


def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """``log(1 + exp(beta x)) / beta``, and x itself where ``beta x > threshold``."""
    return _activation("softplus", x, ("beta", beta), ("threshold", threshold))


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    return _activation("softmax", x)


def log_softmax(x: Array) -> Array:
    """Logarithm of the softmax over the last axis."""
    return _activation("log_softmax", x)

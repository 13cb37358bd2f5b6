"""Products with a matrix of weights."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import jax

from fastnn.errors import ShapeError
from fastnn.jax._activations import elementwise_backward
from fastnn.jax._arrays import Array, Numbers, by_row, floating, like, require_shape
from fastnn.jax._call import call


@lru_cache
def _product(numbers: Numbers) -> Any:
    """x @ weight + bias over x's last axis: the result, and what came before the activation."""

    def product(x: Any, weight: Any, bias: Any) -> Any:
        options = dict(numbers)
        *leading, terms = x.shape
        rows = math.prod(leading)
        columns = weight.shape[0 if options.get("transpose_b") else 1]
        results = call(
            "matmul",
            [{"a": x.reshape(rows, terms), "b": weight, "bias": bias}],
            options,
            [like(x, rows, columns)] * (2 if options.get("return_preactivation") else 1),
        )
        return tuple(r.reshape(*leading, columns) for r in results)

    return by_row(product)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear(activation: str | None, precision: str | None, x: Any, weight: Any, bias: Any) -> Any:
    numbers = (("activation", activation), ("precision", precision))
    return _product(numbers)(x, weight, bias)[0]


def _linear_forward(
    activation: str | None, precision: str | None, x: Any, weight: Any, bias: Any
) -> Any:
    numbers: Numbers = (("activation", activation), ("precision", precision))
    if activation is not None:
        numbers += (("return_preactivation", True),)
    y, *before = _product(numbers)(x, weight, bias)
    return y, (x, weight, bias is not None, before)


def _linear_backward(activation: str | None, precision: str | None, kept: Any, dy: Any) -> Any:
    x, weight, has_bias, before = kept
    if activation is not None:
        dy = elementwise_backward(activation, (), before[0], dy)[0]
    dx = _product((("transpose_b", True), ("precision", precision)))(dy, weight, None)[0]
    rows = dy.reshape(-1, dy.shape[-1])
    (dweight,) = call(
        "matmul",
        [{"a": x.reshape(-1, x.shape[-1]), "b": rows}],
        {"transpose_a": True, "precision": precision},
        [weight],
    )
    if not has_bias:
        return dx, dweight, None
    (dbias,) = call("column_sum", [{"x": rows}], {}, [like(dy, dy.shape[-1])])
    return dx, dweight, dbias


_linear.defvjp(_linear_forward, _linear_backward)


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    activation: str | None = None,
    precision: str | None = None,
) -> Array:
    """``activation(x @ weight + bias)`` in one pass, a Dense layer of Flax.

    Parameters
    ----------
    x : array (..., in)
    weight : array (in, out)
    bias : array (out,), optional
    activation : str, optional
        The name of an activation here, with its default parameters.
    precision : {None, 'tf32', 'bf16'}
        As for `fastnn.ops.matmul`; the gradients' products, too.

    Returns
    -------
    array (..., out)

    Raises
    ------
    fastnn.DTypeError, fastnn.ShapeError
        While it is traced.
    """
    x, weight, bias = floating("linear", x=x, weight=weight, bias=bias)
    if weight.ndim != 2 or x.ndim < 1:
        raise ShapeError(
            f"linear: x must be (..., in) and weight (in, out), got {x.shape} and {weight.shape}"
        )
    require_shape("linear", "x", x, (*x.shape[:-1], weight.shape[0]))
    require_shape("linear", "bias", bias, weight.shape[1:])
    return _linear(activation, precision, x, weight, bias)

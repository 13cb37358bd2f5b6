"""What all functions here do with their arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from fastnn.errors import DTypeError, ShapeError
from fastnn.jax._call import ShapeDtypeStruct

Array = Any  # a jax.Array, or what jnp.asarray makes one of
Numbers = tuple[tuple[str, Any], ...]  # arguments that are no arrays: static under jit


def floating(op: str, **given: Array | None) -> list[Any]:
    """JAX arrays of one floating-point type, None where there is none."""
    arrays: dict[str, Any] = {
        name: None if a is None else jnp.asarray(a) for name, a in given.items()
    }
    first = next(iter(arrays))
    for name, a in arrays.items():
        if a is not None and a.dtype not in (jnp.float32, jnp.float64):
            raise DTypeError(f"{op}: {name} must be float32 or float64, got {a.dtype}")
        if a is not None and a.dtype != arrays[first].dtype:
            raise DTypeError(
                f"{op}: {name} must be {arrays[first].dtype} as {first} is, got {a.dtype}"
            )
    return list(arrays.values())


def require_shape(op: str, name: str, array: Array | None, shape: tuple[int, ...]) -> None:
    if array is not None and array.shape != shape:
        raise ShapeError(f"{op}: {name} must have shape {shape}, got {array.shape}")


def like(array: Array, *shape: int) -> Any:
    return ShapeDtypeStruct(shape, array.dtype)


def by_row(function: Callable[..., Any]) -> Any:
    """Under vmap, `function(x, *shared)` takes more rows of x while nothing shared is mapped."""
    mapped: Any = custom_vmap(function)

    def rule(size: int, batched: Any, x: Any, *shared: Any) -> Any:
        if jax.tree.leaves(batched[1:]).count(True):
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            out = jax.vmap(function, axes, axis_size=size)(x, *shared)
        else:
            out = mapped(x, *shared)
        return out, jax.tree.map(lambda _: True, out)

    mapped.def_vmap(rule)
    return mapped

"""The one way from JAX to the kernels: XLA's foreign functions, or a callback into Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fastnn import _core, ops
from fastnn.info import jax_native

ShapeDtypeStruct: Any = jax.ShapeDtypeStruct
Arrays = Mapping[str, Any]
Numbers = Mapping[str, Any]

native, _ = jax_native()
if native is not None:
    for _op in _core.op_names:
        jax.ffi.register_ffi_target(f"fastnn_{_op}", native.handler, platform="cpu")
    _FIELDS = native.fields()


def call(
    op: str,
    runs: Sequence[Arrays],
    numbers: Numbers,
    results: Sequence[Any],
    *,
    updated: Sequence[str] = (),
    vmap: str = "sequential",
) -> list[Any]:
    """Run an op once for each dictionary of arrays, in one call of XLA's.

    Parameters
    ----------
    op : str
    runs : sequence of dict
        Arrays by argument name, None where an optional one is left out: the same names each time.
    numbers : dict
        Arguments that are no arrays, None where they keep their default.
    results : sequence of arrays or jax.ShapeDtypeStruct
        Shapes and types of all that is returned, run by run: arrays updated in place, then results.
    updated : sequence of str
        Names of the arrays that the op updates in place, in the contract's order.
    vmap : {'sequential', 'broadcast_all'}
        'broadcast_all' for ops that take further leading axes.

    Returns
    -------
    list of arrays
    """
    runs = [{name: a for name, a in run.items() if a is not None} for run in runs]
    numbers = {name: value for name, value in numbers.items() if value is not None}
    shapes = [ShapeDtypeStruct(r.shape, r.dtype) for r in results]
    if native is None:
        return _through_python(op, runs, numbers, shapes, updated, vmap)
    fields = _FIELDS[op]
    names = sorted(runs[0], key=list(fields).index)
    aliases = {
        i * len(names) + names.index(name): i * (len(shapes) // len(runs)) + j
        for i in range(len(runs))
        for j, name in enumerate(updated)
    }
    return list(
        jax.ffi.ffi_call(f"fastnn_{op}", shapes, vmap_method=vmap, input_output_aliases=aliases)(
            *(run[name] for run in runs for name in names),
            op=np.int64(_core.op_names.index(op)),
            count=np.int64(len(runs)),
            arrays=np.int64(sum(1 << list(fields).index(name) for name in names)),
            **{name: fields[name](value) for name, value in numbers.items()},
        )
    )


def _through_python(
    op: str,
    runs: Sequence[Arrays],
    numbers: Numbers,
    shapes: Sequence[Any],
    updated: Sequence[str],
    vmap: str,
) -> list[Any]:
    function = getattr(ops, op)

    def run_all(runs: Sequence[Arrays]) -> list[Any]:
        results = []
        for run in runs:
            arrays = {
                name: np.array(a) if name in updated else np.asarray(a) for name, a in run.items()
            }
            made = function(**arrays, **numbers)
            results += [arrays[name] for name in updated]
            results += [] if made is None else made if isinstance(made, tuple) else [made]
        return [np.asarray(r) for r in results]

    return list(jax.pure_callback(run_all, shapes, runs, vmap_method=vmap))

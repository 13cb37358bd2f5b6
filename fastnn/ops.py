"""The kernels as functions, on arrays of any library that exports DLPack.

Each is the native function itself: ``help(fastnn.ops.matmul)`` has its signature, shapes, formulas
and errors.
"""

from fastnn import _core

__all__ = [*_core.op_names]

globals().update({name: getattr(_core, name) for name in __all__})

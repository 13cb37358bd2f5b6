"""Training data as a Trainer uses it: C-contiguous NumPy arrays with one row per sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn.errors import DTypeError, ShapeError

__all__ = ["Data", "as_rows"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Data:
    """Samples, targets and, if given, weights: arrays of equal length."""

    arrays: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.arrays[0])

    def inputs(self, batch: int) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and type of each array's batch: what a program is made for."""
        return tuple(((batch, *a.shape[1:]), a.dtype.name) for a in self.arrays)

    def split(self, share: float) -> tuple["Data", "Data"]:
        """All but the last share of the rows, and these."""
        first = len(self) - round(len(self) * share)
        head = Data(tuple(a[:first] for a in self.arrays))
        return head, Data(tuple(a[first:] for a in self.arrays))

    def check_lengths(self, where: str) -> None:
        """Raise ShapeError unless there is one target, and weight, for each sample."""
        for name, array in zip(("x", "y", "sample_weight"), self.arrays, strict=False):
            if len(array) != len(self):
                raise ShapeError(
                    f"{where}: {name} must have one row for each of the {len(self)} samples in x, "
                    f"got {array.dtype} {array.shape}"
                )


def as_rows(where: str, name: str, value: Any, dtypes: Sequence[npt.DTypeLike]) -> Array:
    """`value` as a C-contiguous array of one of these types, copied only where its layout needs it.

    Raises TypeError for what is no array, DTypeError for another type (nothing is cast),
    ShapeError without rows.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(f"{where}: {name} is a masked array, its mask would be lost")
    if not isinstance(value, np.ndarray):
        if not hasattr(value, "__dlpack__"):
            kind = type(value).__name__
            raise TypeError(f"{where}: {name} must be an array, got {kind}; use numpy.asarray")
        value = np.from_dlpack(value)
    if value.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise DTypeError(
            f"{where}: {name} must be {names}, got {value.dtype.str} {value.shape}; use .astype"
        )
    if value.ndim == 0 or value.shape[0] == 0:
        raise ShapeError(f"{where}: {name} must have at least one row, got {value.shape}")
    return np.require(value, requirements="CA")

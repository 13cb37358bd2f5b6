"""Training data as a Trainer uses it: C-contiguous NumPy arrays with one row per sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn.errors import DeviceError, DTypeError, ShapeError

__all__ = ["Data", "Inputs", "as_array", "as_rows", "check_rows", "describe", "is_on_gpu"]

Array: TypeAlias = npt.NDArray[Any]
Inputs: TypeAlias = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]

_CPU, _CUDA = (1, 3), 2  # DLPack's numbers for memory that the CPU can read, and for a GPU's


@dataclass(frozen=True)
class Data:
    """Samples, targets and, if given, weights: arrays of equal length.

    Attributes
    ----------
    arrays : tuple of array
        On the host; samples of a GPU's memory as `DeviceArray`.
    on_device : tuple of DeviceArray
        All of them on a GPU, once that pays.
    """

    arrays: tuple[Any, ...]
    on_device: tuple[Any, ...] = ()

    @property
    def sources(self) -> tuple[Any, ...]:
        """What steps read."""
        return self.on_device or self.arrays

    def __len__(self) -> int:
        return len(self.arrays[0])

    def inputs(self, batch: int) -> Inputs:
        """Shape and type of each array's batch: what a program is made for."""
        return tuple([((batch, *a.shape[1:]), a.dtype) for a in self.arrays])

    def rows(self, first: int, end: int) -> "Data":
        """Some consecutive rows."""
        host, device = (tuple(a[first:end] for a in b) for b in (self.arrays, self.on_device))
        return Data(host, device)

    def split(self, share: float) -> tuple["Data", "Data"]:
        """All but the last share of the rows, and these."""
        first = len(self) - round(len(self) * share)
        return self.rows(0, first), self.rows(first, len(self))

    def check_lengths(self, where: str) -> None:
        """Raise ShapeError unless there is one target, and weight, for each sample."""
        rows = len(self)
        for name, array in zip(("x", "y", "sample_weight"), self.arrays, strict=False):
            if len(array) != rows:
                raise ShapeError(
                    f"{where}: {name} must have one row for each of the {rows} samples in x, "
                    f"got {array.dtype} {array.shape}"
                )


def as_array(where: str, name: str, value: Any) -> Array:
    """The value as a plain NumPy array on its own memory; raises TypeError for what is none."""
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(f"{where}: {name} is a masked array, its mask would be lost")
    if isinstance(value, np.ndarray):
        if not value.dtype.isnative:
            native = value.dtype.newbyteorder("=").str
            raise DTypeError(f"{where}: {name} is {value.dtype.str!r}; use .astype({native!r})")
        return np.asarray(value)
    if not hasattr(value, "__dlpack__"):
        kind = type(value).__name__
        raise TypeError(f"{where}: {name} must be an array, got {kind}; use numpy.asarray")
    if getattr(value, "requires_grad", False):
        raise TypeError(f"{where}: {name} requires grad, which is not recorded; use .detach()")
    if value.__dlpack_device__()[0] not in _CPU:
        raise DeviceError(f"{where}: {name} is not in the CPU's memory; move it there first")
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as error:
        raise DTypeError(f"{where}: {name} can't be read: {error}") from error


def as_rows(
    where: str, name: str, value: Any, dtypes: Sequence[npt.DTypeLike], *, empty: bool = False
) -> Array:
    """`value` as a C-contiguous array of one of these types, copied only where its layout needs it.

    Raises TypeError for what is no array, DTypeError for another type (nothing is cast),
    ShapeError without rows unless `empty` allows that.
    """
    array = as_array(where, name, value)
    check_rows(where, name, array, dtypes, empty=empty)
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, order="C")


def check_rows(
    where: str, name: str, array: Any, dtypes: Sequence[npt.DTypeLike], *, empty: bool = False
) -> None:
    """Raise DTypeError or ShapeError as `as_rows` does."""
    if array.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise DTypeError(f"{where}: {name} must be {names}, got {describe(array)}; use .astype")
    if array.ndim == 0 or (array.shape[0] == 0 and not empty):
        raise ShapeError(f"{where}: {name} must have at least one row, got {array.shape}")


def is_on_gpu(value: Any) -> bool:
    """Whether it is an array in the memory of a CUDA device."""
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == _CUDA


def describe(array: Any) -> str:
    """For messages: ``float32 (2, 3)``."""
    return f"{array.dtype} {array.shape}"

"""The Python half of DLPack and of the CUDA array interface: what other libraries are handed."""

from typing import Any

import numpy as np


class Holder:
    """Memory that is ready, on its way into another array library.

    Parameters
    ----------
    capsule : DLPack capsule
    device_type, device : int
        Where it lies, as DLPack names it.
    """

    def __init__(self, capsule: Any, device_type: int, device: int) -> None:
        self._capsule = capsule
        self._device = (device_type, device)

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


class CudaArray:
    """A C-contiguous array on a GPU, for libraries that know the CUDA array interface alone.

    Parameters
    ----------
    capsule : DLPack capsule
        Owns the memory.
    shape : tuple of int
    typestr : str
        Type of the elements, as NumPy writes it.
    address : int
    """

    def __init__(self, capsule: Any, shape: tuple[int, ...], typestr: str, address: int) -> None:
        self._capsule = capsule
        self.shape = shape
        self.dtype = np.dtype(typestr)
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (address, False),
            "strides": None,
            "stream": None,  # it is ready
            "version": 3,
        }

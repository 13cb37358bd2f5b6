"""All parameters of a model, and all gradients, in one flat array each."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn import _core
from fastnn.errors import ShapeError
from fastnn.layer import Layer

__all__ = ["FlatParameters"]

Array: TypeAlias = npt.NDArray[Any]

_ALIGNMENT = 64  # bytes: a cache line, a vector


class FlatParameters:
    """Moves a model's parameters into one array; the layers keep views of it.

    One array means one optimizer call for the whole model. Each parameter begins at a multiple of
    64 bytes; the gaps stay zero under every optimizer.

    Attributes
    ----------
    values, grads : ndarray (n,)
        Parameters and gradients.
    settle : callable
        As `Layer.settle`.
    """

    def __init__(self, model: Layer, dtype: np.dtype[Any]) -> None:
        self._model = model
        self.settle: Callable[[bool], None] = _nothing_to_settle
        for _, layer in model.named_layers():
            layer._settle(write=False)  # with the Trainer that had them before
            layer.settle = None
        self._parts: list[tuple[str, int, tuple[int, ...]]] = []  # name, first element, shape
        places: list[tuple[Layer, str]] = []
        end = 0
        step = _ALIGNMENT // dtype.itemsize
        for prefix, layer in model.named_layers():
            for name, array in layer.params.items():
                self._parts.append((prefix + name, end, array.shape))
                places.append((layer, name))
                end += -(-array.size // step) * step
        self.values, self.grads = _aligned(end, dtype), _aligned(end, dtype)
        values, grads = self.named(self.values).values(), self.named(self.grads).values()
        self._held = [(*place, value) for place, value in zip(places, values, strict=True)]
        self._grads = list(grads)
        for (layer, name, value), grad in zip(self._held, grads, strict=True):
            value[...] = layer.params[name]
            layer.params[name], layer.grads[name] = value, grad

    def named(self, flat: Array) -> dict[str, Array]:
        """Views of a flat array of this layout, by parameter."""
        return _core.split(flat, self._parts)

    def check_held(self) -> None:
        """Raise RuntimeError if the layers' arrays are not those here any more."""
        if not _core.all_held(self._held):
            raise RuntimeError(
                "Trainer: the model's arrays were replaced, by a later Trainer of this model "
                "or by hand; give every Trainer a model of its own, and assign layer.weight"
            )

    def collect(self, *, copies: bool) -> None:
        """See to gradients that a layer stored as new arrays: copy them, or refuse them."""
        names = [name for name, *_ in self._parts]
        for name, (layer, key, _), place in zip(names, self._held, self._grads, strict=True):
            found = layer.grads.get(key, place)
            layer.grads[key] = place
            if found is place:
                continue
            if not copies:
                raise ValueError(
                    f"Trainer: a recordable layer must write the gradient of {name} into the array "
                    "that it finds in grads; use out=, or recordable = False"
                )
            if np.shape(found) != place.shape:
                shape = np.shape(found)
                raise ShapeError(f"Trainer: gradient of {name} must be {place.shape}, got {shape}")
            place[...] = found

    def gradients(self) -> dict[str, Array]:
        """Copies of the gradients by parameter: views of one copy."""
        return self.named(self.grads.copy())

    def locate(self, index: int) -> tuple[str, int]:
        """Parameter, and position in it, of an element of the flat arrays."""
        for name, first, shape in self._parts:
            if first <= index < first + math.prod(shape):
                return name, index - first
        raise IndexError(index)

    # ---- copies, to go back to --------------------------------------------------------------

    @property
    def buffers(self) -> list[Array]:
        """What a forward pass in training changes: the layers' live arrays besides parameters."""
        return [a for _, layer in self._model.named_layers() for a in layer.buffers.values()]

    def snapshot(self) -> list[Array]:
        """Copies of parameters and buffers."""
        self.settle(False)
        return [a.copy() for a in (self.values, *self.buffers)]

    def restore(self, snapshot: list[Array]) -> None:
        """Go back to a snapshot."""
        self.settle(True)
        for array, old in zip((self.values, *self.buffers), snapshot, strict=True):
            array[...] = old


def _nothing_to_settle(write: bool) -> None:
    pass


def _aligned(size: int, dtype: np.dtype[Any]) -> Array:
    raw = np.zeros(size * dtype.itemsize + _ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return raw[first : first + size * dtype.itemsize].view(dtype)

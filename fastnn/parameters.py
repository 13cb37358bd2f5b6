"""All parameters of a model, and all gradients, in one flat array each."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

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
    """

    def __init__(self, model: Layer, dtype: np.dtype[Any]) -> None:
        self._model = model
        self._names: list[str] = []
        self._slices: list[slice] = []
        self._shapes: list[tuple[int, ...]] = []
        places = []
        end = 0
        step = _ALIGNMENT // dtype.itemsize
        for prefix, layer in model.named_layers():
            for name, array in layer.params.items():
                places.append((layer, name))
                self._names.append(prefix + name)
                self._shapes.append(array.shape)
                self._slices.append(slice(end, end + array.size))
                end += -(-array.size // step) * step
        self.values, self.grads = _aligned(end, dtype), _aligned(end, dtype)
        for (layer, name), value, grad in zip(
            places, self._views(self.values), self._views(self.grads), strict=True
        ):
            value[...] = layer.params[name]
            layer.params[name], layer.grads[name] = value, grad

    def _views(self, flat: Array) -> list[Array]:
        return [flat[s].reshape(n) for s, n in zip(self._slices, self._shapes, strict=True)]

    def named(self, flat: Array) -> dict[str, Array]:
        """Views of a flat array of this layout, by parameter."""
        return dict(zip(self._names, self._views(flat), strict=True))

    def gradients(self) -> dict[str, Array]:
        """Copies of the gradients by parameter."""
        return {name: view.copy() for name, view in self.named(self.grads).items()}

    def locate(self, index: int) -> tuple[str, int]:
        """Parameter, and position in it, of an element of the flat arrays."""
        for name, place in zip(self._names, self._slices, strict=True):
            if place.start <= index < place.stop:
                return name, index - place.start
        raise IndexError(index)

    # ---- copies, to go back to --------------------------------------------------------------

    @property
    def buffers(self) -> list[Array]:
        """What a forward pass in training changes: the layers' live arrays besides parameters."""
        return [a for _, layer in self._model.named_layers() for a in layer.buffers.values()]

    def snapshot(self) -> list[Array]:
        """Copies of parameters and buffers."""
        return [a.copy() for a in (self.values, *self.buffers)]

    def restore(self, snapshot: list[Array]) -> None:
        """Go back to a snapshot."""
        for array, old in zip((self.values, *self.buffers), snapshot, strict=True):
            array[...] = old


def _aligned(size: int, dtype: np.dtype[Any]) -> Array:
    raw = np.zeros(size * dtype.itemsize + _ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return raw[first : first + size * dtype.itemsize].view(dtype)

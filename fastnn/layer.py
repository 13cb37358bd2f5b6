"""What every layer is: named arrays, their initial values, and a forward pass with its gradient."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn import _core, initializers
from fastnn.arguments import seed_number
from fastnn.errors import DTypeError, ShapeError

__all__ = ["Array", "Backprop", "Layer", "Shape", "Snapshot", "generator"]

Array: TypeAlias = Any  # a NumPy or CuPy array
Shape: TypeAlias = tuple[int, ...]
Initializer: TypeAlias = initializers.Initializer
# backprop(dy) -> dx. Those of built-in layers also take overwrite=True: dy is not needed any more,
# so an element-wise layer puts dx in its place.
Backprop: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class _Slot:
    """An array that a layer will hold once its dtype is known."""

    shape: Shape
    initializer: Initializer
    trainable: bool


class Snapshot:
    """Attribute for one of a layer's arrays: reads a read-only copy, writes in place."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: "Layer | None", owner: type | None = None) -> Any:
        if layer is None:
            return self
        return layer._read(self.name) if self.name in layer._slots else None

    def __set__(self, layer: "Layer", value: Array) -> None:
        if self.name not in layer._slots:
            raise ValueError(f"{type(layer).__name__}: there is no {self.name} to set")
        name = f"{type(layer).__name__}: {self.name}"
        layer._write(self.name, layer._accept(name, self.name, value))


class Layer:
    """Base of the layers; derive from it for a layer of your own.

    A derived class calls ``super().__init__()``, declares its arrays with `add_parameter` and
    `add_buffer`, and defines `forward`, which begins with ``self.first_use(x)``.

    Attributes
    ----------
    params, buffers, grads : dict of str to array
        The live arrays: trainable ones, others, and the gradients of the former. `backprop` writes
        into an array that it finds in `grads`, else it stores a new one there.
    recordable : bool
        Whether `forward` and `backprop` are calls of `fastnn.ops` alone and never look at a value,
        so that a `Trainer` may record them. A class that defines `forward` is recordable only if
        it says so itself.
    needs_input_grad : bool
        False lets `backprop` return None instead of computing dx.
    seed : int or None
        What the initial values are drawn from at a first use alone; None for fresh ones.
    """

    recordable: bool = False
    needs_input_grad: bool = True
    seed: int | None = None
    # settle(write), if there is one: called before the live arrays are read, or written. That of a
    # Trainer on a GPU brings them up to date.
    settle: Callable[[bool], None] | None = None

    def __init_subclass__(cls) -> None:
        """A class with a forward of its own is recordable only if it says so."""
        super().__init_subclass__()
        if "forward" in vars(cls):
            cls.recordable = bool(vars(cls).get("recordable", False))

    def __init__(self) -> None:
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.grads: dict[str, Array] = {}
        self._slots: dict[str, _Slot] = {}
        self._dtype: np.dtype[Any] | None = None
        self._ready = False

    # ---- what a layer of one's own uses -----------------------------------------------------

    def add_parameter(self, name: str, shape: Shape, initializer: str | Initializer) -> None:
        """Declare a trainable array, held in ``params[name]`` from `build` on.

        Parameters
        ----------
        name : str
            Key, unique within the layer.
        shape : tuple of int
            Its shape.
        initializer : str or callable
            Name from `fastnn.initializers`, or a function ``f(rng, shape, dtype) -> ndarray``.
        """
        self._slots[name] = _Slot(shape, initializers.get(initializer), trainable=True)

    def add_buffer(self, name: str, shape: Shape, initializer: str | Initializer) -> None:
        """Declare an array that is saved but not trained; arguments as for `add_parameter`."""
        self._slots[name] = _Slot(shape, initializers.get(initializer), trainable=False)

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        """Output of the layer, and the function that takes its gradient back.

        Parameters
        ----------
        x : array
            Input; never written to.
        training : bool, default False
            Behave as in training (batch statistics, dropout) instead of inference.

        Returns
        -------
        y : array
            Output.
        backprop : callable
            ``backprop(dy) -> dx`` fills `grads`. `x` and `y` must not be changed before it runs.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def children(self) -> Mapping[str, "Layer"]:
        """Layers inside this one, by the prefix of their arrays' names; none by default."""
        return {}

    def first_use(self, x: Array) -> None:
        """Build, drawing from `seed`, unless that was done before: for the first input `x`."""
        self._settle(write=True)
        if self._ready:
            return
        xp = _library(f"{type(self).__name__}: x", x)
        floating = x.dtype.kind == "f" or not self.children()  # images in front are for float32
        self.build(x.shape, x.dtype if floating else np.float32, self.seed, xp)

    @property
    def has_parameters(self) -> bool:
        """Whether this layer, or one inside it, declares or holds anything to train."""
        own = bool(self.params) or any(slot.trainable for slot in self._slots.values())
        return own or any(child.has_parameters for child in self.children().values())

    # ---- building ---------------------------------------------------------------------------

    def build(
        self,
        input_shape: Shape | None,
        dtype: npt.DTypeLike,
        rng: np.random.Generator | int | None = None,
        xp: Any = np,
    ) -> None:
        """Make the arrays that are not there yet and draw their initial values.

        Parameters
        ----------
        input_shape : tuple of int or None
            Shape of an input, checked where it is known.
        dtype : dtype
            float32 or float64, of every array.
        rng : numpy.random.Generator, int or None
            Source of the values, or the seed of one. Each child gets a stream of its own.
        xp : module, default numpy
            Array library to make the arrays with, numpy or cupy.

        Raises
        ------
        ShapeError
            If the layer does not take inputs of that shape.
        DTypeError
            If `dtype` is neither of the two, or not that of the arrays already there.
        ValueError
            If one array is registered under two names.
        """
        self._check_input(input_shape)
        self._set_dtype(np.dtype(dtype))
        rng = generator(rng)
        for name, slot in self._slots.items():
            if name not in self._held(name):
                self._held(name)[name] = xp.asarray(self._draw(name, slot, rng))
        children = self.children().values()
        for child, stream in zip(children, rng.spawn(len(children)), strict=True):
            child.build(None, dtype, stream, xp)
        self._places()
        self._ready = True

    def _draw(self, name: str, slot: _Slot, rng: np.random.Generator) -> Array:
        value = np.array(slot.initializer(rng, slot.shape, self._dtype), self._dtype)
        if value.shape != slot.shape:
            owner = type(self).__name__
            raise ShapeError(
                f"{owner}: initializer of {name} must return {slot.shape}, got {value.shape}"
            )
        return value

    def _check_input(self, shape: Shape | None) -> None:
        """Raise ShapeError if the layer does not take inputs of that shape."""

    def _set_dtype(self, dtype: np.dtype[Any]) -> None:
        owner = type(self).__name__
        if dtype not in (np.float32, np.float64):
            raise DTypeError(f"{owner}: dtype must be float32 or float64, got {dtype}")
        if self._dtype not in (None, dtype) and (self.params or self.buffers):
            raise DTypeError(f"{owner}: dtype is {self._dtype} already, got {dtype}")
        self._dtype = dtype

    # ---- names and values -------------------------------------------------------------------

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, "Layer"]]:
        """Every layer from this one down, each with the prefix of its arrays' names."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.named_layers(f"{prefix}{name}.")

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """Names, such as ``layers.0.weight``, and read-only copies of the trainable arrays.

        Raises
        ------
        ValueError
            If one array is registered under two names.
        AttributeError
            If the arrays were not drawn yet.
        """
        for key, (layer, name) in self._places().items():
            if layer._held(name) is layer.params:
                yield key, layer._read(name)

    def state_dict(self) -> dict[str, Array]:
        """Read-only copies of all arrays, trainable or not, by name.

        Raises
        ------
        ValueError
            If one array is registered under two names.
        AttributeError
            If the arrays were not drawn yet.
        """
        return {key: layer._read(name) for key, (layer, name) in self._places().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Set all arrays, or none if anything is wrong.

        Parameters
        ----------
        state : mapping of str to array
            What `state_dict` of such a layer returned.

        Raises
        ------
        ValueError
            If a name is missing or unknown; the message has the first.
        ShapeError, DTypeError
            If an array has another shape or dtype, or the arrays have several dtypes.
        """
        places = self._places()
        for key in (*places, *state):
            if key not in state or key not in places:
                wrong = "unknown" if key in state else "missing"
                raise ValueError(f"load_state_dict: {wrong} key {key!r}")
        accepted = {
            key: layer._accept(f"load_state_dict: {key}", name, state[key])
            for key, (layer, name) in places.items()
        }
        new = {
            str(accepted[key].dtype)
            for key, (layer, name) in places.items()
            if name not in layer._held(name)
        }
        if len(new) > 1:
            raise DTypeError(f"load_state_dict: arrays must have one dtype, got {sorted(new)}")
        for key, (layer, name) in places.items():
            layer._write(name, accepted[key])

    def _places(self) -> dict[str, tuple["Layer", str]]:
        """Where the array of each name is to be found; ValueError if two names share one."""
        places = {
            prefix + name: (layer, name)
            for prefix, layer in self.named_layers()
            for name in dict.fromkeys((*layer._slots, *layer.params, *layer.buffers))
        }
        _check_distinct(places)
        return places

    def _held(self, name: str) -> dict[str, Array]:
        """The dictionary that holds, or will hold, the array."""
        if name in self._slots:
            return self.params if self._slots[name].trainable else self.buffers
        return self.params if name in self.params else self.buffers

    def _settle(self, write: bool) -> None:
        """Call `settle`, but for ops that are only recorded: these touch no array."""
        if self.settle is not None and not _core.is_recording():
            self.settle(write)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: the arrays as they are now, and no Trainer."""
        self._settle(write=False)
        return {name: value for name, value in vars(self).items() if name != "settle"}

    def _read(self, name: str) -> Array:
        self._settle(write=False)
        if name not in self._held(name):
            raise AttributeError(
                f"{type(self).__name__}: {name} is drawn at the first use; call build() before"
            )
        snapshot = self._held(name)[name].copy()
        if isinstance(snapshot, np.ndarray):
            snapshot.flags.writeable = False
        return snapshot

    def _accept(self, what: str, name: str, value: Array) -> Array:
        """The value as an array of the layer's library, if its shape and dtype are right."""
        _library(what, value)
        current = self._held(name).get(name)
        if current is not None:
            value = _library(what, current).asarray(value)
        shape = self._slots[name].shape if current is None else current.shape
        if value.shape != shape:
            raise ShapeError(f"{what} must have shape {shape}, got {value.shape}")
        dtype = self._dtype if current is None else current.dtype
        dtypes = (np.dtype(np.float32), np.dtype(np.float64)) if dtype is None else (dtype,)
        if value.dtype not in dtypes:
            raise DTypeError(f"{what} must be {' or '.join(map(str, dtypes))}, got {value.dtype}")
        return value

    def _write(self, name: str, value: Array) -> None:
        self._settle(write=True)
        if self._dtype is None:
            self._dtype = value.dtype
        held = self._held(name)
        if name in held:
            held[name][...] = value
        else:
            held[name] = value.copy(order="C")


def _check_distinct(places: Mapping[str, tuple[Layer, str]]) -> None:
    """Refuse one layer, or one array, under two names."""
    seen: dict[tuple[str, Any], str] = {}
    for key, (layer, name) in places.items():
        array = layer._held(name).get(name)
        identity = (name, id(layer)) if array is None else ("", _address(array))
        first = seen.setdefault(identity, key)
        if first != key:
            raise ValueError(f"{first} and {key} are one array; every parameter needs its own")


def _address(array: Array) -> int:
    """Where the data begins; empty arrays are told apart by their objects."""
    if array.size == 0:
        return id(array)
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _library(what: str, x: Array) -> Any:
    """The module numpy or cupy that the array comes from."""
    name = type(x).__module__.partition(".")[0]
    if name not in ("numpy", "cupy"):
        raise TypeError(f"{what} must be a NumPy or CuPy array, got {type(x).__qualname__}")
    if isinstance(x, np.ma.MaskedArray):
        raise DTypeError(f"{what} must be a plain array: its mask would be lost")
    return sys.modules[name]


def generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """A generator as it is, or one from a seed; Philox, so that streams are cheap to spawn."""
    if isinstance(rng, np.random.Generator):
        return rng
    seed = None if rng is None else seed_number("build", rng)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))

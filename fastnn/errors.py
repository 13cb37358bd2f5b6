"""Exceptions raised by fastnn.

Each also derives from the built-in exception that a NumPy or PyTorch user would expect, so
``except ValueError`` and ``except TypeError`` keep working.
"""

__all__ = [
    "CheckpointError",
    "DTypeError",
    "DeviceError",
    "FormatError",
    "LabelError",
    "OutOfMemoryError",
    "ShapeError",
]


class DTypeError(TypeError):
    """An array has a data type that the operation does not take."""


class ShapeError(ValueError):
    """An array has the wrong number of dimensions or the wrong length along one of them."""


class LabelError(ValueError):
    """A class label lies outside ``0 .. classes - 1``."""


class FormatError(ValueError):
    """A data file is not what its name or header says; the message has the path and the offset."""


class CheckpointError(FormatError):
    """A checkpoint is damaged, of an unknown version, or belongs to another model."""


class DeviceError(RuntimeError):
    """A device cannot be used."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A device has too little free memory."""

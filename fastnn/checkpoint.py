"""Checkpoints: named arrays and JSON metadata in one safetensors file.

The file's ``__metadata__`` has one key, ``fastnn``, whose value is JSON: the version of this
format, a SHA-256 over everything stored, and the caller's metadata. One key rather than three
because safetensors writes keys in random order, and equal checkpoints should be equal files.

A file is read and written through memory and never mapped, so saving onto the file just loaded is
safe. It is written to a temporary name, flushed to the disk and renamed: a process killed at any
moment leaves the old file or the new one (and perhaps a ``.fastnn-*.tmp`` beside it).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from fastnn.datasets import StrPath, array_bytes, open_regular, require_regular
from fastnn.errors import CheckpointError, DTypeError

__all__ = ["load", "save"]

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""

_DTYPES = {
    "BOOL": np.dtype("?"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
}
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save(path: StrPath, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint, replacing the file at `path` in one step.

    Parameters
    ----------
    path : path
        The file. A symbolic link is followed; the mode of an existing file is kept.
    arrays : mapping of str to ndarray
        Booleans, integers and floats of 16 to 64 bits, of any layout.
    metadata : mapping
        Anything that JSON takes, NaN and infinities included.

    Raises
    ------
    OSError
        Writing failed; the file is as it was, and nothing is left beside it. Only when the last
        step fails, flushing the folder, is the new file in place but perhaps not on the disk.
    DTypeError, TypeError, ValueError
        Something cannot be stored; nothing was written.
    """
    ready = {name: _storable(name, array) for name, array in arrays.items()}
    # What load will see: tuples as lists, keys as strings (two keys may become one: refused).
    clean = _strict_json(json.dumps(dict(metadata)))
    note = {"version": FORMAT_VERSION, "sha256": _digest(ready, clean), "metadata": clean}
    data = safetensors.numpy.save(ready, {"fastnn": json.dumps(note)})
    _header_length(data)
    target = os.path.realpath(os.fsdecode(path))
    try:
        _replace(target, data)
    except OSError as error:
        if error.filename is None:
            error.filename = target
        raise


def load(path: StrPath) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a checkpoint that `save` wrote.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    arrays : dict of str to ndarray
        New writable arrays, in the order of the file (not always that of saving).
    metadata : dict
        The metadata as JSON gives it back: tuples are lists, keys are strings.

    Raises
    ------
    OSError
        The path is missing, unreadable, or not a regular file.
    CheckpointError
        The file is damaged, not a checkpoint, or of an unknown version.
    """
    where = os.fsdecode(path)
    with open_regular(where) as file:
        data = file.read()
    try:
        return _decode(data)
    except (ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{where}: {error}") from error


# ---- the format ---------------------------------------------------------------------------------
# These functions raise ValueError for damage; `load` adds the path.


def _storable(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as safetensors needs it: little-endian and C-contiguous."""
    if not isinstance(name, str) or name == "__metadata__":
        raise ValueError(f"save: {name!r} cannot be the name of an array")
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise DTypeError(f"save: {name} must be a plain NumPy array, got {type(array).__name__}")
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _DTYPES.values():
        raise DTypeError(f"save: {name} is {array.dtype}; a checkpoint takes {', '.join(_DTYPES)}")
    array_bytes(array.shape, dtype.itemsize)
    return np.asarray(array, dtype, order="C")


def _digest(arrays: Mapping[str, NDArray[Any]], metadata: dict[str, Any]) -> str:
    table = [[name, arrays[name].dtype.str, arrays[name].shape] for name in sorted(arrays)]
    digest = hashlib.sha256(json.dumps([table, metadata]).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _decode(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    length = _header_length(data)
    header = _strict_json(str(data[8 : 8 + length], "utf-8"))
    note = _read_note(header.pop("__metadata__", None))
    _check_layout(header, len(data) - 8 - length)
    loaded = safetensors.numpy.load(data)
    # Older releases of the library return views of read-only bytes.
    arrays = {name: np.require(loaded[name], requirements="W") for name in header}
    metadata: dict[str, Any] = note["metadata"]
    if _digest(arrays, metadata) != note["sha256"]:
        raise ValueError("the contents do not match their checksum")
    return arrays, metadata


def _header_length(data: bytes) -> int:
    # A header always opens with a brace, so a length that looks like a pickle's start is told
    # apart from a pickle.
    if data.startswith(_PICKLE_STARTS) and data[8:9] != b"{":
        raise ValueError("a pickle or a .pt archive, not safetensors: pickle refused")
    length = int.from_bytes(data[:8], "little") if len(data) >= 8 else 0
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"header of {length} bytes, more than {MAX_HEADER_BYTES}")
    if len(data) < 8 + length or not length:
        raise ValueError(f"empty or truncated: header of {length} bytes, file of {len(data)}")
    return length


def _strict_json(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"duplicate key {key!r}")
    return dict(pairs)


def _read_note(fields: object) -> dict[str, Any]:
    if not isinstance(fields, dict) or not isinstance(fields.get("fastnn"), str):
        raise ValueError("not a fastnn checkpoint: no 'fastnn' in the metadata")
    note = _strict_json(fields["fastnn"])
    if note.get("version") != FORMAT_VERSION:
        raise ValueError(f"version {note.get('version')}; this fastnn reads {FORMAT_VERSION}")
    if list(note) != ["version", "sha256", "metadata"] or not isinstance(note["metadata"], dict):
        raise ValueError(f"bad 'fastnn' metadata with keys {list(note)}")
    return note


def _check_layout(header: dict[str, Any], held: int) -> None:
    """Raise ValueError unless the arrays cover the `held` bytes of data exactly once."""
    end = 0
    for begin, stop, name in sorted(_span(name, entry) for name, entry in header.items()):
        if begin != end:
            problem = "overlaps the array before it" if begin < end else "follows a hole"
            raise ValueError(f"{name!r} at data offset {begin} {problem}, which ends at {end}")
        end = stop
    if end != held:
        raise ValueError(f"header declares {end} bytes of data, file holds {held}")


def _span(name: str, entry: object) -> tuple[int, int, str]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} must have dtype, shape, data_offsets and no more")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name!r} has unknown dtype {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has bad or negative shape {shape!r} or offsets {offsets!r}")
    size = array_bytes(shape, _DTYPES[dtype].itemsize)
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"{name!r} of {size} bytes has offsets {offsets}")
    return offsets[0], offsets[1], name


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


# ---- the file -----------------------------------------------------------------------------------


def _replace(target: str, data: bytes) -> None:
    """Put `data` in the place of the file `target`, all or nothing."""
    mode = _mode(target)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastnn-{secrets.token_hex(8)}.tmp")
    # The folder is opened first: afterwards, a failure could not be undone.
    with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as folder_fd:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with _opened(temporary, flags, 0o666 if mode is None else mode) as fd:
                if mode is not None:
                    os.fchmod(fd, mode)  # what the umask took away
                _write(fd, data)
                os.fsync(fd)
            os.replace(temporary, target)
        except BaseException:  # Ctrl-C too leaves nothing behind
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(folder_fd)


def _mode(target: str) -> int | None:
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    require_regular(found.st_mode, target)
    return stat.S_IMODE(found.st_mode)


@contextmanager
def _opened(path: str, flags: int, mode: int = 0) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync_folder(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:  # some file systems cannot, and then need not
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise

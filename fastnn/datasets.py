"""Data sets for examples and benchmarks, and readers of the IDX and NPZ files they come in.

Every reader copies the file into memory (a mapped file that another process truncates kills the
program), checks what a header declares against what the file can hold before it allocates, and
never loads a pickle. A damaged file raises `FormatError`; a file that cannot be read, `OSError`.
"""

from __future__ import annotations

import errno
import gzip
import importlib
import io
import math
import operator
import os
import stat
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PureWindowsPath
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastnn.errors import FormatError

__all__ = ["Dataset", "digits", "generated", "mnist", "read_idx", "read_npz"]

StrPath = str | os.PathLike[str]

MAX_NPZ_BYTES = 1 << 32
"""Default limit on the bytes that `read_npz` unpacks."""

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""The four files of MNIST and the SHA-256 of each as published (gzip)."""

_MNIST_ADVICE = (
    "put the four files (train-images-idx3-ubyte and so on, plain or .gz) into a folder and pass "
    "it as data (--data DIR) or set FASTNN_DATA to it"
)

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_NPY_MAGIC = b"\x93NUMPY"
_NPY_MAX_HEADER = 10_000  # NumPy's own limit for files it does not trust
_MAX_DIMS = 32  # the least that any NumPy takes
_DEFLATE_RATIO = 1032  # one byte of deflate never unpacks to more
_CHUNK = 1 << 20  # gzip and zip streams make a second copy of what one read asks for


class Dataset(NamedTuple):
    """Training and test data, held in memory.

    Attributes
    ----------
    x_train, x_test : ndarray of uint8, shape (n, features)
        One sample a row. ``fastnn.Rescaling`` turns them into floats inside the first product.
    y_train, y_test : ndarray of int64, shape (n,)
        Class indices, from 0.
    name : str
        What the data is, for titles and reports.
    """

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    name: str


# ---- data sets ----------------------------------------------------------------------------------


def mnist(data: StrPath | None = None, *, download: bool = False) -> Dataset:
    """Read MNIST, handwritten digits of 28 x 28 pixels, from its IDX files.

    Parameters
    ----------
    data : path, optional
        Folder with the files under their usual names (``train-images-idx3-ubyte`` and so on, plain
        or ``.gz``), directly or in ``mnist/`` below it. Default: environment variable FASTNN_DATA.
    download : bool, default False
        Fetch the files from a public mirror into the user's cache when the folder has none.
        Needs the ``pooch`` package (extra ``fastnn[bench]``).

    Returns
    -------
    Dataset
        Pixels 0 to 255 as rows of 784, labels 0 to 9.

    Raises
    ------
    OSError
        A file is missing or unreadable, or the download failed.
    FormatError
        A file is damaged, or images and labels differ in number.
    """
    paths = _mnist_paths(data, download)
    x_train, y_train = _read_pair(*paths[:2])
    x_test, y_test = _read_pair(*paths[2:])
    if x_train.shape[1] != x_test.shape[1]:
        raise FormatError(
            f"{paths[2]}: offset 4: test images have {x_test.shape[1]} pixels, "
            f"training images {x_train.shape[1]}"
        )
    return Dataset(x_train, y_train, x_test, y_test, "MNIST")


def digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's bundled handwritten digits: 1797 images of 8 x 8 pixels.

    Parameters
    ----------
    seed : int, default 0
        Chooses the split: 1437 samples for training and 360 for testing.

    Returns
    -------
    Dataset
        Pixels 0 to 16 (not 255) as uint8 rows of 64, labels 0 to 9.

    Raises
    ------
    ImportError
        scikit-learn is not installed (extra ``fastnn[sklearn]``).
    """
    bunch = _optional("sklearn.datasets", "digits", "scikit-learn", "sklearn").load_digits()
    # Raw words rather than Generator.permutation: NumPy keeps only those the same for ever.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(bunch.target)), kind="stable")
    x = bunch.data.astype(np.uint8)[order]
    y = bunch.target.astype(np.int64)[order]
    cut = len(y) * 4 // 5
    return Dataset(x[:cut], y[:cut], x[cut:], y[cut:], "digits")


def generated(n: int = 60_000, features: int = 784, classes: int = 10, seed: int = 0) -> Dataset:
    """Make random data of MNIST's shape, for timing: a pattern for each class, plus noise.

    Parameters
    ----------
    n : int, default 60000
        Training samples; a sixth as many (at least one) are made for testing.
    features, classes : int
        Columns, and number of labels.
    seed : int, default 0
        The same seed gives the same bytes with every version of NumPy.

    Returns
    -------
    Dataset
        Values 0 to 254; a linear classifier learns them.
    """
    for name, value in (("n", n), ("features", features), ("classes", classes)):
        if operator.index(value) < 1:
            raise ValueError(f"generated: {name} must be at least 1, got {value}")
    rows = n + max(1, n // 6)
    bits = np.random.PCG64(seed)
    y = (bits.random_raw(rows) % classes).astype(np.int64)
    patterns = _random_bytes(bits, classes, features) >> 1
    x = _random_bytes(bits, rows, features)
    x >>= 1  # half the range each for noise and pattern, so that the sum fits a byte
    x += patterns[y]
    return Dataset(x[:n], y[:n], x[n:], y[n:], "generated")


def _mnist_paths(data: StrPath | None, download: bool) -> list[str]:
    folder = os.fsdecode(data) if data is not None else os.environ.get("FASTNN_DATA", "")
    found = [_find(folder, name) for name in MNIST_SHA256 if folder]
    paths = [path for path in found if path is not None]
    if len(paths) == len(MNIST_SHA256):
        return paths
    if download:
        return _download()
    if not folder:
        raise FileNotFoundError(f"mnist: no data folder given; {_MNIST_ADVICE}")
    missing = [name for name, path in zip(MNIST_SHA256, found, strict=True) if path is None]
    problem = f"mnist: no {', '.join(missing)} (plain or .gz), here or in mnist/; {_MNIST_ADVICE}"
    raise FileNotFoundError(errno.ENOENT, problem, folder)


def _find(folder: str, name: str) -> str | None:
    places = (os.path.join(folder, *below, name) for below in ((), ("mnist",)))
    candidates = (place + suffix for place in places for suffix in ("", ".gz"))
    return next(filter(os.path.exists, candidates), None)


def _download() -> list[str]:
    pooch = _optional("pooch", "mnist(download=True)", "pooch", "bench")
    cache = pooch.os_cache("fastnn")
    registry = {f"{name}.gz": f"sha256:{digest}" for name, digest in MNIST_SHA256.items()}
    fetcher = pooch.create(path=cache, base_url=MNIST_URL, registry=registry)
    try:
        return [fetcher.fetch(name) for name in registry]
    except OSError as error:  # the network's errors and the cache folder's
        raise OSError(
            f"mnist: could not fetch {MNIST_URL} into {cache} ({error}); {_MNIST_ADVICE}"
        ) from error
    except ValueError as error:  # the checksum is another
        raise FormatError(f"{MNIST_URL}: {error}") from error


def _read_pair(images: str, labels: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or x.dtype != np.uint8:
        raise FormatError(f"{images}: offset 2: images must be uint8 (n, h, w), got {_form(x)}")
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise FormatError(f"{labels}: offset 2: labels must be integers (n,), got {_form(y)}")
    if len(x) != len(y):
        raise FormatError(f"{labels}: offset 4: {len(y)} labels for {len(x)} images in {images}")
    return x.reshape(len(x), x.shape[1] * x.shape[2]), y.astype(np.int64)


def _form(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"


def _random_bytes(bits: np.random.PCG64, rows: int, columns: int) -> NDArray[np.uint8]:
    count = rows * columns
    words = bits.random_raw(-(-count // 8)).astype("<u8", copy=False)
    return words.view(np.uint8)[:count].reshape(rows, columns)


def _optional(module: str, caller: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{caller} needs {package}; install it with: pip install 'fastnn[{extra}]'"
        ) from error


# ---- IDX ----------------------------------------------------------------------------------------


def read_idx(path: StrPath) -> NDArray[Any]:
    """Read an IDX file, plain or gzip (told apart by content, not by name).

    Parameters
    ----------
    path : path
        The file, of any of the six IDX types.

    Returns
    -------
    ndarray
        A new array in the machine's byte order.

    Raises
    ------
    OSError
        The path is missing, unreadable, or not a regular file.
    FormatError
        The file is damaged or not IDX. Offsets count unpacked bytes.
    """
    where = os.fsdecode(path)
    with open_regular(where) as file:
        size = os.fstat(file.fileno()).st_size
        if file.peek(2)[:2] != _GZIP_MAGIC:
            return _read_idx(_Reader(file, where, size))
        with gzip.GzipFile(fileobj=file) as stream:
            reader = _Reader(stream, where, size * _DEFLATE_RATIO, exact=False)
            with _damage(reader.bad):
                return _read_idx(reader)


def _read_idx(reader: _Reader) -> NDArray[Any]:
    magic = reader.take(4)
    if magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] == 0:
        raise reader.bad(f"not an IDX file, it starts with {magic!r}", 0)
    shape = struct.unpack(f">{magic[3]}I", reader.take(4 * magic[3]))
    array = reader.rest(shape, np.dtype(_IDX_TYPES[magic[2]]))
    return array.byteswap(inplace=True) if sys.byteorder == "little" else array


# ---- NPZ and NPY --------------------------------------------------------------------------------


def read_npz(path: StrPath, *, max_bytes: int = MAX_NPZ_BYTES) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` or ``.npy`` file; a pickle is never loaded.

    Parameters
    ----------
    path : path
        The file, of NPY version 1 or 2. The single array of an ``.npy`` file is called
        ``arr_0``, as by ``np.savez``.
    max_bytes : int, default 4 GiB
        Refuse files that declare more than this, unpacked.

    Returns
    -------
    dict of str to ndarray
        New arrays, in the byte order of the file, as ``np.load`` gives them.

    Raises
    ------
    OSError
        The path is missing, unreadable, or not a regular file.
    FormatError
        The file is damaged, too large, has unsafe or repeated names, or holds objects.
    """
    where = os.fsdecode(path)
    with open_regular(where) as file:
        reader = _Reader(file, where, os.fstat(file.fileno()).st_size)
        start = file.peek(6)[:6]
        if start == _NPY_MAGIC:
            _refuse_bomb(reader, reader.held, max_bytes)
            return {"arr_0": _read_npy(reader)}
        if start[:2] == b"PK":
            with _damage(reader.bad), zipfile.ZipFile(file) as archive:
                return _read_members(archive, reader, max_bytes)
    problem = "pickle refused" if start[:1] == b"\x80" else f"it starts with {start!r}"
    raise reader.bad(f"neither an NPZ nor an NPY file: {problem}")


def _read_members(
    archive: zipfile.ZipFile, whole: _Reader, max_bytes: int
) -> dict[str, NDArray[Any]]:
    members = archive.infolist()
    copies = Counter(member.filename for member in members)
    for member in members:
        problem = _member_problem(member, copies)
        if problem:
            raise whole.bad(f"member {member.filename!r}: {problem}", member.header_offset)
    _check_count(archive, whole, len(members))
    _refuse_bomb(whole, sum(member.file_size for member in members), max_bytes)
    arrays = {}
    for member in members:
        with archive.open(member) as opened:
            stream = cast(io.BufferedIOBase, opened)
            reader = _Reader(stream, f"{whole.where}[{member.filename}]", member.file_size)
            with _damage(reader.bad):
                arrays[member.filename[:-4]] = _read_npy(reader)
    return arrays


def _check_count(archive: zipfile.ZipFile, whole: _Reader, count: int) -> None:
    # zipfile does not look: a damaged length in one entry can swallow the entries after it.
    whole.stream.seek(-22, os.SEEK_END)
    end = whole.stream.read(22)
    declared = int.from_bytes(end[10:12], "little")
    if archive.comment or declared not in (count, 0xFFFF):  # the latter is "see elsewhere"
        raise whole.bad(f"declares {declared} members, holds {count}", whole.held - 22)


def _member_problem(member: zipfile.ZipInfo, copies: Counter[str]) -> str | None:
    path = PureWindowsPath(member.filename)  # its rules take both slashes: right on any system
    if path.root or ".." in path.parts:
        return "unsafe name"
    if copies[member.filename] > 1:
        return "this name appears twice"
    if not member.filename.endswith(".npy"):
        return "not an .npy file"
    if member.flag_bits & 1:
        return "encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {member.compress_type}"
    return None


def _refuse_bomb(whole: _Reader, declared: int, max_bytes: int) -> None:
    if declared > max_bytes:
        raise whole.bad(f"declares {declared} bytes of data, more than max_bytes={max_bytes}")
    most = whole.held * _DEFLATE_RATIO
    if declared > most:
        raise whole.bad(f"declares {declared} bytes of data, file holds at most {most}")


def _read_npy(reader: _Reader) -> NDArray[Any]:
    start = reader.take(8)
    start += reader.take(2 if start[6] == 1 else 4)
    length = int.from_bytes(start[8:], "little")
    if start[:6] != _NPY_MAGIC or length > _NPY_MAX_HEADER:
        raise reader.bad(f"no NPY header, it starts with {start!r}", 0)
    shape, order, dtype = _parse_npy(start + reader.take(length), reader)
    if dtype.hasobject:
        raise reader.bad(f"array of objects ({dtype}): pickle refused", 0)
    return reader.rest(shape, dtype, order)


def _parse_npy(
    start: bytes, reader: _Reader
) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    file = io.BytesIO(start)
    parsers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, fortran, dtype = parsers[np.lib.format.read_magic(file)](file)
        if min(shape, default=0) < 0:
            raise ValueError(f"negative length in shape {shape}")
    except Exception as error:  # these bytes are in memory: whatever fails is their fault
        raise reader.bad(f"bad NPY header: {error!r}", 6) from error
    return shape, "F" if fortran else "C", dtype


# ---- shared by the readers, and by checkpoint.py ------------------------------------------------


def require_regular(mode: int, path: str) -> None:
    """Raise OSError if `mode`, that of the file at `path`, is not a regular file's."""
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "not a regular file", path)


def open_regular(path: str) -> io.BufferedReader:
    """Open a regular file for reading; anything else raises OSError, and nothing waits."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    flag = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | flag))  # noqa: SIM115
    try:
        require_regular(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def array_bytes(shape: Sequence[int], itemsize: int) -> int:
    """Return the size of an array; ValueError if no array can have this shape."""
    if len(shape) > _MAX_DIMS:
        raise ValueError(f"{len(shape)} dimensions, more than {_MAX_DIMS}")
    # NumPy refuses (0, 2**40, 2**40) too: it multiplies the lengths other than zero.
    if math.prod(length or 1 for length in shape) * itemsize > sys.maxsize:
        raise ValueError(f"shape {tuple(shape)} of {itemsize}-byte items is too large")
    return math.prod(shape) * itemsize


class _Reader:
    """A stream, what its errors call it, and how many bytes it holds (at most, if not `exact`)."""

    def __init__(
        self, stream: io.BufferedIOBase, where: str, held: int, *, exact: bool = True
    ) -> None:
        self.stream, self.where, self.held, self.exact = stream, where, held, exact
        self.offset = 0

    def bad(self, problem: str, offset: int | None = None) -> FormatError:
        """Return the error to raise for a problem, at the current offset by default."""
        offset = self.offset if offset is None else offset
        return FormatError(f"{self.where}: offset {offset}: {problem}")

    def take(self, count: int) -> bytes:
        """Read this many bytes of a header."""
        data = self.stream.read(count)
        if len(data) < count:
            what = "truncated header" if self.offset + len(data) else "empty file"
            raise self.bad(f"{what}: {count} bytes expected, file holds {len(data)}")
        self.offset += count
        return data

    def rest(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"] = "C"
    ) -> NDArray[Any]:
        """Read the rest of the stream, which must be one array and nothing more."""
        try:
            declared = array_bytes(shape, dtype.itemsize)
        except ValueError as error:
            raise self.bad(str(error)) from error
        array: NDArray[Any] = np.ndarray(shape, dtype, self._fill(declared), order=order)
        return array

    def _fill(self, declared: int) -> NDArray[np.uint8]:
        """Read what the header declares: nothing is allocated before the file can hold it."""
        problem = f"header declares {declared} bytes of data, file holds"
        held = self.held - self.offset
        if declared > held or (self.exact and declared < held):
            raise self.bad(f"{problem} {'' if self.exact else 'at most '}{held}")
        data = np.empty(declared, np.uint8)
        filled = 0
        while filled < declared:
            count = self.stream.readinto(data.data[filled : filled + _CHUNK])
            if not count:
                raise self.bad(f"{problem} {filled}")
            filled += count
        if self.stream.read(1):  # one byte and no more: the rest may be a bomb
            raise self.bad(f"{problem} at least {declared + 1}")
        return data


@contextmanager
def _damage(bad: Callable[[str], FormatError]) -> Iterator[None]:
    """Turn what gzip, zipfile and zlib raise on damaged data into FormatError."""
    try:
        yield
    except FormatError:
        raise
    except OSError as error:
        # A bad offset in a ZIP file ends in a seek to nowhere; other OSErrors are the disk's.
        if error.errno != errno.EINVAL and not isinstance(error, gzip.BadGzipFile):
            raise
        raise bad(f"damaged: {error}") from error
    except (
        EOFError,
        OverflowError,
        RuntimeError,
        ValueError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise bad(f"damaged: {error}") from error

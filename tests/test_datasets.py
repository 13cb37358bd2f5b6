"""Faults 51 to 59 of files, and what the data sets promise."""

from __future__ import annotations

import errno
import gzip
import io
import os
import pickle
import struct
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastnn import datasets
from fastnn.datasets import Dataset, digits, generated, mnist, read_idx, read_npz
from fastnn.errors import FormatError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (3, 7, 5), dtype=np.uint8)
FLOATS = RANDOM.standard_normal((4, 3))
IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
UNREADABLE = {
    "missing": FileNotFoundError,
    "directory": IsADirectoryError,
    "fifo": OSError,
    "denied": PermissionError,
}
# The one temporary folder of a test serves all its examples: each writes the whole file anew.
property_test = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# ---- helpers, used by test_checkpoint.py too -----------------------------------------------------


def damaged(good: bytes) -> Iterator[bytes]:
    """Every truncation and every single-bit flip."""
    assert len(good) <= 4096
    for end in range(len(good)):
        yield good[:end]
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        yield bytes(bad)


def check_damage(
    path: Path, read: Callable[[Path], Any], error: type[Exception], same: Callable[[Any], bool]
) -> None:
    """Damage ends in an error of the promised type that names the path, or in the same values."""
    for bad in damaged(path.read_bytes()):
        path.write_bytes(bad)
        try:
            result = read(path)
        except error as problem:
            assert str(path) in str(problem)
        else:
            assert same(result)


def unreadable(kind: str, folder: Path) -> Path:
    path = folder / kind
    if kind == "directory":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "denied":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        path.touch(0)
    return path


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def idx(array: np.ndarray) -> bytes:
    code = IDX_CODES[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def no_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("allocated before the check")

    monkeypatch.setattr(datasets.np, "empty", refuse)


# ---- every reader -------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_idx, read_npz])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_file(read: Callable[[Path], Any], kind: str, tmp_path: Path) -> None:
    path = unreadable(kind, tmp_path)
    with pytest.raises(UNREADABLE[kind], match=str(path)):
        read(path)


@pytest.mark.parametrize("read", [read_idx, read_npz])
@pytest.mark.parametrize("start", [b"", idx(PIXELS)[:4], b"\x1f\x8b\x08\0", b"PK", npy(PIXELS)[:8]])
@property_test
@given(rest=st.binary(max_size=64))
def test_any_bytes(read: Callable[[Path], Any], start: bytes, tmp_path: Path, rest: bytes) -> None:
    path = write(tmp_path / "f", start, rest)
    try:
        read(path)
    except FormatError as error:
        assert f"{path}" in str(error)
        assert "offset" in str(error)


def test_read_error_is_not_a_format_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(datasets._Reader, "take", fail)
    for data, read in [(gzip.compress(idx(PIXELS)), read_idx), (npz(x=PIXELS), read_npz)]:
        with pytest.raises(OSError, match="disk"):
            read(write(tmp_path / "f", data))


# ---- IDX ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@property_test
@given(data=st.data(), kind=st.sampled_from(sorted(IDX_CODES)))
def test_idx_round_trip(
    pack: Callable[[bytes], bytes], tmp_path: Path, data: st.DataObject, kind: str
) -> None:
    array = data.draw(hnp.arrays(kind, hnp.array_shapes(min_dims=1, min_side=0, max_side=5)))
    result = read_idx(write(tmp_path / "f", pack(idx(array))))
    assert identical(result, array)
    assert result.dtype.isnative
    assert result.flags.writeable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "offset 0: empty file: 4 bytes expected, file holds 0"),
        (idx(PIXELS)[:3], "offset 0: truncated header: 4 bytes expected, file holds 3"),
        (idx(PIXELS)[:9], "offset 4: truncated header: 12 bytes expected, file holds 5"),
        (b"\0\1\x08\1\0\0\0\0", "offset 0: not an IDX file"),
        (b"\0\0\x0a\1\0\0\0\0", "offset 0: not an IDX file"),
        (b"\0\0\x08\0", "offset 0: not an IDX file"),
        (idx(PIXELS)[:-2], "offset 16: header declares 105 bytes of data, file holds 103"),
        (b"\0\0\x08\x02" + b"\xff" * 8, "offset 12: shape .* is too large"),
        (b"\0\0\x08\x09" + b"\xff" * 36, "offset 40: shape .* is too large"),
        (b"\0\0\x08\x09" + b"\0" * 4 + b"\xff" * 32, "offset 40: shape .* is too large"),
        (b"\0\0\x08\xff" + b"\0" * 1020, "offset 1024: 255 dimensions, more than 32"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_faults(
    data: bytes, message: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = write(tmp_path / "f", pack(data) if data else data)
    with pytest.raises(FormatError, match=f"{path}: .*({message})"):
        read_idx(path)


def test_idx_trailing_bytes(tmp_path: Path) -> None:
    data = idx(PIXELS) + b"xyz"
    with pytest.raises(FormatError, match="declares 105 bytes of data, file holds 108"):
        read_idx(write(tmp_path / "f", data))
    with pytest.raises(FormatError, match="declares 105 bytes of data, file holds at least 106"):
        read_idx(write(tmp_path / "f", gzip.compress(data)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.usefixtures("no_allocation")
def test_idx_larger_than_the_file_is_not_allocated(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = write(tmp_path / "f", pack(b"\0\0\x0e\2" + struct.pack(">2I", 1 << 16, 1 << 10)))
    with pytest.raises(FormatError, match="declares 536870912 bytes of data, file holds"):
        read_idx(path)


def test_gzip_is_not_unpacked_beyond_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "f", gzip.compress(idx(PIXELS) + bytes(1 << 26)))
    tracemalloc.start()
    with pytest.raises(FormatError, match="at least 106"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 21


def test_gzip_faults(tmp_path: Path) -> None:
    good = gzip.compress(idx(PIXELS))
    for bad in (good[:-9], good[:5], good + b"junk", good[:10] + b"\xff" + good[11:]):
        with pytest.raises(FormatError, match=r"f: offset \d+: "):
            read_idx(write(tmp_path / "f", bad))


def test_damaged_gzip_idx(tmp_path: Path) -> None:
    path = write(tmp_path / "f.gz", gzip.compress(idx(PIXELS)))
    check_damage(path, read_idx, FormatError, partial(identical, PIXELS))


def test_damaged_plain_idx(tmp_path: Path) -> None:
    # The format has no checksum: other pixels are all that can be promised.
    path = write(tmp_path / "f", idx(PIXELS))
    check_damage(path, read_idx, FormatError, lambda array: isinstance(array, np.ndarray))


# ---- NPZ ----------------------------------------------------------------------------------------


@property_test
@given(
    arrays=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_.:/ ]{0,8}", fullmatch=True).filter(lambda s: ".." not in s),
        hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)),
        max_size=3,
    ),
    save=st.sampled_from([np.savez, np.savez_compressed]),
)
def test_npz_round_trip(tmp_path: Path, arrays: dict[str, np.ndarray], save: Any) -> None:
    with open(tmp_path / "f", "wb") as file:
        save(
            file,
            **{name: array[..., ::-1].T if array.ndim else array for name, array in arrays.items()},
        )
    result = read_npz(tmp_path / "f")
    with np.load(tmp_path / "f") as expected:
        assert list(result) == list(expected)
        assert all(identical(result[name], expected[name]) for name in result)
    assert all(array.flags.writeable for array in result.values())


def test_npy(tmp_path: Path) -> None:
    for array in (
        FLOATS,
        FLOATS.T,
        np.float32(2),
        FLOATS.astype(">f4"),
        np.zeros((2, 0)),
        np.ones(2, "i4,f8"),
    ):
        result = read_npz(write(tmp_path / "f.npy", npy(array)))
        assert list(result) == ["arr_0"]
        assert identical(result["arr_0"], np.asarray(array))


def header(text: str, version: int = 1) -> bytes:
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text.encode()


def declaring(shape: str, dtype: str = "<f8") -> bytes:
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "offset 0: neither an NPZ nor an NPY file"),
        (pickle.dumps([1]), "offset 0: .*pickle refused"),
        (npy(FLOATS)[:7], "offset 0: truncated header"),
        (npy(FLOATS)[:60], "offset 10: truncated header"),
        (npy(FLOATS)[:-1], "declares 96 bytes of data, file holds 95"),
        (npy(FLOATS) + b"x", "declares 96 bytes of data, file holds 97"),
        (header("x" * 60_000), "offset 0: no NPY header"),
        (header("x", 2)[:8] + b"\xff" * 4, "offset 0: no NPY header"),
        (header("(" * 9_000), "offset 6: bad NPY header"),
        (header("{'descr': '<f8'}"), "offset 6: bad NPY header"),
        (header("{}", 9), "offset 6: bad NPY header"),
        (declaring("(-1,)"), "offset 6: bad NPY header.*negative"),
        (declaring("(3,)", "<q9"), "offset 6: bad NPY header"),
        (declaring(f"({1 << 62}, 4)"), "is too large"),
        (declaring(f"(0, {1 << 62}, 4)"), "is too large"),
        (declaring("(1,) * 3"), "offset 6: bad NPY header"),
        (declaring("(" + "1, " * 40 + ")"), "40 dimensions"),
        (npy(np.array([{}, None])), "objects.*pickle refused"),
        (npz(x=np.array([{}, None])), r"\[x.npy\]: offset 0: .*objects.*pickle refused"),
        (npz(x=np.zeros(2, [("a", "O"), ("b", "i4")])), "objects.*pickle refused"),
        (zipped(("x.npy", npy(FLOATS)), ("../y.npy", npy(FLOATS))), "'../y.npy': unsafe name"),
        (zipped(("a/../../y.npy", npy(FLOATS))), "unsafe name"),
        (zipped(("/y.npy", npy(FLOATS))), "unsafe name"),
        (zipped(("C:\\y.npy", npy(FLOATS))), "unsafe name"),
        (zipped(("..\\y.npy", npy(FLOATS))), "unsafe name"),
        (zipped(("x.pkl", pickle.dumps(1))), "'x.pkl': not an .npy file"),
        (zipped(("x.npy", npy(FLOATS)), method=zipfile.ZIP_LZMA), "compression method 14"),
        (zipped(("x.npy", npy(FLOATS)[:-8])), "declares 96 bytes of data, file holds 88"),
        (zipped(("x.npy", npy(FLOATS) + b"12")), "declares 96 bytes of data, file holds 98"),
        (zipped(("x.npy", declaring(f"({1 << 28},)"))), "declares 2147483648 bytes of data"),
    ],
)
@pytest.mark.usefixtures("no_allocation")
def test_npz_faults(data: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f", data)
    with pytest.raises(FormatError, match=f"{path}.*{message}"):
        read_npz(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_duplicate_name(tmp_path: Path) -> None:
    path = write(tmp_path / "f", zipped(("x.npy", npy(FLOATS)), ("x.npy", npy(PIXELS))))
    with pytest.raises(FormatError, match=r"'x.npy': this name appears twice"):
        read_npz(path)


def test_npz_checksum(tmp_path: Path) -> None:
    data = zipped(("x.npy", npy(FLOATS)), method=zipfile.ZIP_STORED)
    at = data.index(FLOATS.tobytes())
    path = write(tmp_path / "f", data[:at], b"\xaa", data[at + 1 :])
    with pytest.raises(FormatError, match=r"\[x.npy\]: offset \d+: damaged: Bad CRC"):
        read_npz(path)


def test_npz_encrypted(tmp_path: Path) -> None:
    data = bytearray(npz(x=FLOATS))
    data[data.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(FormatError, match="encrypted"):
        read_npz(write(tmp_path / "f", data))


@pytest.mark.usefixtures("no_allocation")
def test_npz_bombs(tmp_path: Path) -> None:
    bomb = npz(x=np.broadcast_to(np.uint8(0), (1 << 24,)))
    assert len(bomb) < 1 << 15
    with pytest.raises(FormatError, match="more than max_bytes=16777216"):
        read_npz(write(tmp_path / "f", bomb), max_bytes=1 << 24)
    with pytest.raises(FormatError, match="more than max_bytes=100"):
        read_npz(write(tmp_path / "f", npy(FLOATS)), max_bytes=100)
    liar = bytearray(npz(x=FLOATS))
    at = liar.index(b"PK\1\2") + 24
    liar[at : at + 4] = (1 << 31).to_bytes(4, "little")
    with pytest.raises(FormatError, match="declares 2147483648 bytes of data, file holds at most"):
        read_npz(write(tmp_path / "f", liar))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz(save: Callable[..., None], tmp_path: Path) -> None:
    good = {"x": FLOATS, "y": PIXELS}
    save(tmp_path / "f.npz", **good)

    def same(result: dict[str, np.ndarray]) -> bool:
        return result.keys() == good.keys() and all(identical(result[k], good[k]) for k in good)

    check_damage(tmp_path / "f.npz", read_npz, FormatError, same)


# ---- data sets ----------------------------------------------------------------------------------


def check_dataset(data: Dataset, classes: int) -> None:
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == np.uint8
        assert y.dtype == np.int64
        assert y.shape == x.shape[:1]
        assert x.flags.c_contiguous
        assert y.min() >= 0
        assert y.max() < classes
    assert data.x_train.shape[1] == data.x_test.shape[1]


def small_mnist(folder: Path, pack: Callable[[bytes], bytes], suffix: str) -> None:
    folder.mkdir(exist_ok=True)
    for kind, n in (("train", 6), ("t10k", 4)):
        images = np.full((n, 5, 3), n, np.uint8)
        labels = np.arange(n, dtype=np.uint8)
        write(folder / f"{kind}-images-idx3-ubyte{suffix}", pack(idx(images)))
        write(folder / f"{kind}-labels-idx1-ubyte{suffix}", pack(idx(labels)))


def check_small_mnist(data: Dataset) -> None:
    check_dataset(data, 6)
    assert data.x_train.shape == (6, 15)
    assert data.y_test.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("below", ["", "mnist"])
@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_mnist_folder(
    below: str,
    pack: Callable[[bytes], bytes],
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_mnist(tmp_path / below, pack, suffix)
    check_small_mnist(mnist(tmp_path))
    monkeypatch.setenv("FASTNN_DATA", str(tmp_path))
    check_small_mnist(mnist())


def test_mnist_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for unset in (None, ""):
        monkeypatch.delenv("FASTNN_DATA", raising=False)
        if unset is not None:
            monkeypatch.setenv("FASTNN_DATA", unset)
        with pytest.raises(FileNotFoundError, match=r"no data folder.*--data DIR.*FASTNN_DATA"):
            mnist()
    small_mnist(tmp_path, bytes, "")
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"no t10k-images-idx3-ubyte .plain") as caught:
        mnist(tmp_path)
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(5, np.uint8), "5 labels for 6 images"),
        ("train-labels-idx1-ubyte", np.zeros(6, np.float32), "labels must be integers"),
        ("train-labels-idx1-ubyte", np.zeros((6, 1), np.uint8), "labels must be integers"),
        ("train-images-idx3-ubyte", np.zeros((6, 15), np.uint8), r"must be uint8 \(n, h, w\)"),
        ("train-images-idx3-ubyte", np.zeros((6, 5, 3), np.int16), "must be uint8"),
        ("t10k-images-idx3-ubyte", np.zeros((4, 5, 4), np.uint8), "have 20 pixels, .* 15"),
    ],
)
def test_mnist_files_that_do_not_fit(
    name: str, array: np.ndarray, message: str, tmp_path: Path
) -> None:
    small_mnist(tmp_path, bytes, "")
    path = write(tmp_path / name, idx(array))
    with pytest.raises(FormatError, match=f"{path}: offset .*{message}"):
        mnist(tmp_path)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serve a small MNIST from this machine, in place of the public mirror."""
    pooch = pytest.importorskip("pooch")
    served = tmp_path / "served"
    small_mnist(served, partial(gzip.compress, mtime=0), ".gz")
    digests = {path.name[:-3]: pooch.file_hash(str(path)) for path in served.iterdir()}
    for name in ("FASTNN_DATA", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        datasets, "MNIST_SHA256", {name: digests[name] for name in datasets.MNIST_SHA256}
    )
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets, "MNIST_URL", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.shutdown()


def test_mnist_download(
    mirror: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_small_mnist(mnist(download=True))
    monkeypatch.setattr(datasets, "MNIST_URL", "http://127.0.0.1:1/")
    check_small_mnist(mnist(tmp_path / "nothing", download=True))  # now from the cache


def test_mnist_download_without_network(
    mirror: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "MNIST_URL", "http://127.0.0.1:1/")
    with pytest.raises(OSError, match=r"could not fetch http://127.0.0.1:1/ .*--data DIR"):
        mnist(download=True)


def test_mnist_download_of_other_bytes(mirror: ThreadingHTTPServer, tmp_path: Path) -> None:
    write(tmp_path / "served" / "t10k-labels-idx1-ubyte.gz", b"other")
    with pytest.raises(FormatError, match="t10k-labels"):
        mnist(download=True)


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("pooch", partial(mnist, download=True), "fastnn[bench]"),
        ("sklearn.datasets", digits, "fastnn[sklearn]"),
    ],
)
def test_missing_optional_package(
    module: str, call: Callable[[], Dataset], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        call()
    assert f"pip install '{extra}'" in str(caught.value)


def test_real_mnist() -> None:
    if not os.environ.get("FASTNN_DATA"):
        pytest.skip("FASTNN_DATA is not set")
    data = mnist()
    check_dataset(data, 10)
    assert data.x_train.shape == (60_000, 784)
    assert data.x_train.max() == 255
    assert np.bincount(data.y_train).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert data.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_digits() -> None:
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    data = digits()
    check_dataset(data, 10)
    assert data.x_train.shape == (1437, 64)
    assert data.x_test.shape == (360, 64)
    assert data.x_train.max() == 16
    rows = np.column_stack([np.vstack(data[:3:2]), np.hstack(data[1:4:2])])
    expected = np.column_stack([bundled.data, bundled.target])
    assert sorted(rows.tolist()) == sorted(expected.tolist())
    assert data.y_test[:8].tolist() == [6, 2, 4, 2, 4, 1, 9, 3]
    assert not np.array_equal(digits(1).y_test, data.y_test)


def test_generated() -> None:
    data = generated(600, 30, 7, seed=3)
    check_dataset(data, 7)
    assert data.x_train.shape == (600, 30)
    assert data.x_test.shape == (100, 30)
    assert data.x_train[0, :8].tolist() == [214, 91, 131, 128, 159, 195, 54, 98]
    assert not np.array_equal(generated(600, 30, 7, seed=4).x_train, data.x_train)
    centres = np.stack([data.x_train[data.y_train == c].mean(axis=0) for c in range(7)])
    distances = np.square(data.x_test[:, None] - centres).sum(axis=2)
    assert np.mean(distances.argmin(axis=1) == data.y_test) > 0.9
    check_dataset(generated(1, 1, 1), 1)


@pytest.mark.parametrize("name", ["n", "features", "classes"])
def test_generated_sizes(name: str) -> None:
    with pytest.raises(ValueError, match=f"generated: {name} must be at least 1, got 0"):
        generated(**{name: 0})
    with pytest.raises(TypeError):
        generated(**{name: 1.5})

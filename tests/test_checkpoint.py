"""Faults 51 and 56 and 60 to 66 of checkpoints: reading damaged ones, and saving under fire."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_datasets import UNREADABLE, check_damage, identical, property_test, unreadable, write

from fastnn import checkpoint
from fastnn.checkpoint import load, save
from fastnn.errors import CheckpointError, DTypeError

ARRAYS = {
    "layers.0.weight": np.random.default_rng(0).standard_normal((7, 5), np.float32),
    "layers.0.bias": np.arange(5.0),
    "step": np.array(41),
    "mask": np.array([True, False, True]),
    "none": np.zeros((0, 3), np.int16),
}
METADATA = {"lr": 1e-3, "loss": float("inf"), "layers": [{"kind": "Linear", "out": 5}], "é": None}
OTHER = {"other": np.zeros(9)}


def same(result: tuple[dict[str, np.ndarray], dict[str, Any]]) -> bool:
    arrays, metadata = result
    return (
        arrays.keys() == ARRAYS.keys()
        and all(identical(arrays[name], ARRAYS[name]) for name in ARRAYS)
        and metadata == METADATA
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(tmp_path / "m.safetensors", ARRAYS, METADATA)
    return tmp_path / "m.safetensors"


# ---- what is promised of good files -------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DTYPES = st.sampled_from([*checkpoint._DTYPES.values(), np.dtype(">f4"), np.dtype(">i8")])


@property_test
@given(
    arrays=st.dictionaries(
        st.text(st.characters(codec="utf-8")).filter(lambda name: name != "__metadata__"),
        hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)),
        max_size=4,
    ),
    metadata=st.dictionaries(st.text(), JSON, max_size=4),
)
def test_round_trip(
    tmp_path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    # Strided and transposed views: safetensors alone would store their memory, not their values.
    arrays = {name: array[..., ::-1].T if array.ndim else array for name, array in arrays.items()}
    save(tmp_path / "f", arrays, metadata)
    loaded, note = load(tmp_path / "f")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert identical(loaded[name], array.astype(array.dtype.newbyteorder("=")))
        assert loaded[name].flags.writeable
    assert note == metadata
    first = (tmp_path / "f").read_bytes()
    save(tmp_path / "f", loaded, note)  # onto the file just loaded: the same bytes
    assert (tmp_path / "f").read_bytes() == first


def test_metadata_comes_back_as_json(path: Path) -> None:
    save(path, {}, {"shape": (1, 2), 3: float("nan")})
    metadata = load(path)[1]
    assert metadata["shape"] == [1, 2]
    assert np.isnan(metadata["3"])


def test_other_programs_can_read_it(path: Path) -> None:
    arrays = safetensors.numpy.load_file(path)
    assert all(identical(arrays[name], ARRAYS[name]) for name in ARRAYS)


def test_save_onto_loaded_file_changes_no_loaded_array(path: Path) -> None:
    arrays, metadata = load(path)
    save(path, {"bias": arrays["layers.0.bias"][::-1]}, {})
    assert same((arrays, metadata))
    assert load(path)[0]["bias"].tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "message"),
    [
        ({"x": [1.0]}, {}, DTypeError, "x must be a plain NumPy array, got list"),
        ({"x": np.float32(1)}, {}, DTypeError, "got float32"),
        ({"x": np.ma.array([1.0])}, {}, DTypeError, "got MaskedArray"),
        ({"x": np.array([None])}, {}, DTypeError, "x is object; a checkpoint takes BOOL, F16"),
        ({"x": np.zeros(1, complex)}, {}, DTypeError, "x is complex128"),
        ({"x": np.array(["a"])}, {}, DTypeError, "x is <U1"),
        ({1: np.zeros(1)}, {}, ValueError, "1 cannot be the name"),
        ({"__metadata__": np.zeros(1)}, {}, ValueError, "cannot be the name"),
        ({"\ud800": np.zeros(1)}, {}, ValueError, "surrogates"),
        ({}, {"x": object()}, TypeError, "JSON serializable"),
        ({}, {"1": 0, 1: 0}, ValueError, "duplicate key '1'"),
        ({}, [1], TypeError, "cannot convert dictionary"),
    ],
)
def test_what_cannot_be_stored(
    path: Path, arrays: Any, metadata: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        save(path, arrays, metadata)
    assert same(load(path))


def test_header_too_large_to_read_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_HEADER_BYTES", 500)
    with pytest.raises(ValueError, match="more than 500"):
        save(path, {}, {"x": "y" * 500})


# ---- damaged files ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_file(kind: str, tmp_path: Path) -> None:
    path = unreadable(kind, tmp_path)
    with pytest.raises(UNREADABLE[kind], match=str(path)):
        load(path)


def test_damaged_checkpoint(path: Path) -> None:
    check_damage(path, load, CheckpointError, same)


def note(**changes: Any) -> str:
    fields = {"version": 1, "sha256": "0", "metadata": {}} | changes
    return json.dumps(fields)


def entry(
    begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None
) -> dict[str, Any]:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def container(
    entries: dict[str, Any] | str, data: bytes = bytes(8), fastnn: str | None = None
) -> bytes:
    """A safetensors file by hand, whatever it says."""
    text = entries
    if not isinstance(text, str):
        fields = {"fastnn": note() if fastnn is None else fastnn}
        text = json.dumps({"__metadata__": fields} | entries)
    return len(text).to_bytes(8, "little") + text.encode() + data


def torch_archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, x=np.zeros(1))  # as .pt files: a ZIP archive
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header of 0 bytes, file of 0"),
        (b"1234567", "header of 0 bytes, file of 7"),
        (bytes(100), "header of 0 bytes, file of 100"),
        (container({})[:40], r"header of \d+ bytes, file of 40"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "header of 4611686018427387904 bytes, more"),
        (container("[]"), "expected a JSON object, got list"),
        (container("{"), "Expecting property name"),
        (b"\x09" + bytes(7) + b'{"a\xff": 1}', "invalid start byte"),
        (container('{"a":' * 100_000), "recursion|Expecting"),
        (container('{"a": 1, "a": 2}'), "duplicate key 'a'"),
        (container('{"a": {"dtype": "U8", "dtype": "U8"}}'), "duplicate key 'dtype'"),
        (container("{}"), "not a fastnn checkpoint"),
        (container('{"__metadata__": {"format": "pt"}}'), "not a fastnn checkpoint"),
        (container('{"__metadata__": {"fastnn": 1}}'), "not a fastnn checkpoint"),
        (container({}, fastnn=note(version=2)), "version 2; this fastnn reads 1"),
        (container({}, fastnn="{}"), "version None; this fastnn reads 1"),
        (container({}, fastnn=note(extra=1)), "bad 'fastnn' metadata"),
        (container({}, fastnn=note(metadata=[])), "bad 'fastnn' metadata"),
        (container({}, fastnn='{"version": 1, "version": 1}'), "duplicate key 'version'"),
        (container({"a": entry(0, 8)}), "contents do not match their checksum"),
        (container({"a": entry(0, 5), "b": entry(4, 8)}), "'b' at data offset 4 overlaps .* 5"),
        (container({"a": entry(0, 8), "b": entry(0, 8)}), "'b' at data offset 0 overlaps"),
        (container({"a": entry(0, 3), "b": entry(4, 8)}), "'b' at data offset 4 follows a hole"),
        (container({"a": entry(1, 8)}), "'a' at data offset 1 follows a hole"),
        (container({"a": entry(0, 7)}), "declares 7 bytes of data, file holds 8"),
        (container({"a": entry(0, 9)}), "declares 9 bytes of data, file holds 8"),
        (container({"a": entry(-4, 4)}), "negative"),
        (container({"a": entry(0, 8, shape=[-8])}), "negative"),
        (container({"a": entry(8, 0, shape=[])}), "'a' of 1 bytes has offsets"),
        (container({"a": entry(0, 8, shape=[9])}), "'a' of 9 bytes has offsets"),
        (container({"a": entry(0, 8, "F64", [True])}), "bad or negative shape"),
        (container({"a": entry(0, 8, "F64", [1.0])}), "bad or negative shape"),
        (container({"a": entry(0, 8, "BF16", [4])}), "unknown dtype 'BF16'"),
        (container({"a": entry(0, 8, [], [4])}), "unknown dtype"),
        (container({"a": entry(0, 0, shape=[0, 1 << 62, 4])}, b""), "is too large"),
        (container({"a": entry(0, 1, shape=[1] * 99)}, b"1"), "99 dimensions"),
        (container({"a": 1}), "must have dtype"),
        (container({"a": entry(0, 8) | {"extra": 1}}), "must have dtype"),
        (pickle.dumps({"x": 1}), "pickle refused"),
        (pickle.dumps({"x": 1}, 2), "pickle refused"),
        (torch_archive(), "pickle refused"),
    ],
)
def test_faults(data: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f", data)
    with pytest.raises(CheckpointError, match=f"{path}: .*{message}"):
        load(path)


def test_header_length_like_a_pickle(tmp_path: Path) -> None:
    # 0x280 is 80 02 in the file, the start of a pickle.
    path = tmp_path / "f"
    for length in range(1000):
        save(path, {}, {"x": "y" * length})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert load(path)[1] == {"x": "y" * length}


@property_test
@given(data=st.binary(max_size=64) | st.text(max_size=64).map(container))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError):
        load(write(tmp_path / "f", data))


# ---- saving under fire --------------------------------------------------------------------------


def test_new_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(tmp_path / "f", {}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o444])
def test_old_mode_is_kept(path: Path, mode: int) -> None:
    path.chmod(mode)
    save(path, OTHER, {})
    assert path.stat().st_mode & 0o777 == mode


def test_link_is_followed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(path.name)
    save(link, OTHER, {})
    assert link.is_symlink()
    assert load(path)[0].keys() == OTHER.keys()


def test_longest_name(tmp_path: Path) -> None:
    save(tmp_path / ("m" * 255), ARRAYS, METADATA)
    assert same(load(tmp_path / ("m" * 255)))


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_only_a_regular_file_is_replaced(kind: str, tmp_path: Path) -> None:
    path = unreadable(kind, tmp_path)
    with pytest.raises(UNREADABLE[kind], match=str(path)):
        save(path, ARRAYS, METADATA)
    assert os.listdir(tmp_path) == [kind]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save(tmp_path / "nowhere" / "f", ARRAYS, METADATA)


class Failing:
    """A system call that fails at its n-th use; os.write takes few bytes at a time before."""

    def __init__(self, call: Callable[..., Any], n: int, error: int) -> None:
        self.call, self.left, self.error = call, n, error

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise OSError(self.error, os.strerror(self.error))
        if self.call is os_write:
            return self.call(args[0], args[1][:30])
        return self.call(*args, **options)


os_write = os.write


@pytest.mark.parametrize(
    ("call", "calls"),
    [("write", 10), ("fsync", 2), ("replace", 1), ("open", 2), ("fchmod", 1), ("stat", 1)],
)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.ENOSYS])
def test_failing_call(
    call: str, calls: int, error: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.listdir(path.parent)
    failures = 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, call, Failing(getattr(os, call), failures + 1, error))
            try:
                save(path, OTHER, {})
                break
            except OSError as problem:
                assert problem.errno == error
                assert str(path) in str(problem)
        failures += 1
        assert os.listdir(path.parent) == folder
        # The second fsync is the folder's, after the rename: the new file is in place by then.
        if (call, failures) != ("fsync", 2):
            assert same(load(path))
    assert failures >= calls
    assert load(path)[0].keys() == OTHER.keys()


def test_failing_close_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close

    def fail(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "late write error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "close", fail)
        with pytest.raises(OSError, match="late write error"):
            save(path, OTHER, {})
    assert same(load(path))
    assert os.listdir(path.parent) == [path.name]


def test_interrupt_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(path, OTHER, {})
    assert same(load(path))
    assert os.listdir(path.parent) == [path.name]


def test_file_system_that_cannot_sync_folders(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", Failing(os.fsync, 2, errno.EINVAL))
    save(path, OTHER, {})
    assert load(path)[0].keys() == OTHER.keys()


def test_order_of_calls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a power cut: the bytes are on the disk before the name points to them."""
    calls = []

    def record(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def wrapper(*args: Any) -> Any:
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
            calls.append("fsync folder" if is_folder else name)
            return call(*args)

        return wrapper

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(checkpoint.os, name, record(name))
    save(path, ARRAYS, METADATA)
    assert calls == ["write", "fsync", "replace", "fsync folder"]


def test_many_writers_and_a_reader(path: Path) -> None:
    """Whoever comes last, the file is one writer's, whole, at every moment."""
    done = threading.Event()
    errors = []

    def writer(k: int) -> None:
        try:
            for _ in range(50):
                save(path, {"x": np.full(5000, k), "y": np.full(3, k)}, {"k": k})
        except Exception as error:
            errors.append(error)

    save(path, {"x": np.zeros(1), "y": np.zeros(1)}, {"k": 0})
    writers = [threading.Thread(target=writer, args=(k,)) for k in range(4)]
    for thread in writers:
        thread.start()
    threading.Thread(target=lambda: ([t.join() for t in writers], done.set())).start()
    while not done.is_set():
        arrays, metadata = load(path)
        assert {*arrays["x"].tolist(), *arrays["y"].tolist()} == {metadata["k"]}
    assert not errors
    assert os.listdir(path.parent) == [path.name]


# A process of its own, with nothing but NumPy loaded, forks the savers: starting Python for each
# would take minutes.
KILLER = """
import os, random, signal, sys, time
import numpy as np
from fastnn.checkpoint import load, save

folder, kills = sys.argv[1], int(sys.argv[2])
path = os.path.join(folder, "m.safetensors")
random.seed(0)

def store(k):
    save(path, {"w": np.full(50_000, k), "b": np.full(10, k)}, {"k": k})

store(0)
torn = 0
for kill in range(kills):
    started, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(start, b"!")
        while True:
            k = random.randrange(1000)
            store(k)
    os.read(started, 1)
    os.close(started), os.close(start)
    time.sleep(random.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    arrays, metadata = load(path)
    assert {*arrays["w"].tolist(), *arrays["b"].tolist()} == {metadata["k"]}
    for name in os.listdir(folder):
        if name.endswith(".tmp"):
            torn += 1
            os.unlink(os.path.join(folder, name))
print(torn)
"""


def test_kill_while_saving(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLER, str(tmp_path), "200"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20  # kills that came in the middle of a save, or nothing is shown

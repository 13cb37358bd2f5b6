"""What several test files share: forcing an ISA level or a number of threads, comparing bits."""

import contextlib
import hashlib

import numpy as np
import pytest
from cases import execute

import fastnn

ISAS = ("scalar", "avx2", "avx512")


def available_isas():
    return list(fastnn.show_config("dicts")["cpu"]["isa_available"])


@contextlib.contextmanager
def forced_isa(name):
    before = fastnn.show_config("dicts")["cpu"]["isa"]
    fastnn._core.use_isa(name)
    try:
        assert fastnn.show_config("dicts")["cpu"]["isa"] == name
        yield
    finally:
        fastnn._core.use_isa(before)


@contextlib.contextmanager
def threads(n):
    before = fastnn.get_num_threads()
    fastnn.set_num_threads(n)
    try:
        assert fastnn.get_num_threads() == n
        yield
    finally:
        fastnn.set_num_threads(before)


def require_isa(name):
    if name not in available_isas():
        pytest.skip(f"this CPU has no {name}")


def run(op, arguments):
    """All that fastnn.ops.<op> wrote, by name."""
    return execute(getattr(fastnn.ops, op), op, arguments)


def digest(results):
    """Dtypes, shapes and bits of arrays by name. All NaN are one: payloads are not promised."""
    hashed = hashlib.sha256()
    for name, value in results.items():
        value = np.asarray(value)
        hashed.update(f"{name} {value.dtype} {value.shape}".encode())
        if value.dtype.kind == "f":
            value = np.where(np.isnan(value), value.dtype.type(np.nan), value)
        hashed.update(value.tobytes())
    return hashed.hexdigest()


def unset_like(value):
    """An array of that type and shape; a float in it is NaN, an integer -1 or 255."""
    out = np.empty(np.shape(value), np.asarray(value).dtype)
    out.reshape(-1).view(np.uint8)[...] = 255
    return out


def one_or_tuple(out):
    """As an op's out= takes its results."""
    return tuple(out) if len(out) != 1 else out[0]


def copies(arguments):
    """The arguments with arrays of their own."""
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}

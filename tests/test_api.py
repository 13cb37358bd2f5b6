"""The functions that native adapters call, by way of ctypes."""

import ctypes
import re
from ctypes import POINTER, byref, c_bool, c_char_p, c_double, c_int, c_int64, c_void_p

import numpy as np

from fastnn import _core, ops


class Integers(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("n", c_int64),
        ("stride", c_int64),
        ("size", c_int),
        ("is_signed", c_bool),
    ]


class Api(ctypes.Structure):
    _fields_ = [
        ("contract", c_char_p),
        ("run", ctypes.CFUNCTYPE(c_char_p, c_int, c_bool, c_void_p, c_int64)),
        (
            "copy_labels",
            ctypes.CFUNCTYPE(
                c_char_p, c_int, POINTER(Integers), c_int64, c_int64, POINTER(c_int64)
            ),
        ),
    ]


def load():
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = c_void_p, [ctypes.py_object, c_char_p]
    return Api.from_address(pointer(_core._api, b"fastnn._core._api"))


API = load()


def run(op, f64, args, count=1):
    return API.run(_core.op_names.index(op), f64, ctypes.addressof(args), count)


class Softplus(ctypes.Structure):
    _fields_ = [
        ("n", c_int64),
        ("x", c_void_p),
        ("beta", c_double),
        ("threshold", c_double),
        ("y", c_void_p),
    ]


def test_the_contract_lists_every_op_with_its_fields():
    contract = API.contract.decode()
    assert re.findall(r"^\w+", contract, re.M) == _core.op_names
    assert "\nrelu n:n T*:x T=:y\n" in contract


def test_a_call_gives_what_the_op_gives():
    x = np.linspace(-3, 3, 1001)
    y = np.empty_like(x)
    assert run("softplus", True, Softplus(x.size, x.ctypes.data, 2, 20, y.ctypes.data)) is None
    np.testing.assert_array_equal(y, ops.softplus(x, 2))


def test_several_calls_at_once():
    x = np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7)
    y = np.empty_like(x)
    calls = (Softplus * 5)(
        *(Softplus(7, x[i].ctypes.data, i + 1, 20, y[i].ctypes.data) for i in range(5))
    )
    assert run("softplus", False, calls, 5) is None
    for i in range(5):
        np.testing.assert_array_equal(y[i], ops.softplus(x[i], i + 1))
    assert run("softplus", False, calls, 0) is None


def test_a_violated_requirement_is_told_before_anything_is_written():
    x = np.ones(3)
    y = np.zeros_like(x)
    calls = (Softplus * 2)(
        Softplus(3, x.ctypes.data, 1, 20, y.ctypes.data),
        Softplus(3, x.ctypes.data, -1, 20, y.ctypes.data),
    )
    assert run("softplus", True, calls, 2) == b"softplus: beta must be > 0, got -1"
    np.testing.assert_array_equal(y, np.zeros(3))


def copy_labels(labels, classes, ignored):
    copied = np.empty(labels.size, np.int64)
    integers = Integers(
        labels.ctypes.data,
        labels.size,
        labels.strides[0],
        labels.itemsize,
        labels.dtype.kind == "i",
    )
    op = _core.op_names.index("softmax_cross_entropy")
    to = copied.ctypes.data_as(POINTER(c_int64))
    return API.copy_labels(op, byref(integers), classes, ignored, to), copied


def test_labels_of_every_integer_type_and_layout():
    for dtype in np.typecodes["AllInteger"]:
        labels = np.arange(10).astype(dtype)[::-3]
        wrong, copied = copy_labels(labels, 10, -100)
        assert wrong is None
        np.testing.assert_array_equal(copied, [9, 6, 3, 0])
    wrong, copied = copy_labels(np.array([1, -100], np.int8), 2, -100)
    assert wrong is None
    np.testing.assert_array_equal(copied, [1, -100])


def test_a_label_out_of_range_is_told():
    text = b"softmax_cross_entropy: label 4 at row 1; valid 0..3"
    assert copy_labels(np.array([3, 4], np.uint16), 4, -100)[0] == text

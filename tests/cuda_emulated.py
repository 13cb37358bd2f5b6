"""fastnn.ops on arrays of CUDA devices, from Python to the kernels and back, in the emulator.

test_cuda.py runs this file in a process of its own, which the emulator ends when a kernel errs:
    FASTNN_SIMT_BUILD_DIR=build/simt pytest -s tests/cuda_emulated.py
"""

import contextlib
import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from cases import CASES, DTYPES, WIDE, execute, full
from contract import OPS, RESULTS
from device_array import (
    DeviceArray,
    InterfaceArray,
    empty,
    emulator,
    exported,
    from_interface,
    to_device,
    to_host,
)
from support import copies, digest, one_or_tuple, unset_like
from test_arrays import LAYOUTS, laid_out
from test_ops import exact_results
from tolerances import assert_close, bounds

import fastnn as fnn
from fastnn import _core, ops

_core.use_cuda(emulator.capsule)
GIB = 1 << 30
ELEMENTS = 6000  # in the largest array of a case that is run


def has_kernel(op):
    """Whether there is a CUDA kernel yet."""
    try:
        on_device(op, full(op, 4, 3).arguments(np.float32))
    except fnn.DeviceError as error:
        assert str(error) == f"{op}: there is no CUDA kernel for it yet"
        return False
    return True


def on_device(op, arguments):
    """All that the op wrote, as NumPy arrays by name."""
    moved = {
        name: to_device(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    results = execute(getattr(ops, op), op, moved)
    assert all(isinstance(value, DeviceArray) for value in results.values())
    return {name: to_host(value) for name, value in results.items()}


KERNELS = [op for op in OPS if has_kernel(op)]
SMALL = [
    (op, chosen, dtype)
    for op in KERNELS
    for chosen in CASES[op]
    for dtype in chosen.dtypes
    if all(np.size(value) <= ELEMENTS for value in chosen.arguments(np.float32).values())
]


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """Every block of device memory is given back."""
    before = emulator.used()
    yield
    if emulator.used() != before or exported:
        gc.collect()
    assert emulator.used() == before
    assert not exported
    assert emulator.current_device() == 0


def test_there_are_kernels():
    assert "relu" in KERNELS
    print(f"\nno CUDA kernel yet: {', '.join(sorted(set(OPS) - set(KERNELS))) or 'none'}")


@pytest.mark.parametrize(
    ("op", "chosen", "dtype"),
    [pytest.param(*each, id="-".join(map(str, (each[0], each[2], each[1])))) for each in SMALL],
)
def test_matches_reference(op, chosen, dtype):
    try:
        results = on_device(op, chosen.arguments(DTYPES[dtype]))
    except fnn.DeviceError as error:
        if "there is no CUDA kernel for these arguments" in str(error):
            pytest.skip(str(error))
        raise
    assert_exact(chosen, dtype, results)


def assert_exact(chosen, dtype, results):
    """All results are within their bounds of the reference's."""
    exact, allowed = exact_results(chosen, dtype)
    assert set(results) == set(exact)
    for name, value in results.items():
        types = {"f": DTYPES[dtype], "b": bool, "i": np.int64, "u": np.uint8}
        assert value.dtype == types[np.asarray(exact[name]).dtype.kind]
        assert_close(value, exact[name], allowed[name], value.dtype)


# ---- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("op", KERNELS)
def test_layout_of_arguments_makes_no_difference(op, layout):
    """To the bit, but for matmul, which has kernels of their own for some layouts."""
    arguments = full(op, 5, 7).arguments(np.float32)
    usual = digest(on_device(op, copies(arguments)))
    results = on_device(op, laid_out(arguments, layout))
    assert_exact(full(op, 5, 7), "f32", results)
    assert digest(results) == usual or op == "matmul"


@pytest.mark.parametrize("op", [op for op in KERNELS if OPS[op].of(RESULTS)])
def test_out_is_filled_whatever_its_layout(op):
    arguments = full(op, 5, 7).arguments(np.float32)
    usual = on_device(op, copies(arguments))
    names = OPS[op].results(arguments)
    for layout in LAYOUTS.values():
        out = [to_device(layout(unset_like(usual[name]))) for name in names]
        moved = {
            name: to_device(value) if isinstance(value, np.ndarray) else value
            for name, value in copies(arguments).items()
        }
        returned = execute(getattr(ops, op), op, moved | {"out": one_or_tuple(out)})
        for name, array in zip(names, out, strict=True):
            assert returned[name] is array
            np.testing.assert_array_equal(to_host(array), usual[name])


def test_producers_are_told_the_stream():
    x = to_device(np.ones(3, np.float32))
    ops.relu(x)
    assert x.streams == [1]


# ---- libraries with streams and allocators of their own ------------------------------------------


class TorchArray(DeviceArray):
    """Has what is used of a torch.Tensor."""

    __module__ = "torch"
    requires_grad = False

    def __dlpack__(self, **_):
        raise AssertionError("it would insist on the current device")

    def new_empty(self, shape, dtype):
        return empty(shape, dtype, TorchArray)

    def data_ptr(self):
        return self.address


class CupyArray(DeviceArray):
    """Has what is used of a cupy.ndarray."""

    __module__ = "cupy"

    @property
    def data(self):
        return SimpleNamespace(ptr=self.address)

    @property
    def device(self):
        return contextlib.nullcontext()

    def __dlpack__(self, *, stream):
        assert stream == -1  # it is in order
        return super().__dlpack__(stream=stream)


@pytest.fixture
def _libraries(monkeypatch):
    """PyTorch and CuPy as far as they are used, whose current streams are 0x1000 and 0x2000."""
    modules = {
        "torch": {"float32": "f4", "float64": "f8", "int64": "i8", "uint8": "u1", "bool": "?"},
        "torch.cuda": {"current_stream": lambda device: SimpleNamespace(cuda_stream=0x1000)},
        "torch.utils": {},
        "torch.utils.dlpack": {"to_dlpack": DeviceArray.__dlpack__},
        "cupy": {"empty": lambda shape, dtype: empty(shape, dtype, CupyArray)},
        "cupy.cuda": {"get_current_stream": lambda: SimpleNamespace(ptr=0x2000)},
    }
    for name, contents in modules.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**contents))


@pytest.mark.usefixtures("_libraries")
@pytest.mark.parametrize(("kind", "stream"), [(TorchArray, 0x1000), (CupyArray, 0x2000)])
@pytest.mark.parametrize("op", KERNELS)
def test_libraries_give_their_streams_and_memory(kind, stream, op):
    arguments = full(op, 5, 7).arguments(np.float32)
    usual = digest(on_device(op, copies(arguments)))
    moved = {
        name: to_device(value, like=kind) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    results = execute(getattr(ops, op), op, moved)
    assert emulator.last_stream() == stream
    assert all(type(value) is kind for value in results.values())
    assert digest({name: to_host(value) for name, value in results.items()}) == usual


@pytest.mark.usefixtures("_libraries")
@pytest.mark.parametrize("kind", [TorchArray, CupyArray])
def test_their_lack_of_memory_is_told_as_ours(kind):
    x = to_device(np.ones(6000, np.float32), like=kind)
    emulator.set_limit(emulator.used())
    try:
        message = r"^relu: not enough memory on cuda:0: 24000 bytes wanted, 0 free$"
        with pytest.raises(fnn.OutOfMemoryError, match=message):
            ops.relu(x)
    finally:
        emulator.set_limit(GIB)


# ---- libraries that know the CUDA array interface alone ------------------------------------------


@pytest.mark.parametrize("op", KERNELS)
def test_arrays_by_the_interface(op):
    arguments = full(op, 5, 7).arguments(np.float32)
    usual = digest(on_device(op, copies(arguments)))
    moved = interface_arrays(laid_out(arguments, LAYOUTS["reversed_axes"]))
    for value in moved.values():
        if isinstance(value, InterfaceArray):
            value.more = {"stream": 0x3000}
    results = execute(getattr(ops, op), op, moved)
    assert emulator.last_stream() == 1
    assert emulator.awaited_stream() == 0x3000
    found = {name: to_host(value) for name, value in map(own_interface, results.items())}
    if op == "matmul":
        assert_exact(full(op, 5, 7), "f32", found)
    else:
        assert digest(found) == usual


def interface_arrays(arguments):
    return {
        name: to_device(value, like=InterfaceArray) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }


def own_interface(item):
    name, value = item
    return name, value if isinstance(value, InterfaceArray) else from_interface(value)


def test_results_go_into_other_calls():
    x = to_device(np.float32([[-1, 2], [3, -4]]), like=InterfaceArray)
    y = ops.relu(x)
    assert (y.shape, y.dtype) == ((2, 2), np.float32)
    np.testing.assert_array_equal(
        to_host(from_interface(ops.relu_backward(y, x))), [[0, 2], [3, 0]]
    )


def test_what_the_interface_may_say():
    x = to_device(np.float32([1, 2]), like=InterfaceArray)
    for more, error, message in (
        ({"mask": x}, TypeError, "can't be read through __cuda_array_interface__: it has a mask"),
        ({"typestr": ">f4"}, fnn.DTypeError, "must be float32 or float64"),
        ({"typestr": "<c8"}, fnn.DTypeError, "must be float32 or float64"),
        ({"data": (0x1000, False)}, ValueError, "is not in the memory of a GPU"),
        ({"data": None}, TypeError, "can't be read through __cuda_array_interface__"),
        ({"shape": (1,) * 33, "strides": None}, fnn.ShapeError, "more than 32 dimensions"),
    ):
        x.more = more
        with pytest.raises(error, match=f"^relu: x .*{message}"):
            ops.relu(x)
    x.more = {"data": (x.address, True), "strides": None}
    np.testing.assert_array_equal(to_host(from_interface(ops.relu(x))), [1, 2])
    with pytest.raises(ValueError, match="param is read-only"):
        ops.sgd_step(x, x, lr=0.1)
    x.more = {"shape": (0,), "data": (0, False)}
    assert ops.relu(x).shape == (0,)


def test_results_for_numba_are_its_arrays(monkeypatch):
    class NumbaArray(InterfaceArray):
        __module__ = "numba.cuda.cudadrv.devicearray"

    cuda = SimpleNamespace(as_cuda_array=lambda made: ("numba's", made))
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "numba.cuda", cuda)
    kind, made = ops.relu(to_device(np.float32([-1, 1]), like=NumbaArray))
    assert kind == "numba's"
    np.testing.assert_array_equal(to_host(from_interface(made)), [0, 1])


# ---- 16 bits -----------------------------------------------------------------------------------

PRODUCTS = [
    chosen
    for op, chosen, dtype in SMALL
    if op == "matmul" and dtype == "f32" and "precision" not in dict(chosen.options)
]


def sixteen_bits(name):
    return np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("chosen", PRODUCTS, ids=str)
def test_products_of_16_bits_are_summed_in_float32(chosen, name):
    half = sixteen_bits(name)
    arguments = {
        key: value.astype(half) if isinstance(value, np.ndarray) else value
        for key, value in chosen.arguments(np.float32).items()
    }
    results = on_device("matmul", arguments)
    precise = {
        key: value.astype(WIDE) if isinstance(value, np.ndarray) else value
        for key, value in arguments.items()
    }
    exact = execute(reference.matmul, "matmul", precise)
    allowed = bounds("matmul", np.float32, precise, exact)
    unit = 2.0**-11 if half is np.float16 else 2.0**-8  # of one rounding
    for key, value in results.items():
        assert value.dtype == half
        rounding = unit * np.abs(exact[key]) + 2.0**-25
        assert_close(value.astype(np.float32), exact[key], allowed[key] + rounding, np.float32)


def test_16_bits_elsewhere_are_refused():
    half, other = sixteen_bits("bfloat16"), np.float16
    x = np.ones((3, 3))
    for types, message in (
        ((half, np.float32), r"b must be bfloat16 .*, got float32 \(3, 3\) \(a is bfloat16\)"),
        ((np.float32, half), r"b must be float32 .*, got bfloat16"),
        ((half, other), r"b must be bfloat16 .*, got float16"),
        ((np.int16, other), "a must be float32, float64, bfloat16 or float16 of shape"),
    ):
        with pytest.raises(fnn.DTypeError, match=f"^matmul: {message}"):
            ops.matmul(*(to_device(x.astype(dtype)) for dtype in types))
    with pytest.raises(ValueError, match="matmul: precision must be None with arrays of 16 bits"):
        ops.matmul(to_device(x.astype(half)), to_device(x.astype(half)), precision="bf16")
    with pytest.raises(fnn.DTypeError, match=r"relu: x must be float32 or float64 .*got bfloat16"):
        ops.relu(to_device(x.astype(half)))
    with pytest.raises(fnn.DTypeError, match="matmul: a must be float32 or float64 of"):
        ops.matmul(x.astype(half), x.astype(half))


# ---- numbers in device memory ------------------------------------------------------------------


@pytest.mark.parametrize("types", [("f8", "f8"), ("f4", "f4"), ("i8", "f8"), ("i4", "f4")])
def test_step_and_rate_may_lie_on_the_device(types):
    arguments = full("adam_step", 5, 7).arguments(np.float32)
    arguments |= {"step": 3, "lr": 0.25}
    usual = digest(on_device("adam_step", copies(arguments)))
    arguments |= {
        name: np.array(arguments[name], dtype)
        for name, dtype in zip(("step", "lr"), types, strict=True)
    }
    assert digest(on_device("adam_step", arguments)) == usual


def test_numbers_on_the_device_are_zero_dimensional():
    x = np.ones(3, np.float32)
    for lr in (np.ones(2), np.ones((), bool)):
        with pytest.raises(TypeError, match=r"sgd_step: lr must be a number or a 0-d array, got"):
            ops.sgd_step(to_device(x), to_device(x), lr=to_device(lr))


def test_a_rate_on_the_device_is_refused_with_arrays_on_the_cpu():
    x = np.ones(3, np.float32)
    with pytest.raises(TypeError, match="sgd_step: lr is an array of"):
        ops.sgd_step(x, x, lr=to_device(np.ones(())))


def test_lists_of_arrays_are_updated():
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(n).astype(np.float32) for n in (3, 0, 500)]
    grads = [rng.standard_normal(len(p)).astype(np.float32) for p in params]
    moved = [to_device(p) for p in params]
    ops.sgd_step(moved, [to_device(g) for g in grads], lr=0.1)
    ops.sgd_step(params, grads, lr=0.1)
    for device, host in zip(moved, params, strict=True):
        np.testing.assert_array_equal(to_host(device), host)
    with pytest.raises(ValueError, match=r"sgd_step: param\[0\] and param\[1\] overlap"):
        ops.sgd_step([moved[2], moved[2]], [to_device(grads[2]), to_device(grads[2])], lr=0.1)


@pytest.mark.parametrize("op", [op for op in KERNELS if op.endswith("_step")])
def test_a_list_takes_one_launch(op):
    """And has the bits of as many calls, whatever the lengths, layouts and types."""
    for dtype in DTYPES.values():
        each = [full(op, rows, 7).arguments(dtype) for rows in (1, 0, 900, 5, 3)]
        each = [laid_out(each[0], LAYOUTS["every_second"]), *each[1:]]
        names = [name for name, value in each[0].items() if isinstance(value, np.ndarray)]
        numbers = {name: value for name, value in each[0].items() if name not in names}
        expected = [on_device(op, copies(arguments)) for arguments in each]
        together = {name: [to_device(a[name]) for a in each] for name in names}
        before = emulator.launches()
        getattr(ops, op)(**together, **numbers | rates_on_device(numbers))
        strided = len(names) + len(expected[0])  # copies there and back of the first ones
        assert emulator.launches() - before == 1 + strided
        for i, results in enumerate(expected):
            for name, value in results.items():
                np.testing.assert_array_equal(to_host(together[name][i]), value)


def rates_on_device(numbers):
    return {
        name: to_device(np.array(numbers[name], float))
        for name in ("lr", "step")
        if name in numbers
    }


@pytest.mark.parametrize(("count", "launches"), [(40, 1), (500, 1), (900, 2)])
def test_long_lists_take_few_launches(count, launches):
    rng = np.random.default_rng(0)
    params, grads = (
        [rng.standard_normal(3).astype(np.float32) for _ in range(count)] for _ in range(2)
    )
    moved, lr = [to_device(p) for p in params], to_device(np.array(0.1))
    moved_grads = [to_device(g) for g in grads]
    before = emulator.launches()
    ops.sgd_step(moved, moved_grads, lr=lr)
    assert emulator.launches() - before == launches
    ops.sgd_step(params, grads, lr=0.1)
    for device, host in zip(moved, params, strict=True):
        np.testing.assert_array_equal(to_host(device), host)


# ---- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_labels_of_any_integer_type(dtype):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((300, 10)).astype(np.float32), rng.integers(0, 10, 300)
    usual = on_device("softmax_cross_entropy", {"logits": logits, "targets": labels})
    for targets in (labels.astype(dtype), np.repeat(labels, 2).astype(dtype)[::2]):
        results = on_device("softmax_cross_entropy", {"logits": logits, "targets": targets})
        assert digest(results) == digest(usual)
    fnn.synchronize()


@pytest.mark.parametrize(
    ("label", "dtype", "told"),
    [
        (10, "i8", "10"),
        (-1, "i8", "-1"),
        (-100, "i8", None),
        (200, "u1", "200"),
        (-(2**63), "i8", str(-(2**31))),
        (2**63 - 1, "i8", str(2**31 - 1)),
        (2**64 - 100, "u8", str(-(2**31))),
    ],
)
@pytest.mark.usefixtures("_libraries")
def test_a_label_out_of_range_is_found_later(label, dtype, told):
    """Where nothing waits: by synchronize(), or whatever is called next."""
    message = rf"^softmax_cross_entropy: label {told} at row 7; valid 0\.\.9$"
    x = to_device(np.ones(3, np.float32), like=TorchArray)
    for next_call in (fnn.synchronize, lambda: ops.relu(x)):
        loss = to_host(losses(label, dtype, TorchArray))
        if told is None:
            next_call()
            continue
        assert np.isnan(loss[[7, 250]]).all()
        assert np.isfinite(np.delete(loss, [7, 250])).all()
        with pytest.raises(fnn.LabelError, match=message):
            next_call()
        fnn.synchronize()  # it was told
        next_call()


def losses(label, dtype="i8", like=DeviceArray):
    logits = np.random.default_rng(0).standard_normal((300, 10)).astype(np.float32)
    labels = np.zeros(300, dtype)
    labels[[7, 250]] = label
    moved = (to_device(array, like=like) for array in (logits, labels))
    return ops.softmax_cross_entropy(*moved, reduction="none")[0]


def test_calls_that_wait_tell_of_bad_labels_themselves():
    with pytest.raises(fnn.LabelError, match=r"label 10 at row 7; valid 0\.\.9$"):
        losses(10)
    assert np.isfinite(to_host(losses(9))).all()
    x, index = to_device(np.zeros((5, 3), np.uint8)), to_device(np.array([0, 4, 5]))
    with pytest.raises(IndexError, match=r"^take_rows: index: 5 at position 2; valid 0\.\.4$"):
        ops.take_rows(x, index)
    fnn.synchronize()


@pytest.mark.usefixtures("_libraries")
def test_while_a_graph_is_captured_no_call_waits_to_tell():
    x = to_device(np.ones(3, np.float32), like=TorchArray)
    losses(10, like=TorchArray)
    emulator.set_capturing(1)
    ops.relu(x)
    emulator.set_capturing(0)
    with pytest.raises(fnn.LabelError):
        ops.relu(x)


# ---- refusals ----------------------------------------------------------------------------------


def test_arrays_of_two_devices_are_refused_by_name():
    x = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="relu_backward: x is on cuda:1 but the arrays before it"):
        ops.relu_backward(to_device(x), to_device(x, 1))
    with pytest.raises(fnn.DeviceError, match=r"relu: x \(float32 \(3,\)\) is on cuda:7, but"):
        ops.relu(to_device(x, 7))
    with pytest.raises(TypeError, match="relu_backward: x is an array of NumPy but"):
        ops.relu_backward(to_device(x), x)
    both = [[to_device(x), to_device(x, like=InterfaceArray)] for _ in range(2)]
    with pytest.raises(TypeError, match=r"sgd_step: param\[1\] is an array of __cuda_array_interf"):
        ops.sgd_step(*both, lr=0.1)
    with pytest.raises(ValueError, match=r"sgd_step: param\[1\] is on another device than \[0\]"):
        ops.sgd_step([to_device(x), to_device(x, 1)], [to_device(x), to_device(x, 1)], lr=0.1)


def test_refusals_are_those_of_the_cpu():
    x = np.ones((2, 3), np.float32)
    calls = [
        lambda at: ops.relu(at(np.ones(3, int))),
        lambda at: ops.relu_backward(at(x), at(x[:1])),
        lambda at: ops.relu_backward(at(x), at(x.astype(float))),
        lambda at: ops.sgd_step(at(x), at(x), lr=-1.0),
        lambda at: ops.matmul(at(x), at(x)),
        lambda at: ops.relu(at(x), out=at(np.ones((3, 2), np.float32))),
        lambda at: ops.softmax_cross_entropy(at(x), at(np.zeros(1, int))),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as expected:
            call(lambda array: array)
        with pytest.raises(expected.type) as told:
            call(to_device)
        assert str(told.value) == str(expected.value)


def test_an_op_without_kernel_is_named():
    missing = sorted(set(OPS) - set(KERNELS))
    for op in missing[:1]:
        with pytest.raises(fnn.DeviceError, match=f"{op}: there is no CUDA kernel for it yet"):
            on_device(op, full(op, 4, 3).arguments(np.float32))


# ---- memory ------------------------------------------------------------------------------------


def test_out_of_memory_leaves_everything_usable():
    x = to_device(np.arange(-3000, 3000, dtype=np.float32))
    emulator.set_limit(emulator.used())
    try:
        message = r"^relu: not enough memory on cuda:0: 24000 bytes wanted, 0 free$"
        with pytest.raises(fnn.OutOfMemoryError, match=message):
            ops.relu(x)
        assert issubclass(fnn.OutOfMemoryError, MemoryError)
    finally:
        emulator.set_limit(GIB)
    np.testing.assert_array_equal(to_host(ops.relu(x)), np.maximum(to_host(x), 0))


@pytest.mark.parametrize("op", KERNELS)
def test_inputs_survive_every_failed_allocation(op):
    """The n-th allocation fails, for every n: nothing is written, nothing leaks."""
    arguments = laid_out(full(op, 5, 7).arguments(np.float32), LAYOUTS["every_second"])
    moved = {
        name: to_device(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    arrays = {name: value for name, value in moved.items() if isinstance(value, DeviceArray)}
    before = digest({name: to_host(array) for name, array in arrays.items()})
    used = emulator.used()
    for pages in range(100):
        emulator.set_limit(used + 4096 * pages)
        try:
            execute(getattr(ops, op), op, moved)
            break
        except fnn.OutOfMemoryError:
            assert digest({name: to_host(array) for name, array in arrays.items()}) == before
            gc.collect()
            assert emulator.used() == used
        finally:
            emulator.set_limit(GIB)
    else:
        pytest.fail("never enough memory")


# ---- machines that won't do ---------------------------------------------------------------------

ILLEGAL_ADDRESS, INVALID_CONFIGURATION = 700, 9


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (ILLEGAL_ADDRESS, "the CUDA context is lost; restart the process"),
        (INVALID_CONFIGURATION, r"\(cudaErrorOther\) on cuda:0$"),
    ],
)
def test_a_failed_launch_names_the_op(code, message):
    x = to_device(np.float32([-1, 1]))
    emulator.set_error(code)
    try:
        with pytest.raises(fnn.DeviceError, match=f"^relu: .*{message}"):
            ops.relu(x)
        np.testing.assert_array_equal(ops.relu(np.float32([-1, 1])), [0, 1])
    finally:
        emulator.set_error(0)
    np.testing.assert_array_equal(to_host(ops.relu(x)), [0, 1])


def told(machine, code="", **environment):
    """The error of an op in a process of its own, on another machine."""
    code = f"""
import os
import numpy as np, device_array, fastnn
device_array.emulator.set_machine{machine}
fastnn._core.use_cuda(device_array.emulator.capsule)
x = device_array.to_device(np.ones(3, np.float32))
{code}
try:
    fastnn.ops.relu(x)
except fastnn.DeviceError as error:
    print(error, flush=True)
os._exit(0)
"""
    environment |= os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_machines_that_will_not_do():
    begin = "relu: x (float32 (3,)) is on cuda:0, but "
    assert told((0, 0, 90)) == begin + "there is no NVIDIA driver"
    said = told((1, 12020, 90))
    assert said.startswith(begin + "the NVIDIA driver runs CUDA 12.2 and older, these kernels were")
    said = told((0, 99990, 90), CUDA_VISIBLE_DEVICES="99")
    assert said == begin + "CUDA_VISIBLE_DEVICES='99' leaves no GPU to use"
    said = told((1, 99990, 75))
    assert said == begin + "GPU 0 is sm_75, the kernels were built for emulated"


def test_a_forked_child_is_told_so():
    said = told((1, 99990, 90), "fastnn.ops.relu(x)\nif os.fork(): os.wait(); os._exit(0)")
    assert "CUDA does not work in a forked child of a process that used it; use the start" in said


# ---- the CPU beside it -------------------------------------------------------------------------


def test_the_configuration_tells_the_device():
    cuda = fnn.show_config("dicts")["cuda"]
    assert cuda["built"]
    assert cuda["available"]
    assert cuda["devices"][0].startswith("emulated (sm_90")


def test_recording_takes_arrays_of_the_cpu():
    with (
        _core.Plan(_core.Arena()),
        pytest.raises(fnn.DeviceError, match="relu: x must be an array on the CPU while recording"),
    ):
        ops.relu(to_device(np.ones(3, np.float32)))

"""Arrays of every layout and library: same values, same bits, and no byte beyond their own."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, DTYPES, full
from contract import OPS, UPDATED
from support import available_isas, copies, digest, forced_isa, one_or_tuple, run, unset_like

from fastnn import ops

HUGE = os.environ.get("FASTNN_TEST_HUGE") == "1"  # tests that need 20 GB of memory
SHAPES = [(4, 3), (17, 37)]

# ---- layouts ---------------------------------------------------------------------------------


def filled(shape, dtype):
    """Memory whose every byte is known, so that a stray write shows."""
    memory = np.empty(shape, dtype)
    memory.reshape(-1).view(np.uint8)[...] = 1
    return memory


def every_second(array):
    if array.ndim == 0:
        return filled(3, array.dtype)[1, ...]
    return filled((*array.shape[:-1], 2 * array.shape[-1] + 1), array.dtype)[..., 1::2]


def reversed_axes(array):
    return filled(array.shape, array.dtype)[(..., *[slice(None, None, -1)] * array.ndim)]


def transposed(array):
    return filled(array.shape[::-1], array.dtype).T


def window(array):
    memory = filled([n + 3 for n in array.shape], array.dtype)
    return memory[(..., *[slice(1, 1 + n) for n in array.shape])]


def misaligned(array):
    memory = filled(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    assert view.flags.aligned == (array.itemsize == 1)
    return view


LAYOUTS = {f.__name__: f for f in (every_second, reversed_axes, transposed, window, misaligned)}


def placed(array, layout):
    view = layout(array)
    view[...] = array
    return view


def owner(view):
    while view.base is not None:
        view = view.base
    return view


def bytes_around(view):
    """The memory that a view lives in, the view's own elements blanked."""
    saved = view.copy()
    view[...] = np.zeros((), view.dtype)
    around = owner(view).tobytes()
    view[...] = saved
    return around


def laid_out(arguments, layout):
    return {
        name: placed(value, layout) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }


def views_in(arguments):
    return [value for value in arguments.values() if isinstance(value, np.ndarray)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_layout_of_arguments_makes_no_difference(op, layout, dtype):
    for rows, columns in SHAPES:
        arguments = full(op, rows, columns).arguments(DTYPES[dtype])
        usual = digest(run(op, copies(arguments)))
        views = laid_out(arguments, layout)
        around = [bytes_around(view) for view in views_in(views)]
        assert digest(run(op, views)) == usual
        assert [bytes_around(view) for view in views_in(views)] == around


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("op", [op for op in OPS if OPS[op].results(dict(full(op, 4, 3).options))])
def test_layout_of_out_makes_no_difference(op, layout):
    for rows, columns in SHAPES:
        arguments = full(op, rows, columns).arguments(np.float32)
        usual = run(op, copies(arguments))
        names = OPS[op].results(arguments)
        out = [layout(np.asarray(usual[name])) for name in names]
        around = [bytes_around(view) for view in out]
        results = run(op, copies(arguments) | {"out": one_or_tuple(out)})
        assert digest(results) == digest(usual)
        assert [bytes_around(view) for view in out] == around
        for name, view in zip(names, out, strict=True):
            np.testing.assert_array_equal(view, usual[name])


@pytest.mark.parametrize("op", OPS)
def test_takes_read_only_arrays(op):
    arguments = full(op, 4, 3).arguments(np.float32)
    usual = digest(run(op, copies(arguments)))
    updated = {field.name for field in OPS[op].of(UPDATED)}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray) and name not in updated:
            value.flags.writeable = False
    assert digest(run(op, arguments)) == usual


@pytest.mark.parametrize("op", OPS)
def test_takes_broadcast_arrays(op):
    """One row, or one number, seen as a whole array."""
    for axes in (1, None):
        plain, stretched = full(op, 17, 37).arguments(np.float32), {}
        updated = {field.name for field in OPS[op].of(UPDATED)}
        for name, value in plain.items():
            if isinstance(value, np.ndarray) and name not in updated:
                part = value[:1] if axes else value.reshape(-1)[:1].reshape((1,) * value.ndim)
                stretched[name] = np.broadcast_to(part, value.shape)
        assert stretched or op == "clip_grad_norm"
        expected = digest(run(op, copies(plain | stretched)))
        assert digest(run(op, copies(plain) | stretched)) == expected


@pytest.mark.parametrize("op", OPS)
def test_takes_several_axes_in_any_order(op):
    if not any(dim.endswith("...") for field in OPS[op].fields for dim in field.shape):
        return  # its arrays have one or two axes
    many = {"n...": (3, 4, 5), "s...": (4, 5), "f...": (3, 4, 5)}
    for field in OPS[op].parameters:
        assert all(dim in many for dim in field.shape if dim.endswith("..."))
    chosen = full(op, 4, 3)
    dims = tuple(
        (name, many[name + "..."]) if f"{name}..." in grouped(op) else (name, length)
        for name, length in chosen.dims
    )
    dims = tuple((name, 5 if name == "p" else length) for name, length in dims)
    arguments = chosen._replace(dims=dims).arguments(np.float32)
    usual = digest(run(op, copies(arguments)))
    for order in ("F", "swapped"):
        shuffled = {
            name: in_order(value, order) if isinstance(value, np.ndarray) else value
            for name, value in arguments.items()
        }
        assert digest(run(op, shuffled)) == usual


def grouped(op):
    return {dim for field in OPS[op].fields for dim in field.shape if dim.endswith("...")}


def in_order(value, order):
    if order == "F":
        return value.copy(order="F")
    if value.ndim < 3:
        return value.copy()
    return placed(value, lambda a: np.empty_like(a.swapaxes(0, 1), order="C").swapaxes(0, 1))


def test_takes_views_of_size_one_axes_with_any_stride():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    usual = ops.softmax(x[1:2])
    odd = np.lib.stride_tricks.as_strided(x[1:2], (1, 4), (-12345, 4))
    np.testing.assert_array_equal(ops.softmax(odd), usual)
    np.testing.assert_array_equal(ops.matmul(odd, np.ones((4, 2), np.float32)), [[22, 22]])


def test_takes_subclasses_and_memory_maps(tmp_path):
    class Named(np.ndarray):
        pass

    x = np.arange(12, dtype=np.float32).reshape(3, 4) - 6
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    mapped[...] = x
    for array in (x.view(Named), mapped, x.astype("<f4")):
        y = ops.relu(array)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, np.maximum(x, 0))
    ops.sgd_step(mapped, x, lr=1.0)
    np.testing.assert_array_equal(mapped, 0)


@pytest.mark.parametrize(
    "dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "intc", "longlong", "uintp"]
)
def test_takes_labels_of_every_integer_type(dtype):
    logits, labels = np.random.default_rng(1).standard_normal((50, 7)), np.arange(50) % 7
    usual = ops.softmax_cross_entropy(logits, labels)
    for layout in (np.copy, *LAYOUTS.values()):
        given = placed(labels.astype(dtype), layout)
        loss, gradient = ops.softmax_cross_entropy(logits, given)
        assert loss == usual[0]
        np.testing.assert_array_equal(gradient, usual[1])
        assert ops.count_correct(logits, given) == ops.count_correct(logits, labels)


def test_results_of_vectors_can_be_passed_on():
    """What an op returns for one row is an array that another op takes."""
    x = np.arange(5.0)
    y, mean, rstd = ops.layer_norm(x)
    dx, _, _ = ops.layer_norm_backward(x, x, None, mean, rstd)
    assert y.shape == dx.shape == (5,)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("shape", [(9, 5), (700, 70), (4, 3, 7)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_batch_norm_may_take_the_place_of_dy(shape, dtype, activation):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, *shape)).astype(DTYPES[dtype])
    y, mean, rstd = ops.batch_norm(x, activation=activation)
    arguments = {"x": x, "mean": mean, "rstd": rstd, "activation": activation, "y": y}
    expected = ops.batch_norm_backward(dy, **arguments)
    found = ops.batch_norm_backward(dy, **arguments, out=(dy, None, None))
    assert found[0] is dy
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- memory that must not be touched -----------------------------------------------------------

ALL = [pytest.param(chosen, id=f"{op}-{chosen}") for op in CASES for chosen in CASES[op]]


@pytest.mark.parametrize("chosen", ALL)
def test_never_reads_what_it_only_writes(chosen):
    op, arguments = chosen.op, chosen.arguments(np.float32)
    names = OPS[op].results(arguments)
    usual = run(op, copies(arguments))
    if not names:
        assert op.endswith("_step")
        return
    out = [unset_like(usual[name]) for name in names]
    results = run(op, copies(arguments) | {"out": one_or_tuple(out)})
    assert digest(results) == digest(usual)


class Guarded:
    """Memory between two pages that no one may touch."""

    ROOM = 1 << 20

    def __init__(self):
        page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
        self.map = mmap.mmap(-1, self.ROOM + 2 * page)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for address in (begin, begin + page + self.ROOM):
            assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0) == 0
        self.bytes = np.frombuffer(self.map, np.uint8)[page : page + self.ROOM]

    def place(self, array, at_end):
        memory = self.bytes[-array.nbytes or self.ROOM :] if at_end else self.bytes[: array.nbytes]
        view = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view


def run_between_guard_pages():
    """Every case, each array up against a forbidden page: at its end, then at its beginning."""
    rooms, calls = [Guarded() for _ in range(12)], 0
    for isa in available_isas():
        for chosen in (chosen for cases in CASES.values() for chosen in cases):
            print(isa, chosen.op, chosen, file=sys.stderr)
            for dtype in chosen.dtypes:
                arguments = chosen.arguments(DTYPES[dtype])
                if max(array.nbytes for array in views_in(arguments)) <= Guarded.ROOM:
                    calls += call_between_guard_pages(isa, chosen.op, arguments, rooms)
    print(calls)


def call_between_guard_pages(isa, op, arguments, rooms):
    with forced_isa(isa):
        usual = run(op, copies(arguments))
        names = OPS[op].results(arguments)
        for at_end in (True, False):
            free = iter(rooms)
            guarded = {
                name: next(free).place(value, at_end) if isinstance(value, np.ndarray) else value
                for name, value in arguments.items()
            }
            out = [next(free).place(np.asarray(usual[name]), at_end) for name in names]
            if out:
                guarded["out"] = one_or_tuple(out)
            assert digest(run(op, guarded)) == digest(usual)
    return 2


def run_python(code):
    """A process of its own, which may crash."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_touches_no_byte_outside_of_its_arrays():
    done = run_python("import test_arrays; test_arrays.run_between_guard_pages()")
    assert done.returncode == 0, f"crashed in {done.stderr[-2000:]}"
    assert int(done.stdout) > 4 * sum(map(len, CASES.values())) * 0.98


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize("shift", [-4, 4])
def test_guard_pages_stop_a_stray_read(shift):
    code = (
        "import numpy as np, ctypes, test_arrays\n"
        f"x = test_arrays.Guarded().place(np.ones(3, np.float32), {shift > 0})\n"
        f"stray = (ctypes.c_float * 3).from_address(x.ctypes.data + {shift})\n"
        "assert x.sum() == 3; print('before', flush=True)\n"
        "print(stray[0], stray[2])"
    )
    done = run_python(code)
    assert done.stdout.strip() == "before"
    assert done.returncode == -11 or "SEGV" in done.stderr  # from a sanitizer's handler


# ---- other libraries -------------------------------------------------------------------------


COUNTS = [op for op in OPS if any(field.type == "i64" for field in OPS[op].of({"OUT"}))]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    return pytest.importorskip("jax")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_takes_and_returns_torch_tensors(torch, op, dtype):
    for rows, columns in SHAPES:
        arguments = full(op, rows, columns).arguments(DTYPES[dtype])
        usual = run(op, copies(arguments))
        for layout in (np.copy, every_second, transposed):
            tensors = {
                name: torch.from_numpy(placed(value, layout))
                if isinstance(value, np.ndarray)
                else value
                for name, value in arguments.items()
            }
            results = run(op, tensors)
            assert all(isinstance(value, torch.Tensor) for value in results.values())
            assert digest({name: value.numpy() for name, value in results.items()}) == digest(usual)


def test_torch_tensors_are_updated_where_they_are(torch):
    param, grad = torch.ones(5), torch.arange(5.0)
    address = param.data_ptr()
    ops.sgd_step([param], [grad], lr=0.5)
    assert param.data_ptr() == address
    np.testing.assert_array_equal(param, 1 - 0.5 * np.arange(5))
    out = torch.empty(5)
    assert ops.relu(param, out=out) is out
    np.testing.assert_array_equal(out, np.maximum(param, 0))
    ops.sgd_step(param, grad, lr=torch.tensor(0.5, dtype=torch.float64))
    np.testing.assert_array_equal(param, 1 - 1.0 * np.arange(5))


def test_torch_results_outlive_the_call(torch):
    results = [ops.relu(torch.full((1000,), float(i))) for i in range(100)]
    assert [int(r.sum()) for r in results] == [1000 * i for i in range(100)]
    results[3] += 1  # writable
    assert results[3].sum() == 4000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [op for op in OPS if op not in COUNTS and not OPS[op].of({"INOUT"})])
def test_takes_and_returns_jax_arrays(jax, op, dtype):
    for rows, columns in SHAPES:
        arguments = full(op, rows, columns).arguments(DTYPES[dtype])
        for name in {field.name for field in OPS[op].of(UPDATED)} & set(arguments):
            arguments[name] = None  # JAX arrays are not updated in place
        usual = run(op, copies(arguments))
        with jax.enable_x64(dtype == "f64"):
            arrays = {
                name: jax.numpy.asarray(value) if isinstance(value, np.ndarray) else value
                for name, value in arguments.items()
            }
            results = {name: value for name, value in run(op, arrays).items() if value is not None}
            assert all(isinstance(value, jax.Array) for value in results.values())
        assert digest({name: np.asarray(value) for name, value in results.items()}) == digest(
            {name: usual[name] for name in results}
        )


@pytest.mark.parametrize("op", COUNTS)
def test_counts_of_jax_arrays(jax, op):
    """Without x64 JAX turns int64 into int32, a copy. In a process of its own: it may crash."""
    code = (
        "import jax, numpy as np, test_arrays as t\n"
        f"arguments = t.full({op!r}, 17, 37).arguments(np.float32)\n"
        f"usual = t.run({op!r}, arguments)\n"
        "for _ in range(100):\n"
        "    arrays = {name: jax.numpy.asarray(value) for name, value in arguments.items()}\n"
        f"    count = t.run({op!r}, arrays)\n"
        "    assert {k: int(v) for k, v in count.items()} == usual, (count, usual)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_takes_anything_that_exports_dlpack():
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __array_namespace__(self):
            return np

    x = np.arange(-5, 6, dtype=np.float32)
    np.testing.assert_array_equal(ops.relu(Foreign(x)), np.maximum(x, 0))
    np.testing.assert_array_equal(ops.relu(Foreign(x[::2])), np.maximum(x[::2], 0))


# ---- more than 2^31 elements -------------------------------------------------------------------
# Zeros that are only read cost no memory: the system maps one page of zeros many times.

MANY = 2**31 + 17


def zeros(shape, dtype):
    try:
        return np.zeros(shape, dtype)
    except MemoryError:
        pytest.skip("no address space for more than 2^31 elements")


def test_reaches_rows_beyond_2_to_the_31():
    x = zeros((5, 2**29 + 3), np.uint8)
    x[4, -3:] = 1, 2, 3
    np.testing.assert_array_equal(ops.take_rows(x, np.array([4]))[0, -4:], [0, 1, 2, 3])


@pytest.mark.slow
@pytest.mark.skipif(not HUGE, reason="set FASTNN_TEST_HUGE=1 on a machine with 20 GB of memory")
class TestMoreThan2ToThe31Elements:
    def test_first_nonfinite(self):
        x = zeros(MANY, np.float32)
        x[-1] = np.nan
        assert ops.first_nonfinite(x) == MANY - 1

    def test_norm(self):
        x = zeros(MANY, np.float32)
        x[-1], x[0] = 3, 4
        assert ops.l2_norm(x) == 5

    def test_column_sum(self):
        x = zeros((2**27 + 1, 17), np.float32)
        x[-1], x[0] = 3, 4
        np.testing.assert_array_equal(ops.column_sum(x), np.full(17, 7))

    def test_row_sums_of_a_product(self):
        a = zeros((2**27 + 1, 17), np.float32)
        a[-1] = np.arange(17)
        y = ops.matmul(a, np.ones((17, 1), np.float32))
        assert y[-1, 0] == 136
        assert not y[:-1].any()

    def test_activation(self):
        x = np.ones(MANY, np.float32)
        x[-17:] = -1
        ops.relu(x, out=x)
        assert not x[-17:].any()
        assert x[:-17].all()

    def test_product(self):
        y = ops.matmul(np.arange(2**26 + 3, dtype=np.float32)[:, None], np.ones((1, 33), "f4"))
        np.testing.assert_array_equal(y[-1], np.full(33, 2**26 + 2, np.float32))

    def test_dropout_counts_on(self):
        x = zeros(MANY, np.uint8)
        y = ops.rescale(x, offset=1.0)
        assert y[-1] == 1
        assert ops.count_correct_binary(y, y) == MANY

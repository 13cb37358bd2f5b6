"""Arbitrary layouts and overlaps, found by Hypothesis: values within bounds or a clean refusal."""

import math

import numpy as np
import pytest
import reference
from cases import DTYPES, WIDE, execute
from contract import OPS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import copies, digest, run
from tolerances import assert_close, bounds

from fastnn import ops

EXAMPLES = settings(max_examples=80)
dtypes = st.sampled_from(list(DTYPES.values()))
lengths = st.integers(0, 40)


@st.composite
def laid_out(draw, values):
    """The same values somewhere in a larger buffer: any order of axes, steps, signs and offset."""
    axes = draw(st.permutations(range(values.ndim)))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in axes]
    begins = [draw(st.integers(0, 3)) for _ in axes]
    shift = draw(st.sampled_from([0, 0, 1, values.itemsize - 1]))
    spans = [values.shape[axis] * abs(step) for axis, step in zip(axes, steps, strict=True)]
    sizes = [begin + span for begin, span in zip(begins, spans, strict=True)]
    memory = np.zeros(math.prod(sizes) * values.itemsize + shift, np.uint8)
    view = memory[shift:].view(values.dtype).reshape(sizes)
    every = [slice(begin, None, abs(step)) for begin, step in zip(begins, steps, strict=True)]
    signs = [slice(None, None, 1 if step > 0 else -1) for step in steps]
    view = view[(..., *every)][(..., *signs)].transpose(np.argsort(axes))
    assert view.shape == values.shape
    view[...] = values
    return view


@st.composite
def broadcast(draw, values):
    """Some axes repeated with a stride of 0: other values, and a copy of these."""
    part = values[tuple(slice(0, 1) if draw(st.booleans()) else slice(None) for _ in values.shape)]
    return np.broadcast_to(part, values.shape) if values.size else values


def numbers(shape, dtype):
    """Of ordinary size, so that what is rounded away is told by u and not by denormals."""
    floats = st.floats(-50, 50, width=8 * np.dtype(dtype).itemsize)
    elements = floats.map(lambda value: value if abs(value) > 1e-12 else 0.0)
    return hnp.arrays(dtype, shape, elements=elements, fill=st.nothing())


def check(data, op, arguments):
    """Laid out at random, the call gives the bits of the plain one, and these are right."""
    wide = {
        name: value.astype(WIDE)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        else value
        for name, value in arguments.items()
    }
    before = copies(wide)
    usual = run(op, copies(arguments))
    with np.errstate(all="ignore"):
        exact = execute(getattr(reference, op), op, wide)
    dtype = next(
        v.dtype for v in arguments.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"
    )
    allowed = bounds(op, dtype, before, exact)
    for name, value in usual.items():
        assert_close(value, exact[name], allowed[name], np.asarray(value).dtype)
    views = {
        name: data.draw(laid_out(value)) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    assert digest(run(op, views)) == digest(usual)


ELEMENTWISE = ["relu_backward", "gelu", "silu_backward", "dropout"]


@pytest.mark.parametrize("op", ELEMENTWISE)
@EXAMPLES
@given(data=st.data())
def test_elementwise(op, data):
    dtype = data.draw(dtypes)
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    arguments = {field.name: data.draw(numbers(shape, dtype)) for field in OPS[op].of({"IN"})}
    if op == "dropout":
        arguments |= {
            "p": data.draw(st.floats(0, 0.99)),
            "seed": data.draw(st.integers(0, 2**64 - 1)),
            "offset": data.draw(st.integers(0, 2**63 - 1)),
        }
    check(data, op, arguments)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@EXAMPLES
@given(data=st.data())
def test_softmax(op, data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=20))
    check(data, op, {"x": data.draw(numbers(shape, data.draw(dtypes)))})


@EXAMPLES
@given(data=st.data(), m=lengths, n=lengths, k=lengths, dtype=dtypes)
def test_matmul(data, m, n, k, dtype):
    transpose_a, transpose_b = data.draw(st.booleans()), data.draw(st.booleans())
    arguments = {
        "a": data.draw(numbers((k, m) if transpose_a else (m, k), dtype)),
        "b": data.draw(numbers((n, k) if transpose_b else (k, n), dtype)),
        "transpose_a": transpose_a,
        "transpose_b": transpose_b,
        "activation": data.draw(st.sampled_from([None, "relu", "tanh"])),
    }
    if data.draw(st.booleans()):
        arguments["bias"] = data.draw(numbers(n, dtype))
    check(data, "matmul", arguments)


@EXAMPLES
@given(data=st.data(), n=lengths, c=st.integers(1, 40), dtype=dtypes)
def test_softmax_cross_entropy(data, n, c, dtype):
    labels = st.integers(0, c - 1) | st.just(-100)
    integers = data.draw(st.sampled_from([np.int16, np.int32, np.int64]))
    arguments = {
        "logits": data.draw(numbers((n, c), dtype)),
        "targets": data.draw(hnp.arrays(integers, n, elements=labels)),
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.1, 1.0])),
        "reduction": data.draw(st.sampled_from(["mean", "sum", "none"])),
    }
    check(data, "softmax_cross_entropy", arguments)


@pytest.mark.parametrize("op", ["mse", "mae"])
@EXAMPLES
@given(data=st.data())
def test_elementwise_losses(op, data):
    dtype = data.draw(dtypes)
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=12))
    arguments = {
        "pred": data.draw(numbers(shape, dtype)),
        "target": data.draw(numbers(shape, dtype)),
        "reduction": data.draw(st.sampled_from(["mean", "sum", "none"])),
    }
    check(data, op, arguments)


@EXAMPLES
@given(data=st.data(), n=st.integers(2, 30), c=lengths, dtype=dtypes)
def test_batch_norm(data, n, c, dtype):
    shape = (n, c, *data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=5)))
    arguments = {
        "x": data.draw(numbers(shape, dtype)),
        "gamma": data.draw(numbers(c, dtype)),
        "beta": data.draw(numbers(c, dtype)),
        "running_mean": data.draw(numbers(c, dtype)),
        "running_var": np.abs(data.draw(numbers((c,), dtype))),
        "training": data.draw(st.booleans()),
    }
    check(data, "batch_norm", arguments)


@EXAMPLES
@given(data=st.data())
def test_adam_step(data):
    dtype = data.draw(dtypes)
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
    arguments = {
        "param": data.draw(numbers(shape, dtype)),
        "grad": data.draw(numbers(shape, dtype)),
        "exp_avg": data.draw(numbers(shape, dtype)),
        "exp_avg_sq": np.asarray(np.abs(data.draw(numbers(shape, dtype))) + dtype(0.01)),
        "step": data.draw(st.integers(1, 10**6)),
        "lr": data.draw(st.floats(0, 1)),
    }
    check(data, "adam_step", arguments)


@EXAMPLES
@given(data=st.data(), n=lengths, c=lengths, dtype=dtypes)
def test_column_sum(data, n, c, dtype):
    check(data, "column_sum", {"x": data.draw(numbers((n, c), dtype))})


@pytest.mark.parametrize("op", ["softmax", "tanh", "l2_norm", "first_nonfinite", "column_sum"])
@EXAMPLES
@given(data=st.data())
def test_broadcast(op, data):
    shape = data.draw(st.tuples(st.integers(0, 9), st.integers(1, 20)))
    view = data.draw(broadcast(data.draw(numbers(shape, data.draw(dtypes)))))
    assert digest(run(op, {"x": view})) == digest(run(op, {"x": view.copy()}))


@pytest.mark.parametrize("op", ["relu", "tanh", "softmax", "column_sum"])
@settings(max_examples=200)
@given(data=st.data())
def test_overlapping_out(op, data):
    """Two windows on one buffer: disjoint, the same, or refused with nothing changed."""
    memory = np.arange(60, dtype=np.float32) - 30
    x, out = data.draw(windows(memory)), data.draw(windows(memory))
    expected = getattr(ops, op)(x.copy())
    if op == "column_sum":
        out = out[0]
    before = memory.tobytes()
    same = x.__array_interface__ == out.__array_interface__
    if not np.shares_memory(x, out) or (same and op in ("relu", "tanh")):
        getattr(ops, op)(x, out=out)
        np.testing.assert_array_equal(out, expected)
    else:
        with pytest.raises(ValueError, match=rf"{op}: .*overlap"):
            getattr(ops, op)(x, out=out)
        assert memory.tobytes() == before


@st.composite
def windows(draw, memory):
    """A 3 x 4 view without overlap in itself, at any place and of any direction."""
    steps = [(4, 1), (12, 1), (12, 2), (12, 3), (-4, 1), (4, -1), (12, -2), (-12, -3)]
    row, column = draw(st.sampled_from(steps))
    least = 2 * min(row, 0) + 3 * min(column, 0)
    most = 2 * max(row, 0) + 3 * max(column, 0)
    begin = draw(st.integers(-least, memory.size - most - 1))
    strides = (row * memory.itemsize, column * memory.itemsize)
    view = np.lib.stride_tricks.as_strided(memory[begin:], (3, 4), strides)
    assert view.flags.writeable
    return view

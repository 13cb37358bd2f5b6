"""Calls that must be refused: by which exception, in which words, and with nothing changed.

Every refusal here also checks that inputs, outputs and state kept their bits and that the next
valid call gives its usual result.
"""

import numpy as np
import pytest
from cases import CASES, PROBABILITIES, REQUIRED, case, execute, full
from contract import OPS, UPDATED
from support import copies, digest, one_or_tuple, run

import fastnn
from fastnn import DTypeError, LabelError, ShapeError, ops

FULL = {op: full(op, 4, 3) for op in OPS}
ARRAYS = [
    (op, field)
    for op in OPS
    for field in OPS[op].parameters
    if isinstance(FULL[op].arguments(np.float32).get(field.name), np.ndarray)
]
FLOATS = [(op, field) for op, field in ARRAYS if field.type == "T"]


def ids(pairs):
    return [f"{op}-{getattr(field, 'name', field)}" for op, field in pairs]


def arrays_in(value):
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in arrays_in(item)]
    return []


def refuse(error, op, arguments, *tokens):
    """The call raises exactly that exception, says those words, and leaves no other trace."""
    good = FULL[op].arguments(np.float32)
    usual = digest(run(op, copies(good)))
    held = [array for value in arguments.values() for array in arrays_in(value)]
    before = [array.tobytes() for array in held]
    with pytest.raises(error) as caught:
        call(op, arguments)
    assert caught.type is error, caught.value
    message = str(caught.value)
    for token in (op, *map(str, tokens)):
        assert token in message, f"{token!r} is missing in: {message}"
    assert [array.tobytes() for array in held] == before
    assert digest(run(op, copies(good))) == usual
    return message


def call(op, arguments):
    """As cases.execute, with whatever is given and nothing else."""
    positional, keywords = [], dict(arguments)
    for field in OPS[op].parameters:
        if field.keyword_only or field.name not in keywords:
            break
        positional.append(keywords.pop(field.name))
    return getattr(ops, op)(*positional, **keywords)


def changed(op, dtype=np.float32, **changes):
    return FULL[op].arguments(dtype) | changes


def test_valid_calls_are_valid():
    for op, chosen in FULL.items():
        assert execute(getattr(ops, op), op, chosen.arguments(np.float32))
    assert len(ARRAYS) > 100


# ---- arrays: types ---------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "field"), FLOATS, ids=ids(FLOATS))
def test_refuses_wrong_dtype(op, field):
    value = FULL[op].arguments(np.float32)[field.name]
    for dtype in (np.float16, np.longdouble, np.complex64, np.complex128, np.int32, np.int64):
        wrong = value.astype(dtype)
        message = refuse(
            DTypeError, op, changed(op, **{field.name: wrong}), field.name, wrong.dtype
        )
        assert "float32" in message.split("got")[0]
    for wrong in (value.astype(bool), value.astype(object), value.astype("U8")):
        refuse(DTypeError, op, changed(op, **{field.name: wrong}), field.name, wrong.dtype)
    structured = np.zeros(value.shape, [("a", "f4")])
    refuse(DTypeError, op, changed(op, **{field.name: structured}), field.name, "float32")


@pytest.mark.parametrize(("op", "field"), FLOATS, ids=ids(FLOATS))
def test_refuses_big_endian(op, field):
    for dtype, swapped in ((np.float32, ">f4"), (np.float64, ">f8")):
        wrong = FULL[op].arguments(dtype)[field.name].astype(swapped)
        tokens = (field.name, swapped, f".astype('<{swapped[1:]}')")
        refuse(DTypeError, op, changed(op, dtype, **{field.name: wrong}), *tokens)


FOLLOWING = [
    (op, field) for op, field in FLOATS if next(f for o, f in FLOATS if o == op) is not field
]


@pytest.mark.parametrize(("op", "field"), FOLLOWING, ids=ids(FOLLOWING))
def test_refuses_mixed_precision(op, field):
    first = next(f for o, f in FLOATS if o == op)
    wrong = FULL[op].arguments(np.float64)[field.name]
    tokens = (field.name, first.name, "float32", "float64")
    refuse(DTypeError, op, changed(op, **{field.name: wrong}), *tokens)


@pytest.mark.parametrize(("op", "field"), ARRAYS, ids=ids(ARRAYS))
def test_refuses_masked_arrays(op, field):
    value = FULL[op].arguments(np.float32)[field.name]
    wrong = np.ma.masked_array(value, mask=np.zeros(value.shape, bool))
    refuse(DTypeError, op, changed(op, **{field.name: wrong}), field.name, "mask")


@pytest.mark.parametrize(
    ("op", "name", "wrong"),
    [
        ("rescale", "x", np.float32),
        ("rescale", "x", np.int8),
        ("take_rows", "x", np.float32),
        ("take_rows", "index", np.float64),
        ("take_rows", "index", bool),
        ("dropout_backward", "mask", np.uint8),
        ("dropout_backward", "mask", np.float32),
    ],
)
def test_refuses_wrong_dtype_where_no_float_belongs(op, name, wrong):
    value = FULL[op].arguments(np.float32)[name].astype(wrong)
    refuse(DTypeError, op, changed(op, **{name: value}), name, value.dtype)


# ---- arrays: what is none --------------------------------------------------------------------


@pytest.mark.parametrize(("op", "field"), ARRAYS, ids=ids(ARRAYS))
def test_refuses_what_is_no_array(op, field):
    value = FULL[op].arguments(np.float32)[field.name]
    first = OPS[op].parameters[0] is field
    for wrong in (1, 1.5, "text", b"bytes", {}, object()):
        refuse(TypeError, op, changed(op, **{field.name: wrong}), field.name, type(wrong).__name__)
    for wrong in (value.tolist(), tuple(value.tolist()), [1.0], range(3)):
        takes_lists = op.endswith("_step") and first and not isinstance(wrong, range)
        refuse(TypeError, op, changed(op, **{field.name: wrong}), "" if takes_lists else field.name)
    if field.kind not in ("OPT", "OPTINOUT"):
        refuse(TypeError, op, changed(op, **{field.name: None}), field.name)


@pytest.mark.parametrize("op", OPS)
def test_refuses_missing_arguments(op):
    required = [
        field.name
        for field in OPS[op].parameters
        if field.kind not in ("OPT", "OPTINOUT") and field.default in ("", "REQUIRED")
    ]
    assert required
    for name in required:
        arguments = changed(op)
        del arguments[name]
        with pytest.raises(TypeError, match=f"{op}.*{name}"):
            getattr(ops, op)(**arguments)
    with pytest.raises(TypeError, match=op):
        getattr(ops, op)()


@pytest.mark.parametrize("op", OPS)
def test_refuses_unknown_and_repeated_arguments(op):
    refuse(TypeError, op, changed(op, colour=1), "colour")
    first = OPS[op].parameters[0].name
    arguments = changed(op)
    with pytest.raises(TypeError, match=f"{op}.*{first}"):
        getattr(ops, op)(arguments[first], **arguments)
    if not OPS[op].results({}):
        refuse(TypeError, op, changed(op, out=np.zeros(3)), "out")


@pytest.mark.parametrize(
    "op", [op for op in OPS if any(f.keyword_only for f in OPS[op].parameters)]
)
def test_refuses_keyword_arguments_by_position(op):
    good = changed(op)
    positional = [good.get(f.name) for f in OPS[op].parameters if not f.keyword_only]
    with pytest.raises(TypeError, match=op):
        getattr(ops, op)(*positional, 1)


# ---- arrays: shapes --------------------------------------------------------------------------


def shared_axis(op, field):
    """An axis of the argument whose length an earlier argument fixes; None if there is none."""
    earlier = {dim for o, f in ARRAYS if o == op for dim in f.shape if precedes(op, f, field)}
    shape = ("n", "c") if field.kind == "TARGETS" and len(field.shape) == 2 else field.shape
    ndim = FULL[op].arguments(np.float32)[field.name].ndim
    axes = [i for i, dim in enumerate(shape[:ndim]) if dim in earlier]
    return axes[-1] if axes else None


def precedes(op, first, second):
    order = [f.name for f in OPS[op].parameters]
    return order.index(first.name) < order.index(second.name)


TIED = [(op, field) for op, field in ARRAYS if shared_axis(op, field) is not None]


@pytest.mark.parametrize(("op", "field"), TIED, ids=ids(TIED))
def test_refuses_wrong_shape(op, field):
    value, axis = FULL[op].arguments(np.float32)[field.name], shared_axis(op, field)
    wrong = [np.concatenate([value, np.take(value, [0], axis)], axis), np.delete(value, 0, axis)]
    wrong += [value[None], value[..., None], np.delete(value, slice(None), axis)]
    if field.kind == "MAT":
        wrong[2:4] = [value.reshape(-1)]
    for array in wrong:
        shape = str(array.shape)
        refuse(ShapeError, op, changed(op, **{field.name: array}), field.name, shape)


@pytest.mark.parametrize(
    ("op", "name", "shape"),
    [
        ("matmul", "a", ()),
        ("matmul", "a", (5,)),
        ("matmul", "b", (5,)),
        ("matmul", "b", (2, 5, 3)),
        ("column_sum", "x", (3,)),
        ("column_sum", "x", (2, 3, 4)),
        ("softmax", "x", ()),
        ("log_softmax", "x", ()),
        ("layer_norm", "x", ()),
        ("batch_norm", "x", ()),
        ("batch_norm", "x", (4,)),
        ("softmax_cross_entropy", "logits", (3,)),
        ("softmax_cross_entropy", "logits", (4, 3, 2)),
        ("softmax_cross_entropy", "logits", ()),
        ("mse", "pred", ()),
        ("take_rows", "x", (3,)),
        ("take_rows", "index", ()),
        ("take_rows", "index", (2, 2)),
    ],
)
def test_refuses_wrong_dimensions(op, name, shape):
    dtype = FULL[op].arguments(np.float32)[name].dtype
    refuse(ShapeError, op, changed(op, **{name: np.ones(shape, dtype)}), name, shape)


def test_names_both_factors_when_inner_lengths_differ():
    for transpose_a in (False, True):
        a, b = np.ones((32, 784), np.float32), np.ones((783, 10), np.float32)
        arguments = {"a": a.T if transpose_a else a, "b": b, "transpose_a": transpose_a}
        tokens = ("a", "b", arguments["a"].shape, "(783, 10)")
        refuse(ShapeError, "matmul", arguments, *tokens)
    refuse(
        ShapeError,
        "matmul",
        {"a": np.ones((2, 3, 4)), "b": np.ones((5, 3)), "transpose_b": True},
        "(2, 3, 4)",
        "(5, 3)",
    )


def test_refuses_transposed_stacks():
    a = np.ones((2, 3, 4))
    refuse(ShapeError, "matmul", {"a": a, "b": np.ones((3, 5)), "transpose_a": True}, "a", a.shape)


def test_refuses_pos_weight_that_fits_no_axis():
    for p in (0, 2, 4):
        wrong = np.ones(p, np.float32)
        with pytest.raises(ValueError, match=rf"sigmoid_cross_entropy.*pos_weight.*\({p},\)"):
            call("sigmoid_cross_entropy", changed("sigmoid_cross_entropy", pos_weight=wrong))
    # 3 divides the values per example, 6, but the last axis has 2
    pred = np.ones((4, 3, 2), np.float32)
    arguments = {"logits": pred, "targets": pred, "pos_weight": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="pos_weight"):
        call("sigmoid_cross_entropy", arguments)


def test_refuses_results_too_large_to_count():
    one = np.ones(1, np.float32)
    for rows in (2**31, 2**33):
        tall, wide = np.broadcast_to(one, (rows, 1)), np.broadcast_to(one, (1, rows))
        with pytest.raises(ValueError, match="matmul"):
            ops.matmul(tall, wide)


def test_refuses_results_too_large_for_memory():
    one = np.ones(1, np.float32)
    tall, wide = np.broadcast_to(one, (2**23, 1)), np.broadcast_to(one, (1, 2**23))
    with pytest.raises(MemoryError):
        ops.matmul(tall, wide)
    assert ops.matmul(np.ones((2, 2)), np.ones((2, 2))).sum() == 8


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
def test_refuses_one_value_per_channel(shape):
    running = {name: np.ones(3) for name in ("running_mean", "running_var")}
    arguments = {"x": np.ones(shape), "gamma": None, "beta": None, **running}
    refuse(ValueError, "batch_norm", arguments, "more than 1 value per channel")


# ---- out and state: memory that can't be written ---------------------------------------------

RESULTS = [(op, name) for op in OPS for name in OPS[op].results(dict(FULL[op].options))]


def usable_out(op):
    return {
        name: np.asarray(value).copy()
        for name, value in run(op, changed(op)).items()
        if (op, name) in RESULTS
    }


def with_out(op, name, wrong, **changes):
    out = [wrong if other == name else value for other, value in usable_out(op).items()]
    return changed(op, **changes) | {"out": one_or_tuple(out)}


@pytest.mark.parametrize(("op", "name"), RESULTS, ids=ids(RESULTS))
def test_refuses_unsuitable_out(op, name):
    good = usable_out(op)[name]
    for shape in ((*good.shape, 1), (1, *good.shape), (7, 7, 7)):
        wrong = np.zeros(shape, good.dtype)
        refuse(ShapeError, op, with_out(op, name, wrong), "out", name, good.shape, shape)
    swapped = good.astype(good.dtype.newbyteorder(">"))
    others = [good.astype(np.float16), good.astype(np.int16)]
    if good.dtype == np.float32 and op != "rescale":
        others.append(good.astype(np.float64))
    for wrong in others + ([swapped] if good.dtype.itemsize > 1 else []):
        refuse(DTypeError, op, with_out(op, name, wrong), "out", name, good.dtype)
    locked = good.copy()
    locked.flags.writeable = False
    refuse(ValueError, op, with_out(op, name, locked), name, "read-only")
    if good.size > 1:
        shared = np.lib.stride_tricks.as_strided(
            good.copy(), good.shape, [0] * good.ndim, writeable=True
        )
        refuse(ValueError, op, with_out(op, name, shared), name, "internal overlap")
    for wrong in (good.tolist(), 3, "text", object()):
        refuse(TypeError, op, with_out(op, name, wrong), "out")
    masked = np.ma.masked_array(good)
    refuse(DTypeError, op, with_out(op, name, masked), name, "mask")


@pytest.mark.parametrize("op", dict(RESULTS))
def test_refuses_wrong_number_of_outs(op):
    out = tuple(usable_out(op).values())
    refuse(TypeError, op, changed(op, out=(*out, None)), "out")
    refuse(TypeError, op, changed(op, out=()), "out")
    if len(out) > 1:
        refuse(TypeError, op, changed(op, out=out[0]), "out", len(out))
        refuse(TypeError, op, changed(op, out=list(out)), "out", len(out))


def overlapping(first, second, shift):
    """Copies of two arrays in one buffer, the second beginning `shift` bytes after the first."""
    memory = np.zeros(max(first.nbytes, second.nbytes + shift), np.uint8)
    one = memory[: first.nbytes].view(first.dtype).reshape(first.shape)
    two = memory[shift : shift + second.nbytes].view(second.dtype).reshape(second.shape)
    one[...] = first
    return one, two


OVERLAPS = [
    (op, field, name)
    for op, field in ARRAYS
    for name in OPS[op].results(dict(FULL[op].options))
    if field.kind != "TARGETS" and field.name != "index"  # copied before anything else
]


@pytest.mark.parametrize(
    ("op", "field", "name"), OVERLAPS, ids=[f"{o}-{f.name}-{n}" for o, f, n in OVERLAPS]
)
def test_refuses_out_that_overlaps_an_argument(op, field, name):
    value, good = changed(op)[field.name], usable_out(op)[name]
    shift = max(value.itemsize, good.itemsize)
    if shift >= value.nbytes:  # one element only
        shift = 0
    argument, out = overlapping(value, good, shift)
    same = shift == 0 and value.dtype == good.dtype and value.shape == good.shape
    assert np.shares_memory(argument, out)
    assert not same
    arguments = with_out(op, name, out, **{field.name: argument})
    message = refuse(ValueError, op, arguments, field.name, "overlap")
    assert "out" in message


def test_refuses_outs_that_overlap_each_other():
    x = np.ones((4, 3), np.float32)
    shared = np.zeros(3, np.float32)
    arguments = {"x": x, "gamma": None, "beta": None, "out": (None, shared, shared)}
    refuse(ValueError, "batch_norm", arguments, "mean", "rstd", "overlap")


def test_refuses_aliased_out_unless_elementwise():
    x = np.ones((4, 4), np.float32)
    refuse(ValueError, "matmul", {"a": x, "b": x.copy(), "out": x}, "a", "overlap")
    refuse(ValueError, "softmax", {"x": x, "out": x.T}, "x", "overlap")
    refuse(ValueError, "relu", {"x": x, "out": x.T}, "x", "overlap")
    refuse(ValueError, "relu", {"x": x, "out": x[::-1]}, "x", "overlap")


INOUTS = [(op, field) for op, field in ARRAYS if field.kind in UPDATED]


@pytest.mark.parametrize(("op", "field"), INOUTS, ids=ids(INOUTS))
def test_refuses_state_that_cannot_be_written(op, field):
    value = changed(op)[field.name]
    locked = value.copy()
    locked.flags.writeable = False
    refuse(ValueError, op, changed(op, **{field.name: locked}), field.name, "read-only")
    shared = np.lib.stride_tricks.as_strided(value, value.shape, [0] * value.ndim, writeable=True)
    refuse(ValueError, op, changed(op, **{field.name: shared}), field.name, "internal overlap")
    for other, array in changed(op).items():
        if other != field.name and np.shape(array) == value.shape:
            arguments = changed(op, **{field.name: value, other: value})
            refuse(ValueError, op, arguments, field.name, other, "overlap")


STEPS = [op for op in OPS if op.endswith("_step")]


def listed(op, count=3, **changes):
    """A call with lists of `count` arrays."""
    return {
        name: [value.copy() for _ in range(count)] if isinstance(value, np.ndarray) else value
        for name, value in changed(op).items()
    } | changes


@pytest.mark.parametrize("op", STEPS)
def test_refuses_unsuitable_lists(op):
    state = [field.name for o, field in ARRAYS if o == op]
    for name in state[1:]:
        short = listed(op)
        short[name].pop()
        refuse(ValueError, op, short, name, 3, 2)
        refuse(TypeError, op, listed(op) | {name: changed(op)[name]}, name, "list")
        other_type = listed(op)
        other_type[name][1] = other_type[name][1].astype(np.float64)
        refuse(DTypeError, op, other_type, name, "float64")
        other_shape = listed(op)
        other_shape[name][2] = other_shape[name][2][:-1]
        refuse(ShapeError, op, other_shape, name)
    twice = listed(op)
    twice["param"][2] = twice["param"][0]
    refuse(ValueError, op, twice, "param[0]", "param[2]", "overlap")
    mixed = {
        name: [*value[:2], value[2].astype(np.float64)] if isinstance(value, list) else value
        for name, value in listed(op).items()
    }
    refuse(DTypeError, op, mixed, "param")
    refuse(ValueError, op, listed(op, lr=-1.0), "lr")


@pytest.mark.parametrize("op", STEPS)
def test_refuses_parameter_overlapping_the_gradient_of_another(op):
    arguments = listed(op)
    arguments["grad"][1] = arguments["param"][0]
    refuse(ValueError, op, arguments, "param", "grad", "overlap")


# ---- labels ----------------------------------------------------------------------------------


def labelled(labels, n=9, c=10):
    return {"logits": np.ones((n, c), np.float32), "targets": np.asarray(labels)}


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64])
def test_refuses_labels_out_of_range(dtype):
    labels = np.zeros(9, dtype)
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    bad = [10, 100, most] + ([-1, -99, least] if least < 0 else [])
    for label in bad:
        labels[7] = label
        refuse(LabelError, "softmax_cross_entropy", labelled(labels), f"{label} at row 7")
    labels[7], labels[3] = 10, 11
    message = refuse(LabelError, "softmax_cross_entropy", labelled(labels), "label 11 at row 3")
    assert "0..9" in message
    strided = np.zeros((9, 2), dtype)[:, 0]
    strided[8] = 10
    refuse(LabelError, "softmax_cross_entropy", labelled(strided), "10 at row 8", "0..9")


def test_refuses_labels_beyond_int64():
    labels = np.zeros(9, np.uint64)
    labels[4] = 2**63 + 5
    refuse(LabelError, "softmax_cross_entropy", labelled(labels), 2**63 + 5, "row 4")
    refuse(LabelError, "softmax_cross_entropy", labelled(labels) | {"ignore_index": -(2**63) + 5})


def test_refuses_minus_one_unless_ignored():
    labels = np.array([-1, 0, 1, 2, -1, 4, 5, 6, 7])
    refuse(LabelError, "softmax_cross_entropy", labelled(labels), "-1 at row 0")
    loss, _ = ops.softmax_cross_entropy(**labelled(labels), ignore_index=-1)
    assert loss == pytest.approx(np.log(10))
    labels[0] = -100
    refuse(LabelError, "softmax_cross_entropy", labelled(labels) | {"ignore_index": -1}, "row 0")


def test_refuses_any_label_without_classes():
    arguments = {"logits": np.ones((2, 0), np.float32), "targets": np.zeros(2, int)}
    with pytest.raises(LabelError, match="row 0"):
        ops.softmax_cross_entropy(**arguments)


@pytest.mark.parametrize("op", ["softmax_cross_entropy", "count_correct"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, bool, complex, object])
def test_refuses_labels_that_are_no_integers(op, dtype):
    wrong = changed(op)["targets"].astype(dtype)
    refuse(DTypeError, op, changed(op, targets=wrong), "targets", "integers", wrong.dtype)


def test_says_what_it_expects_of_targets():
    arguments = {"logits": np.ones((2, 3), np.float32), "targets": np.zeros(1, int)}
    message = refuse(ShapeError, "softmax_cross_entropy", arguments, "targets", "n=2")
    assert message == (
        "softmax_cross_entropy: targets must be integers of shape (n,) with n=2, got int64 (1,)"
    )


@pytest.mark.parametrize("op", ["softmax_cross_entropy", "count_correct"])
def test_refuses_probabilities_that_do_not_fit(op):
    good = case(op, n=4, c=3, targets=PROBABILITIES).arguments(np.float32)
    for shape in ((4, 2), (3, 3), (4, 4)):
        wrong = np.ones(shape, np.float32)
        refuse(ShapeError, op, good | {"targets": wrong}, "targets", shape)
    double = good["targets"].astype(np.float64)
    refuse(DTypeError, op, good | {"targets": double}, "targets", "logits", "float64")


def test_refuses_rows_that_are_not_there():
    x = np.zeros((5, 3), np.uint8)
    for dtype in (np.int64, np.int32, np.uint8):
        for row in [5, 100] + ([-1, -6] if np.iinfo(dtype).min < 0 else []):
            index = np.array([0, 4, row], dtype)
            with pytest.raises((ValueError, IndexError), match=f"take_rows.*{row}"):
                ops.take_rows(x, index)
    with pytest.raises((ValueError, IndexError)):
        ops.take_rows(np.zeros((0, 3), np.uint8), np.array([0]))


# ---- numbers ---------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
OUT_OF_RANGE = [
    *((op, "lr", (NAN, INF, -INF, -0.1)) for op in STEPS),
    *((op, "weight_decay", (NAN, INF, -0.1)) for op in STEPS),
    *((op, "eps", (NAN, -1e-8, 0.0)) for op in STEPS if op != "sgd_step"),
    *((op, "beta1", (NAN, -0.1, 1.0, 1.5)) for op in ("adam_step", "radam_step")),
    *((op, "beta2", (NAN, -0.1, 1.0, 1.5)) for op in ("adam_step", "radam_step")),
    *((op, "step", (NAN, 0, -1, 0.5)) for op in ("adam_step", "radam_step")),
    *((op, "momentum", (NAN, -0.1, 1.1)) for op in ("sgd_step", "rmsprop_step")),
    ("sgd_step", "dampening", (NAN, INF, -INF)),
    ("rmsprop_step", "alpha", (NAN, -0.1, 1.1)),
    *((op, "p", (NAN, 1.0, 1.5, -0.1)) for op in ("dropout", "dropout_backward")),
    ("dropout", "seed", (-1, 2**64, -(2**70))),
    *((op, "beta", (NAN, 0.0, -1.0)) for op in ("softplus", "softplus_backward")),
    ("softmax_cross_entropy", "label_smoothing", (NAN, -0.1, 1.1)),
    *((op, "eps", (NAN, 0.0, -1e-5)) for op in ("batch_norm", "layer_norm")),
    ("batch_norm", "momentum", (NAN, -0.1, 1.1)),
    ("clip_grad_norm", "max_norm", (NAN, 0.0, -1.0)),
    ("probe_fma", "rounds", (-1,)),
]


@pytest.mark.parametrize(
    ("op", "name", "values"), OUT_OF_RANGE, ids=[f"{op}-{name}" for op, name, _ in OUT_OF_RANGE]
)
def test_refuses_numbers_out_of_range(op, name, values):
    for value in values:
        for dtype in (np.float32, np.float64):
            shown = f"{value:g}" if isinstance(value, float) else value
            refuse(ValueError, op, changed(op, dtype, **{name: value}), name, shown)


@pytest.mark.parametrize("op", STEPS)
def test_refuses_arrays_of_rates_out_of_range(op):
    refuse(ValueError, op, changed(op, lr=np.array(-1.0)), "lr", "-1")
    refuse(TypeError, op, changed(op, lr=np.array([0.1, 0.2])), "lr")


NUMBERS = [
    (op, field)
    for op in OPS
    for field in OPS[op].of({"REAL", "INT", "SCALAR", "COUNTER", "FLAG", "CHOICE"})
]


@pytest.mark.parametrize(("op", "field"), NUMBERS, ids=ids(NUMBERS))
def test_refuses_numbers_of_another_kind(op, field):
    wrong = [np.ones(3), [1.0], {}, object()]
    if field.kind == "CHOICE":
        for value in [*wrong, 1, 0.5, "nothing", "", None]:
            if value is None and int(field.default) < 0:
                continue
            refuse(ValueError, op, changed(op, **{field.name: value}), field.name, *field.choices)
        return
    wrong += ["text", None] + ([1j] if field.kind != "FLAG" else [])
    wrong += [0.5] if field.kind in ("INT", "COUNTER") else []
    for value in wrong:
        refuse(TypeError, op, changed(op, **{field.name: value}), field.name)


@pytest.mark.parametrize(
    ("op", "changes", "tokens"),
    [
        ("sgd_step", {"velocity": None}, ("velocity", "momentum")),
        ("rmsprop_step", {"velocity": None}, ("velocity", "momentum")),
        ("rmsprop_step", {"grad_avg": None}, ("grad_avg", "centered")),
        ("adam_step", {"max_exp_avg_sq": None}, ("max_exp_avg_sq", "amsgrad")),
        ("sgd_step", {"nesterov": True, "momentum": 0.0}, ("nesterov", "momentum")),
        ("sgd_step", {"nesterov": True, "dampening": 0.5}, ("nesterov", "dampening")),
        ("batch_norm", {"training": False, "running_mean": None}, ("running_mean", "training")),
        ("batch_norm", {"training": False, "running_var": None}, ("running_var", "training")),
        ("batch_norm_backward", {"y": None}, ("y", "relu")),
    ],
)
def test_refuses_options_that_need_another(op, changes, tokens):
    refuse(ValueError, op, changed(op, **changes), *tokens)


def test_refuses_bf16_of_float64():
    for wrong in ({"precision": "bf16"}, {"precision": "fp8"}):
        tokens = ("precision", *wrong.values())
        refuse(ValueError, "matmul", changed("matmul", np.float64, **wrong), *tokens)


@pytest.mark.parametrize("n", [0, -1, 10**6, 1025, 2**70, "a", 1.5, None, True, [1]])
def test_refuses_impossible_thread_counts(n):
    before = fastnn.get_num_threads()
    with pytest.raises(ValueError, match="set_num_threads"):
        fastnn.set_num_threads(n)
    assert fastnn.get_num_threads() == before


def test_refuses_unknown_isa():
    before = fastnn.show_config("dicts")["cpu"]["isa"]
    with pytest.raises(ValueError, match="sse9"):
        fastnn._core.use_isa("sse9")
    assert fastnn.show_config("dicts")["cpu"]["isa"] == before


# ---- other libraries -------------------------------------------------------------------------


class TestTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    def test_refuses_mixed_libraries(self, torch):
        x, t = np.ones((2, 3), np.float32), torch.ones(2, 3)
        for pred, target in ((x, t), (t, x)):
            with pytest.raises(TypeError, match=r"mse.*target") as caught:
                ops.mse(pred, target)
            assert "NumPy" in str(caught.value)
            assert "PyTorch" in str(caught.value)
        with pytest.raises(TypeError, match=r"relu.*out"):
            ops.relu(x, out=t)

    def test_refuses_tensors_that_require_grad(self, torch):
        t = torch.ones(2, 3, requires_grad=True)
        with pytest.raises(TypeError, match=r"relu.*x.*fastnn\.torch"):
            ops.relu(t)
        with pytest.raises(TypeError, match=r"mse.*target.*fastnn\.torch"):
            ops.mse(t.detach(), t)
        with pytest.raises(TypeError, match=r"sgd_step.*param.*fastnn\.torch"):
            ops.sgd_step(torch.nn.Parameter(torch.ones(3)), torch.ones(3), lr=0.1)

    def test_refuses_other_dtypes_and_layouts(self, torch):
        for dtype in (torch.float16, torch.int64, torch.complex64, torch.bool):
            with pytest.raises(DTypeError, match=f"relu.*x.*{str(dtype)[6:]}"):
                ops.relu(torch.ones(3).to(dtype))
        with pytest.raises(TypeError, match=r"relu.*x"):
            ops.relu(torch.eye(3).to_sparse())
        with pytest.raises((TypeError, RuntimeError), match=r"relu.*x"):
            ops.relu(torch.ones(3, device="meta"))
        with pytest.raises(TypeError, match=r"relu.*x"):
            ops.relu(torch.ones(3, dtype=torch.complex64).conj())

    def test_refuses_in_place_writes_to_expanded_tensors(self, torch):
        param = torch.ones(1).expand(3)
        with pytest.raises(ValueError, match=r"sgd_step.*param.*internal overlap"):
            ops.sgd_step(param, torch.ones(3), lr=0.1)

    def test_refuses_overlap(self, torch):
        memory = torch.zeros(10)
        with pytest.raises(ValueError, match=r"relu.*overlap"):
            ops.relu(memory[:8], out=memory[2:])
        assert memory.sum() == 0


class TestJax:
    @pytest.fixture
    def jnp(self):
        return pytest.importorskip("jax.numpy")

    def test_refuses_in_place_ops(self, jnp):
        x = jnp.ones(3)
        with pytest.raises(TypeError, match=r"sgd_step.*param.*fastnn\.jax"):
            ops.sgd_step(x, x, lr=0.1)
        with pytest.raises(TypeError, match=r"clip_grad_norm.*grad.*fastnn\.jax"):
            ops.clip_grad_norm(x, 1.0)
        with pytest.raises(TypeError, match=r"relu.*out.*fastnn\.jax"):
            ops.relu(x, out=x)
        with pytest.raises(TypeError, match=r"batch_norm.*running_mean.*fastnn\.jax"):
            ops.batch_norm(jnp.ones((2, 3)), None, None, x, x)
        assert (x == 1).all()

    def test_refuses_traced_arrays(self, jnp):
        jax = pytest.importorskip("jax")
        with pytest.raises(TypeError, match="relu"):
            jax.jit(ops.relu)(jnp.ones(3))


def test_message_names_every_argument_by_its_place():
    """One form: op: argument must be ..., got ..."""
    message = refuse(
        ShapeError, "softmax_backward", {"dy": np.ones((2, 3)), "y": np.ones((2, 4))}, "y", "c=3"
    )
    assert message.startswith("softmax_backward: y must be ")
    assert message.endswith("got float64 (2, 4)")


def test_every_number_of_the_contract_is_tried():
    tried = {(op, name) for op, name, _ in OUT_OF_RANGE}
    unlimited = {"negative_slope", "threshold", "scale", "offset", "ignore_index"}
    for op, field in NUMBERS:
        if field.kind in ("REAL", "INT", "SCALAR", "COUNTER") and field.name not in unlimited:
            assert (op, field.name) in tried, (op, field.name)
    assert set(REQUIRED) <= {name for _, name in tried}
    assert set(CASES) == set(FULL)

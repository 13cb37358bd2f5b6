"""The same call gives the same bits: on every run, for every number of threads, in any batch."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import DTYPES, PROBABILITIES, case, full
from contract import OPS
from support import ISAS, available_isas, copies, digest, forced_isa, run, threads

from fastnn import ops

# Large enough for four threads, and no multiple of anything.
LARGE = {op: [full(op, 4001, 101)] for op in OPS}
LARGE["matmul"] = [
    case("matmul", m=m, n=n, k=k, **options)
    for m, n, k, options in (
        (257, 301, 513, {}),
        (257, 301, 513, {"transpose_a": True, "activation": "gelu"}),
        (1, 2050, 1030, {}),
        (20001, 10, 65, {"return_preactivation": True, "activation": "relu"}),
        (65, 10, 20001, {"transpose_b": True}),
        (5, 700, 900, {}),
        (9, 13, 50_001, {"transpose_a": True, "activation": "tanh", "return_preactivation": True}),
        (16, 1, 100_003, {}),
        (50_001, 13, 7, {"activation": "tanh", "return_preactivation": True}),
        (257, 301, 513, {"precision": "bf16"}),
    )
]
LARGE["softmax_cross_entropy"] += [
    case("softmax_cross_entropy", n=20001, c=10, reduction="mean"),
    case("softmax_cross_entropy", n=17, c=20001, label_smoothing=0.1),
    case("softmax_cross_entropy", n=1001, c=101, targets=PROBABILITIES),
]
LARGE["batch_norm"] += [
    case("batch_norm", n=7, c=5, s=(8009,)),
    case("batch_norm", n=70001, c=3, s=()),
]
LARGE["batch_norm_backward"] += [case("batch_norm_backward", n=7, c=5, s=(8009,))]
LARGE["softmax"] += [case("softmax", n=3, c=100_003)]
LARGE["layer_norm_backward"] += [case("layer_norm_backward", n=20001, c=33)]
LARGE["column_sum"] += [case("column_sum", n=70001, c=3)]
LARGE["probe_fma"] = [case("probe_fma", n=100_003, rounds=31)]

CALLS = [
    pytest.param(chosen, dtype, id=f"{op}-{dtype}-{chosen}")
    for op in OPS
    for chosen in LARGE[op]
    for dtype in chosen.dtypes
]


@pytest.mark.parametrize(("chosen", "dtype"), CALLS)
def test_threads_make_no_difference(chosen, dtype):
    arguments = chosen.arguments(DTYPES[dtype])
    digests = []
    for n in (1, 2, 3, 4, 4):
        with threads(n):
            digests.append(digest(run(chosen.op, copies(arguments))))
    assert len(set(digests)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_threads_are_used():
    a = np.ones((512, 512), np.float32)
    with threads(4):
        ops.matmul(a, a)
        assert len(os.listdir("/proc/self/task")) >= 4


@pytest.mark.parametrize("isa", ISAS, indirect=True)
def test_threads_make_no_difference_at_any_isa(isa):
    for op in ("matmul", "softmax_cross_entropy", "batch_norm", "l2_norm", "column_sum"):
        arguments = LARGE[op][0].arguments(np.float32)
        digests = set()
        for n in (1, 3):
            with threads(n):
                digests.add(digest(run(op, copies(arguments))))
        assert len(digests) == 1


def test_isa_levels_agree_on_large_arrays():
    if len(available_isas()) < 2:
        pytest.skip("this CPU has one level only")
    for op in OPS:
        for chosen in LARGE[op]:
            arguments = chosen.arguments(np.float32)
            digests = set()
            for isa in available_isas():
                with forced_isa(isa):
                    digests.add(digest(run(op, copies(arguments))))
            assert len(digests) == 1, chosen


# ---- a row in any batch ----------------------------------------------------------------------

ELEMENTWISE = [
    op.name
    for op in OPS.values()
    if {field.shape for field in op.of({"IN", "OUT"})} == {("n...",)} and not op.in_place
]
ROWWISE = ["softmax", "softmax_backward", "log_softmax", "log_softmax_backward", "layer_norm"]
PARTS = [slice(0, b) for b in (1, 2, 3, 5, 7, 8, 9, 17, 31, 64)]
PARTS += [slice(1, 2), slice(3, 20), slice(66, 67), slice(40, 67)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ROWWISE + ELEMENTWISE)
def test_row_does_not_depend_on_its_batch(op, dtype):
    if op == "dropout":
        return  # its random bits count the elements
    case_options = {"c": 37} if op in ROWWISE else {}
    for columns in (10, 37):
        dims = {"n": 67, "c": columns} if case_options else {"n": (67, columns)}
        arguments = case(op, **dims).arguments(DTYPES[dtype])
        whole = run(op, arguments)
        for part in PARTS:
            some = {k: v[part] if np.ndim(v) else v for k, v in arguments.items()}
            for name, value in run(op, some).items():
                np.testing.assert_array_equal(value, whole[name][part])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(
    ("n", "k"), [(10, 33), (10, 700), (1, 50), (33, 300), (301, 129), (64, 64)]
)
def test_row_of_a_product_does_not_depend_on_its_batch(n, k, transpose_b, dtype):
    chosen = case("matmul", m=67, n=n, k=k, transpose_b=transpose_b, activation="gelu")
    arguments = chosen.arguments(DTYPES[dtype])
    whole = run("matmul", arguments)["y"]
    for part in PARTS:
        y = run("matmul", arguments | {"a": arguments["a"][part]})["y"]
        np.testing.assert_array_equal(y, whole[part])
        column_major = np.asfortranarray(arguments["a"][part])
        np.testing.assert_array_equal(run("matmul", arguments | {"a": column_major})["y"], y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_of_a_large_product_does_not_depend_on_its_batch(dtype):
    arguments = case("matmul", m=1500, n=130, k=513).arguments(DTYPES[dtype])
    whole = run("matmul", arguments)["y"]
    for rows in (1, 6, 128, 500, 1000, 1499):
        y = run("matmul", arguments | {"a": arguments["a"][:rows]})["y"]
        np.testing.assert_array_equal(y, whole[:rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [10, 37, 1000])
def test_loss_of_a_row_does_not_depend_on_its_batch(c, dtype):
    arguments = case("softmax_cross_entropy", n=67, c=c, reduction="none").arguments(DTYPES[dtype])
    loss, gradient = ops.softmax_cross_entropy(**arguments)
    for part in PARTS:
        some = {k: v[part] if np.ndim(v) else v for k, v in arguments.items()}
        some_loss, some_gradient = ops.softmax_cross_entropy(**some)
        np.testing.assert_array_equal(some_loss, loss[part])
        np.testing.assert_array_equal(some_gradient, gradient[part])


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference_of_a_row_does_not_depend_on_its_batch(dtype):
    arguments = full("batch_norm", 67, 37).arguments(DTYPES[dtype])
    arguments |= {"training": False, "activation": "relu"}
    y = run("batch_norm", arguments)["y"]
    for part in PARTS:
        some = run("batch_norm", arguments | {"x": arguments["x"][part]})
        np.testing.assert_array_equal(some["y"], y[part])


# ---- callers side by side ----------------------------------------------------------------------


def test_twelve_python_threads_get_the_bits_of_one():
    calls = [full(op, 301, 101) for op in OPS] + [LARGE["matmul"][0], LARGE["column_sum"][0]]
    arguments = [chosen.arguments(np.float32) for chosen in calls]
    alone = [
        digest(run(chosen.op, copies(given)))
        for chosen, given in zip(calls, arguments, strict=True)
    ]

    def everything(start):
        order = [(start + i) % len(calls) for i in range(len(calls))]
        return {i: digest(run(calls[i].op, copies(arguments[i]))) for i in order}

    with threads(3), ThreadPoolExecutor(12) as pool:
        for digests in pool.map(everything, range(0, 24, 2)):
            assert [digests[i] for i in range(len(calls))] == alone


def test_labels_changed_during_a_call_do_no_harm():
    """Another thread writes any labels at any time: refused or computed, never a crash."""
    logits = np.random.default_rng(1).standard_normal((3000, 10)).astype(np.float32)
    labels, stop = np.zeros(3000, np.int64), []

    def disturb():
        while not stop:
            labels[::7] = 2**40
            labels[::7] = 3

    losses, refusals = [], []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(disturb)
        try:
            for _ in range(300):
                try:
                    losses.append(ops.softmax_cross_entropy(logits, labels)[0])
                except ValueError as error:
                    refusals.append(str(error))
        finally:
            stop.append(True)
    assert len(losses) + len(refusals) == 300
    assert np.isfinite(losses).all()
    assert all(f"label {2**40} at row" in message for message in refusals)

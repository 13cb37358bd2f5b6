"""Where a step's time goes: FLOPs and bytes of every call, stages of a Trainer, `--profile`."""

import json

import numpy as np
import pytest
from cases import CASES, DTYPES, execute, full
from contract import OPS
from test_cli import run
from trainers import Plain, data, fingerprint, network, trainer

import fastnn as fnn
from fastnn import _core, curve_profile, ops
from fastnn.engine import Stage

PROFILED = {"variant", "batch", "update_us", "floor_us", "stages"}
STAGE = {"name", "us", "share", "flops", "bytes", "gflops", "share_of_peak", "gbs"}

# ---- what a call has to do -------------------------------------------------------------------


def recorded(op, arguments):
    """A plan of one call, and all that the call writes."""
    for field in OPS[op].of({"SCALAR", "COUNTER"}):
        if field.name in arguments:
            dtype = np.float64 if field.kind == "SCALAR" else np.int64
            arguments[field.name] = np.array(arguments[field.name], dtype)
    plan = _core.Plan(_core.Arena())
    with plan:
        written = execute(getattr(ops, op), op, arguments)
    return plan, written


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", OPS)
def test_bytes_are_those_of_the_arrays(op, dtype):
    for each in [*CASES[op], full(op, 5, 7)]:
        if dtype not in map(DTYPES.get, each.dtypes):
            continue
        arguments = each.arguments(dtype)
        arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
        if not all(array.size for array in arrays):
            continue
        plan, written = recorded(op, arguments)
        moved = sum(array.nbytes for array in [*arrays, *map(np.asarray, written.values())])
        assert [work[2] for work in plan.work] == [moved], f"{op} {each}"


def test_flops_are_those_of_products():
    a, b = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
    at, bt = a.T.copy(), b.T.copy()
    plan = _core.Plan(_core.Arena())
    with plan:
        ops.matmul(a, b)
        ops.matmul(at, b, transpose_a=True)
        ops.matmul(a, bt, transpose_b=True)
        ops.relu(a)
    names = ["matmul 3x5x7", "matmul 3x5x7 a.T", "matmul 3x5x7 b.T", "relu 15"]
    assert [(name, flops) for name, flops, _ in plan.work] == [
        (name, 2 * 3 * 5 * 7 * (name != "relu 15")) for name in names
    ]


def test_names_tell_shapes():
    x, labels = np.ones((3, 5), np.float32), np.zeros(3, np.int64)
    plan = _core.Plan(_core.Arena())
    with plan:
        ops.batch_norm(x)
        ops.batch_norm(np.ones((3, 5, 4), np.float32))
        ops.softmax_cross_entropy(x, labels)
    assert [name for name, _, _ in plan.work] == [
        "batch_norm 3x5",
        "batch_norm 3x5x4",
        "softmax_cross_entropy 3x5",
    ]


# ---- a Trainer's stages ----------------------------------------------------------------------


def test_a_profile_makes_the_updates_of_steps():
    x, y = data(64)
    ours, other = trainer(), trainer()
    stages = ours.profile(x, y, batch_size=32, n=5)
    other.steps(x, y, batch_size=32, n=5)
    assert fingerprint(ours) == fingerprint(other)
    assert all(isinstance(stage, Stage) for stage in stages)
    assert all(stage.bytes > 0 for stage in stages)
    assert all(0 <= stage.seconds < 1 for stage in stages)
    assert sum(stage.seconds for stage in stages) > 0
    assert stages[0].name == "matmul 32x20x32"


def test_a_fused_product_counts_the_optimizer_but_no_gradient():
    x, y = data(64)
    hidden = 160
    fused, apart = (
        trainer(network(hidden=hidden), check_finite=check).profile(x, y, batch_size=64, n=1)
        for check in (False, True)
    )
    (stage,) = [stage for stage in fused if "+ adam_step" in stage.name]
    assert stage.name == f"matmul + adam_step {hidden}x64x{hidden} a.T"
    assert stage.flops == 2 * hidden * 64 * hidden
    # two factors; weight and two moments, read and written
    assert stage.bytes == 4 * (2 * 64 * hidden + 6 * hidden * hidden)
    assert sum(each.flops for each in fused) == sum(each.flops for each in apart)
    unread = 4 * 2 * hidden * hidden  # a gradient that is not written, nor read
    checked = sum(each.bytes for each in apart if each.name.startswith("first_nonfinite"))
    again = 4 * 64 * hidden  # by a column_sum of its own
    assert sum(e.bytes for e in fused) == sum(e.bytes for e in apart) - checked - unread + again


def test_epilogues_count_what_a_product_has_not():
    x, y = data(64)
    model = fnn.Sequential(fnn.Linear(20, 200), fnn.ReLU(), fnn.Linear(200, 5))
    work = {stage.name: stage for stage in trainer(model).profile(x, y, batch_size=64, n=1)}
    gated = work["matmul + relu_backward 64x5x200 b.T"]
    assert gated.bytes == 4 * (64 * 5 + 5 * 200 + 2 * 64 * 200)  # factors, gradient, gate
    summed = work["matmul + column_sum 200x64x5 a.T"]
    assert summed.bytes == 4 * (200 * 64 + 64 * 5 + 200 * 5 + 5)  # factors, gradient, sum


def test_a_fused_norm_is_left_by_the_stages():
    x, y = data(64)
    ours = trainer(network(hidden=160))
    ours.fit(x, y, batch_size=64)
    (program,) = [each for key, each in ours._programs.kept.items() if key[0] == "fit"]
    norms = [work for work in program.work if work[0].startswith("l2_norm")]
    assert norms[-1][0] == "l2_norm of parts"
    assert all(flops == 0 and nbytes > 0 for _, flops, nbytes in norms)


def test_steps_that_cannot_be_recorded_have_no_stages():
    x, y = data(64)
    ours = trainer(Plain(fnn.Linear(20, 5)))
    with pytest.raises(TypeError, match="recorded"):
        ours.profile(x, y, batch_size=32, n=1)
    assert ours.updates == 0


def test_wrong_arguments_name_the_method():
    x, y = data(64)
    with pytest.raises(ValueError, match="profile: batch_size must be at most 64"):
        trainer().profile(x, y, batch_size=65, n=1)


# ---- the command line ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """`fastnn curve --quick --profile`: (its output, its JSON file)."""
    folder = tmp_path_factory.mktemp("profile")
    result = run(folder, "curve", "--quick", "--profile", "--json", "curve.json")
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads((folder / "curve.json").read_text())


def test_profiles_are_in_the_file(quick):
    profiles = quick[1]["profiles"]
    plain = [("plain", batch) for batch in (1, 64, 1000)]
    found = [(each["variant"], each["batch"]) for each in profiles]
    assert found == plain + [("batch-norm", batch) for batch in (64, 1000)]
    for profile in profiles:
        assert set(profile) == PROFILED
        flops = sum(stage["flops"] for stage in profile["stages"])
        assert flops == profile["batch"] * quick[1]["floor"]["flops_per_sample"]
        for stage in profile["stages"]:
            assert set(stage) == STAGE
            assert stage["share"] == pytest.approx(stage["us"] / profile["update_us"])


def test_profiles_are_tables(quick):
    lines = quick[0].splitlines()
    start = lines.index("batch-norm, batch 1000")
    table = lines[start + 2 : lines.index("", start + 2)]
    assert len({line.count("|") for line in table}) == 1
    assert len({len(line) for line in table}) == 1
    assert [line.split("|")[1].strip() for line in table[-3:]] == [
        "outside the stages",
        "update",
        "floor",
    ]
    assert any(line.startswith("| matmul 1000x784x512 ") for line in table)


def test_without_the_option_there_is_no_profile(tmp_path):
    result = run(tmp_path, "curve", "--quick", "--batches", "4", "--variants", "plain")
    assert json.loads((tmp_path / "batch_size_curve.json").read_text())["profiles"] == []
    assert "stage" not in result.stdout


def test_a_table_adds_up():
    stages = [Stage("matmul 2x3x4", 48, 104, 3e-6), Stage("relu 8", 0, 64, 1e-6)]
    profile = curve_profile.Profile("plain", 2, 5e-6, 2e-6, 0.032, stages)
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in curve_profile.profile_table(profile).splitlines()
    ]
    assert cells[2:] == [
        ["matmul 2x3x4", "3.0", "60%", "0", "50%", "0"],
        ["relu 8", "1.0", "20%", "", "", "0"],
        ["outside the stages", "1.0", "20%", "", "", ""],
        ["update", "5.0", "100%", "", "", ""],
        ["floor", "2.0", "40%", "", "", ""],
    ]

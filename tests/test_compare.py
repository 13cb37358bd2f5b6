"""benchmarks/compare.py on files made up for it."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "compare.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare", SCRIPT)
    module = sys.modules["compare"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["compare"]


def samples(median, spread=0.02, n=60, seed=0):
    """Times around a median."""
    return list(median * np.random.default_rng(seed).normal(1, spread, n))


def curve_file(times, peak=200.0, floor=50.0):
    """As `fastnn curve` writes them: {(variant, batch): microseconds}."""
    rows = [
        {
            "variant": variant,
            "batch": batch,
            "library": library,
            "floor_us": floor,
            "update_samples_us": taken if library == "fastnn" else [1.0],
        }
        for (variant, batch), taken in times.items()
        for library in ("fastnn", "torch")
    ]
    return {"probe": {"peak_gflops": peak}, "rows": rows}


def ops_file(times, peak=200.0, floor=None):
    """As benchmarks/cpu.py writes them: {name: microseconds}."""
    rows = [
        {"name": name, "library": "fastnn", "samples_us": taken, "floor_us": floor}
        for name, taken in times.items()
    ]
    return {"probe": {"peak_gflops": peak}, "rows": rows}


def pytest_file(times, peak=200.0, share=None):
    """As pytest-benchmark writes them, with conftest.py's facts: {group: seconds}."""
    benchmarks = [
        {
            "name": f"test[{name}-{library}]",
            "group": name,
            "extra_info": {"library": library} | ({"share_of_floor": share} if share else {}),
            "stats": {"median": float(np.median(taken)), "data": taken},
        }
        for name, taken in times.items()
        for library in ("fastnn", "torch")
    ]
    return {"machine_info": {"probe": {"peak_gflops": peak}}, "benchmarks": benchmarks}


@pytest.fixture
def run(compare, tmp_path, capsys):
    """Compares two reports: (exit status, lines of the output)."""

    def compared(old, new, *options):
        files = [tmp_path / "old.json", tmp_path / "new.json"]
        for file, report in zip(files, (old, new), strict=True):
            file.write_text(report if isinstance(report, str) else json.dumps(report))
        status = compare.main([*map(str, files), *options])
        captured = capsys.readouterr()
        return status, (captured.out + captured.err).splitlines()

    return compared


# ---- verdicts --------------------------------------------------------------------------------


def test_the_same_file_twice_is_no_change(run):
    report = curve_file({("plain", 8): samples(100), ("plain", 64): samples(300)})
    assert run(report, report) == (0, ["2 rows: 0 slower, 0 faster"])


def test_noise_is_no_change(run):
    old, new = (curve_file({("plain", 8): samples(100, 0.2, 30, seed)}) for seed in (1, 2))
    assert run(old, new)[0] == 0


def test_a_wide_spread_hides_a_change_that_a_narrow_one_shows(run):
    for spread, status in ((0.5, 0), (0.01, 1)):
        old, new = (
            curve_file({("plain", 8): samples(median, spread, 12, seed)})
            for seed, median in ((1, 100), (2, 108))
        )
        assert run(old, new)[0] == status


def test_slower_is_exit_1_and_comes_first(run):
    old = curve_file({("plain", 1): samples(10), ("plain", 8): samples(100)})
    new = curve_file({("plain", 1): samples(8, seed=1), ("plain", 8): samples(120, seed=2)})
    status, lines = run(old, new)
    assert status == 1
    assert "update, plain, batch 8" in lines[2]
    assert lines[2].split("|")[4].strip().startswith("1.2")
    assert lines[2].split("|")[6].strip() == "slower"
    assert "update, plain, batch 1 " in lines[3]
    assert lines[3].split("|")[6].strip() == "faster"
    assert lines[-1] == "2 rows: 1 slower, 1 faster"


def test_faster_is_exit_0(run):
    old, new = (curve_file({("plain", 8): samples(t, seed=int(t))}) for t in (100, 50))
    status, lines = run(old, new)
    assert status == 0
    assert lines[-1] == "1 rows: 0 slower, 1 faster"


def test_the_threshold_is_what_counts(run):
    old, new = (curve_file({("plain", 8): samples(t, 0.005, seed=int(t))}) for t in (100, 104))
    assert run(old, new)[0] == 0
    assert run(old, new, "--threshold", "0.02")[0] == 1
    assert run(old, new, "--threshold", "0")[0] == 1


def test_all_shows_every_row(run):
    report = curve_file({("plain", 8): samples(100), ("plain", 64): samples(300)})
    assert sum(line.startswith("| update") for line in run(report, report, "--all")[1]) == 2


# ---- what times are measured by --------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            curve_file({("plain", 8): samples(100)}),
            curve_file({("plain", 8): samples(200)}, 1, 100),
        ),
        (ops_file({"a": samples(100)}), ops_file({"a": samples(200)}, peak=100.0)),
        (ops_file({"a": samples(100)}, 1, 50), ops_file({"a": samples(200)}, 1, 100)),
        (pytest_file({"a": samples(1e-4)}), pytest_file({"a": samples(2e-4)}, peak=100.0)),
        (
            pytest_file({"a": samples(1e-4)}, share=0.5),
            pytest_file({"a": samples(2e-4)}, share=0.5),
        ),
    ],
    ids=["curve", "cpu, peak", "cpu, floor", "pytest, peak", "pytest, floor"],
)
def test_a_slower_machine_is_no_change(run, old, new):
    assert run(old, new)[0] == 0


def test_a_lower_share_of_the_floor_is_slower(run):
    old = pytest_file({"a": samples(1e-4)}, share=0.5)
    new = pytest_file({"a": samples(1e-4, seed=1)}, share=0.4)
    assert run(old, new)[0] == 1


def test_kinds_of_files_compare_by_the_names_of_rows(run):
    name = "update, plain, batch 8"
    old = curve_file({("plain", 8): samples(100)})
    new = pytest_file({name: samples(2e-4)}, share=0.5)
    assert run(old, new)[0] == 0  # both at half of their floor


def test_rows_of_one_file_alone_are_told(run):
    old = curve_file({("plain", 8): samples(100), ("plain", 64): samples(300)})
    new = curve_file({("plain", 8): samples(100), ("batch-norm", 8): samples(100)})
    status, lines = run(old, new)
    assert status == 0
    assert "only in OLD: update, plain, batch 64" in lines
    assert "only in NEW: update, batch-norm, batch 8" in lines


def test_the_band_is_the_same_every_time(compare):
    old, new = (compare.Row(np.array(samples(t, n=1000)), 1.0) for t in (1.0, 1.1))
    first, second = (compare.change("a", old, new) for _ in range(2))
    assert first[3:] == second[3:]
    assert first.low < first.ratio < first.high
    assert first.high - first.low < 0.02


# ---- wrong usage -----------------------------------------------------------------------------


GOOD = curve_file({("plain", 8): samples(100)})
UNTIMED = pytest_file({"a": [1.0]})
UNTIMED["benchmarks"][0]["stats"].pop("data")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "no file of results"),
        ("[1]", "no file of results"),
        ({"rows": []}, "no file of results"),
        (curve_file({}), "no rows"),
        (curve_file({("plain", 8): []}), "without samples"),
        (curve_file({("plain", 8): [1.0]}, floor=-1.0), "not positive"),
        (UNTIMED, "--benchmark-json"),
        (curve_file({("other", 8): [1.0]}), "no row in common"),
    ],
)
def test_what_cannot_be_compared_is_exit_2(run, bad, reason):
    status, lines = run(GOOD, bad)
    assert status == 2
    assert len(lines) == 1
    assert reason in lines[0]


def test_a_missing_file_is_exit_2(compare, tmp_path, capsys):
    assert compare.main([str(tmp_path / "none"), str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("args", [(), ("one",), ("one", "two", "--threshold", "2")])
def test_wrong_usage_is_exit_2(compare, args, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare.main(args)
    assert stopped.value.code == 2
    assert "usage: compare.py" in capsys.readouterr().err

"""benchmarks/cpu.py: that it runs, what it writes, and how its figures come about."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SECTIONS = ("ops", "networks", "calls", "bf16", "busy", "epochs", "sklearn", "memory")
TIMED = SECTIONS[:-1]

pytest.importorskip("threadpoolctl")


def run(script, *args, folder=None):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, args)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """`cpu.py --quick --out`: (folder, its output, its reports by section)."""
    folder = tmp_path_factory.mktemp("cpu")
    result = run("cpu.py", "--quick", "--out", folder)
    assert result.returncode == 0, result.stderr
    reports = {name: json.loads((folder / f"cpu-{name}.json").read_text()) for name in SECTIONS}
    return folder, result.stdout, reports


@pytest.fixture
def modules(monkeypatch):
    """(cpu.py, cpu_sections.py) as modules."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cpu
    import cpu_sections

    return cpu, cpu_sections


def test_every_section_is_a_file(quick):
    folder, _, reports = quick
    assert {file.name for file in folder.iterdir()} == {f"cpu-{name}.json" for name in SECTIONS}
    for name, report in reports.items():
        assert report["section"] == name
        assert report["probe"]["peak_gflops"] > 0
        assert {"cpu", "threads", "commit", "peers", "time"} <= set(report["machine"])
        assert report["machine"]["threads"] == 1
        assert report["results"]


def test_files_have_every_sample(quick):
    for name in TIMED:
        rows = quick[2][name]["rows"]
        assert any(row["library"] == "fastnn" for row in rows)
        for row in rows:
            assert row["median_us"] == pytest.approx(np.median(row["samples_us"]))
            assert min(row["samples_us"]) > 0
            assert row["floor_us"] is None or row["floor_us"] > 0


def test_results_have_goals(quick):
    found = [result for report in quick[2].values() for result in report["results"]]
    assert len({result["name"] for result in found}) == len(found)
    for result in found:
        goal = result["goal"]
        if goal is None or result["measured"] is None:
            assert result["met"] is None
        else:
            below = result["measured"] < goal["value"]
            assert result["met"] == (below == goal["most"])


def test_memory_tells_bytes(quick):
    for result in quick[2]["memory"]["results"]:
        assert result["needed_bytes"] > 4 * 3 * 669_706
        assert result["measured"] == pytest.approx(
            result["grown_bytes"] / result["needed_bytes"], abs=1e-9
        )
        assert 0.5 < result["measured"] < 20


def test_output_is_markdown(quick):
    tables = [line for line in quick[1].splitlines() if line.startswith("|")]
    results = sum(len(report["results"]) for report in quick[2].values())
    assert len(tables) == results + 2 * len(SECTIONS)
    heads = [line for line in tables if "measured" in line]
    assert len(heads) == len(SECTIONS)
    assert all("goal" in line for line in heads)


def test_files_compare(quick):
    for name in TIMED:
        file = quick[0] / f"cpu-{name}.json"
        result = run("compare.py", file, file)
        assert result.returncode == 0, result.stderr
        assert "0 slower, 0 faster" in result.stdout


def test_a_quick_run_writes_nothing(tmp_path):
    before = {file: file.stat().st_mtime for file in (BENCHMARKS / "results").iterdir()}
    assert run("cpu.py", "--quick", "--only", "calls", folder=tmp_path).returncode == 0
    assert {file: file.stat().st_mtime for file in (BENCHMARKS / "results").iterdir()} == before
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_exit_2(tmp_path):
    result = run("cpu.py", "--only", "gpu", folder=tmp_path)
    assert result.returncode == 2
    assert "choose from ops" in result.stderr


# ---- figures ---------------------------------------------------------------------------------


def test_the_best_peer_counts(modules):
    sections = modules[1]
    samples = {"fastnn": [2.0, 1.0, 3.0], "torch": [8.0], "numpy": [5.0, 6.0, 7.0]}
    row = sections.against_peers("a", samples, 2.0, floor=1.0)
    assert row.measured == 3.0
    assert row.goal.met(row.measured)
    assert not sections.Goal(3.5, "x best peer").met(row.measured)
    assert sections.Goal(3.5, "us", most=True).met(row.measured)


def test_a_table_without_peers(modules):
    cpu, sections = modules
    rows = [
        sections.against_peers("alone", {"fastnn": [2e-6]}, None, floor=1e-6),
        sections.Row("slow", {"fastnn": [0.5]}, 7.0, "us", sections.Goal(6, "us", most=True)),
    ]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(cpu, rows)]
    assert cells == [
        ["alone", "2", "0.50", "", "", ""],
        ["slow", "500000", "", "7.00 us", "at most 6 us", "no"],
    ]


def table(cpu, rows):
    return cpu.table(rows).splitlines()[2:]


def test_products_of_a_step_are_told_apart(modules):
    names = [str(op) for op in modules[1].step_products((1, 128))]
    assert len(set(names)) == len(names) == 16
    assert "matmul 784x128x512 a.T" in names
    assert "matmul 128x784x512" in names
    assert "matmul 128x512x512 b.T" in names
    assert len({str(op) for op in modules[1].all_ops()}) == len(modules[1].all_ops())

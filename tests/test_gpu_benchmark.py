"""benchmarks/gpu.py: rehearsed on the emulator, so that it runs where there is a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "simt"))
import simt_build

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytest.importorskip("torch")
if simt_build.missing():
    pytest.skip(f"the emulator needs {simt_build.missing()}", allow_module_level=True)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """`gpu.py --rehearse --out`: (folder, its output, its report)."""
    folder = tmp_path_factory.mktemp("gpu")
    kept = os.environ.get("FASTNN_SIMT_BUILD_DIR", str(tmp_path_factory.mktemp("simt")))
    before = {file: file.stat().st_mtime for file in (BENCHMARKS / "results").iterdir()}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--rehearse", "--out", str(folder)]
    environment = os.environ | {"FASTNN_SIMT_BUILD_DIR": kept}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file: file.stat().st_mtime for file in (BENCHMARKS / "results").iterdir()} == before
    return folder, done.stdout, json.loads((folder / "gpu.json").read_text("utf-8"))


def test_every_job_ran(rehearsed):
    report = rehearsed[2]
    assert report["failed"] == {}
    assert report["left_out"] == []
    assert set(report["rows"]) == {"products", "kernels", "steps"}
    assert all(report["rows"].values())
    names = [row["name"] for rows in report["rows"].values() for row in rows]
    assert len(set(names)) == len(names)


def test_the_report_says_where_it_comes_from(rehearsed):
    machine = rehearsed[2]["machine"]
    assert machine["gpu"].startswith("emulated")
    assert machine["rehearsal"] is True
    assert {"driver", "commit", "peers", "time", "fastnn"} <= set(machine)
    assert rehearsed[2]["copy_bytes_per_second"] > 0
    assert set(rehearsed[2]["flops_per_second"]) == {"float32", "tf32", "bf16"}


def test_rows_have_every_sample(rehearsed):
    for rows in rehearsed[2]["rows"].values():
        for row in rows:
            assert {"fastnn", "torch"} <= set(row["samples"])
            for kinds in row["samples"].values():
                assert all(second > 0 for taken in kinds.values() for second in taken)
            assert row["samples"]["fastnn"]["device"]
            assert row["samples"]["fastnn"]["wall"]
            assert (row["met"] is None) == (row["solid"] is None or row["measured"] is None)


def test_files_and_tables(rehearsed):
    folder, printed, report = rehearsed
    assert {file.name for file in folder.iterdir()} == {
        "gpu.json",
        "gpu.md",
        "gpu-batch-size-curve.png",
    }
    text = (folder / "gpu.md").read_text("utf-8")
    assert text.strip() in printed
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == sum(len(rows) + 2 for rows in report["rows"].values())

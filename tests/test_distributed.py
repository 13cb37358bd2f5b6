"""Trainers on several processes of this machine: the same training as on one."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import several
from readme import example

import fastnn as fnn
from fastnn.__main__ import main
from fastnn.sampler import Batches, cut

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="mpi4py or mpiexec is not installed",
)
ALIKE = (
    *("plain", "double", "weighted", "summed", "squared", "some_ignored", "of_ones_own"),
    *("gradients", "single_steps", "batch_norm"),
)
OTHERS = ("own_batch_norm", "dropout", "not_finite", "too_small", "unsaved")


def launch(processes, *command, folder):
    """Run a Python program on some processes of this machine."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), *sys.path])),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",  # in a container
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # on fewer cores
        "FASTNN_NUM_THREADS": "1",
    }
    return subprocess.run(
        [MPIEXEC, "-n", str(processes), sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run(processes, *jobs, folder):
    """What each rank is left with after each job: {job: [{name: array}]}."""
    result = launch(processes, HERE / "several.py", folder, *jobs, folder=folder)
    assert result.returncode == 0, result.stderr
    return {
        job: [dict(np.load(folder / f"{job}-{rank}.npz")) for rank in range(processes)]
        for job in jobs
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """All jobs by number of processes."""
    folders = {n: tmp_path_factory.mktemp(f"ranks{n}") for n in (2, 3)}
    return {
        2: run(2, *ALIKE, *OTHERS, "stops", "alone_again", "interrupted", folder=folders[2]),
        3: run(3, *ALIKE, *OTHERS, folder=folders[3]),
    }


both = pytest.mark.parametrize("processes", [2, 3])


@needs_mpi
@both
@pytest.mark.parametrize("job", ALIKE)
def test_several_processes_do_what_one_does(found, processes, job):
    alone = getattr(several, job)(None)
    first, *_ = found[processes][job]
    for name, array in alone.items():
        if name == "hash" or (job == "batch_norm" and name.startswith("array.")):
            continue  # a bias before batch norm has a gradient of rounding errors alone
        tolerance = 1e-9 if np.asarray(array).dtype == np.float64 and job == "double" else 1e-6
        np.testing.assert_allclose(first[name], array, tolerance, tolerance, err_msg=name)


@needs_mpi
@both
@pytest.mark.parametrize("job", [*ALIKE, "own_batch_norm", "dropout"])
def test_all_ranks_have_the_same_bits(found, processes, job):
    first, *others = found[processes][job]
    for other in others:
        assert first.keys() == other.keys()
        assert all(np.array_equal(first[name], other[name]) for name in first)


@needs_mpi
def test_a_second_run_has_the_same_bits(found, tmp_path):
    again = run(2, "plain", "own_batch_norm", "batch_norm", "dropout", folder=tmp_path)
    for job, (rank, _) in again.items():
        assert rank["hash"] == found[2][job][0]["hash"]


@needs_mpi
@both
@pytest.mark.parametrize("job", ["own_batch_norm", "dropout"])
def test_what_each_rank_has_of_its_own_still_learns(found, processes, job):
    losses = found[processes][job][0]["epochs.loss"]
    assert losses[-1] < 0.9 * losses[0]


@needs_mpi
@both
def test_refusals_reach_every_rank(found, processes):
    for rank in found[processes]["not_finite"]:
        assert "is not finite" in str(rank["message"])
        assert rank["same"]
    for rank in found[processes]["too_small"]:
        assert f"{processes} ranks need batches of {processes}, got 1" in str(rank["message"])
    for rank in found[processes]["unsaved"]:
        assert "no folder" in str(rank["message"])


@needs_mpi
def test_one_callback_stops_all(found):
    assert [int(rank["epochs"]) for rank in found[2]["stops"]] == [1, 1]


@needs_mpi
def test_the_model_can_be_trained_alone_afterwards(found):
    _, second = found[2]["alone_again"]
    assert np.isfinite(second["loss"])


@needs_mpi
@pytest.mark.parametrize("job", ["killed", "raises"])
def test_a_rank_that_dies_ends_the_others_and_the_checkpoint_resumes(found, tmp_path, job):
    result = launch(2, HERE / "several.py", tmp_path, job, folder=tmp_path)
    assert result.returncode != 0
    if job == "raises":
        assert "ZeroDivisionError" in result.stderr
        assert "fastnn: rank 1 of 2 failed; ending all ranks" in result.stderr
    else:
        assert "signal" in (result.stderr + result.stdout).lower()
    ((resumed, _),) = run(2, "resumed", folder=tmp_path).values()
    assert resumed["hash"] == found[2]["interrupted"][0]["hash"]


@needs_mpi
def test_command_line(tmp_path, capsys):
    train = ["train", "--dataset", "digits", "--hidden", "32", "--no-batch-norm", "--epochs", "2"]
    files = ("--save", "m.safetensors", "--json", "m.json")
    several = launch(2, "-m", "fastnn", *train, "--distributed", "mpi", *files, folder=tmp_path)
    assert several.returncode == 0, several.stderr
    assert main([*train, "--out", str(tmp_path)]) == 0
    alone = capsys.readouterr().out
    without_times = [
        [line.rpartition(",")[0] for line in text.splitlines() if line.startswith("epoch")]
        for text in (several.stdout, alone)
    ]
    assert without_times[0] == without_times[1]
    assert several.stdout.splitlines()[-1] == alone.splitlines()[-1]
    assert fnn.Trainer.load(tmp_path / "m.safetensors").epochs == 2
    assert json.loads((tmp_path / "m.json").read_text())["test"]["samples"] == 360


@needs_mpi
def test_command_line_that_fails(tmp_path):
    train = ("-m", "fastnn", "train", "--dataset", "digits", "--distributed", "mpi")
    failed = launch(2, *train, "--resume", "nowhere.safetensors", folder=tmp_path)
    assert failed.returncode != 0
    assert "nowhere.safetensors" in failed.stderr


@needs_mpi
def test_readme_example_runs(tmp_path):
    (tmp_path / "train.py").write_text(example("Several processes"))
    result = launch(2, "train.py", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.split()
    assert first == second
    assert float(first) > 0.9


def test_without_mpi4py_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"fastnn\[mpi\]"):
        several.trainer("mpi")


def test_refuses_other_names():
    with pytest.raises(ValueError, match="distributed must be 'mpi'"):
        several.trainer("nccl")


def test_too_few_rows_join_the_batch_before():
    assert cut(0, 22, 10, drop_last=False, least=3) == [Batches(0, 10, 1), Batches(10, 12, 1)]
    assert cut(0, 23, 10, drop_last=False, least=3) == [Batches(0, 10, 2), Batches(20, 3, 1)]

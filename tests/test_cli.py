"""The command line as its users meet it: a process, its output, its files and its exit status."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn.__main__ import main

CLOSING = re.compile(r"test accuracy: (\d\.\d{4}) \((\d+) samples\)")
# A proxy that refuses every connection: no download can succeed, nor wait.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")


def run(folder, *args, command=(sys.executable, "-m", "fastnn"), **environment):
    env = {name: value for name, value in os.environ.items() if name != "FASTNN_DATA"}
    return subprocess.run(
        [*command, *map(str, args)],
        cwd=folder,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def closing_accuracy(result):
    assert result.returncode == 0, result.stderr
    accuracy, samples = CLOSING.fullmatch(result.stdout.splitlines()[-1]).groups()
    assert int(samples) == 360
    return float(accuracy)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training on the digits: (folder, result of the run)."""
    folder = tmp_path_factory.mktemp("trained")
    args = ("--epochs", 5, "--batch-size", 32, "--json", "history.json", "--save", "m.safetensors")
    return folder, run(folder, "train", "--validation-split", 0.1, *args)


def test_info_shows_what_show_config_shows(tmp_path):
    result = run(tmp_path, "info", "--json", "info.json")
    assert result.returncode == 0
    shown = "import json, fastnn; print(json.dumps(fastnn.show_config('dicts')))"
    fresh = run(tmp_path, command=[sys.executable, "-c", shown])  # nothing else imported
    assert json.loads((tmp_path / "info.json").read_text()) == json.loads(fresh.stdout)
    assert fastnn.__version__ in result.stdout


def test_info_takes_threads(tmp_path):
    run(tmp_path, "info", "--threads", 3, "--json", "info.json")
    assert json.loads((tmp_path / "info.json").read_text())["cpu"]["threads"] == 3


def test_the_installed_command_is_the_same(tmp_path):
    script = shutil.which("fastnn", path=Path(sys.executable).parent)
    if script is None:
        pytest.skip("fastnn is not installed as a command")
    installed = run(tmp_path, "--version", command=[script])
    assert installed.stdout == run(tmp_path, "--version").stdout == f"fastnn {fastnn.__version__}\n"


def test_train_learns_the_digits_and_says_so_last(trained):
    assert closing_accuracy(trained[1]) > 0.9


def test_train_learns_mnist(tmp_path):
    if not os.environ.get("FASTNN_DATA"):
        pytest.skip("FASTNN_DATA names no folder with MNIST")
    result = run(tmp_path, "train", "--epochs", 1, "--data", os.environ["FASTNN_DATA"])
    assert result.returncode == 0, result.stderr
    assert float(CLOSING.fullmatch(result.stdout.splitlines()[-1])[1]) > 0.95


def test_train_prints_each_epoch(trained):
    lines = trained[1].stdout.splitlines()
    assert [line.split(":")[0].split() for line in lines[:5]] == [
        ["epoch", f"{i}"] for i in range(1, 6)
    ]
    assert all("validation" in line for line in lines[:5])


def test_train_writes_its_history(trained):
    report = json.loads((trained[0] / "history.json").read_text())
    assert len(report["epochs"]["loss"]) == len(report["epochs"]["val_accuracy"]) == 5
    assert report["test"]["samples"] == 360
    assert report["machine"]["fastnn"] == fastnn.__version__


def test_train_draws_its_history(trained):
    picture = (trained[0] / "training_curve.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_same_seed_same_losses_with_any_threads(tmp_path):
    losses = []
    for threads in (1, 2):
        args = ("--epochs", 1, "--seed", 7, "--threads", threads, "--json", "h.json")
        assert run(tmp_path, "train", *args).returncode == 0
        losses.append(json.loads((tmp_path / "h.json").read_text())["epochs"]["loss"])
    assert losses[0] == losses[1]


def test_resume_continues(trained, tmp_path):
    saved = trained[0] / "m.safetensors"
    result = run(tmp_path, "train", "--resume", saved, "--epochs", 1, "--batch-size", 32)
    assert closing_accuracy(result) > 0.9


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer", "sgd", "--lr", "0.05", "--schedule", "cosine"),
        ("--optimizer", "adamw", "--schedule", "warmup", "--no-batch-norm"),
        ("--optimizer", "radam", "--schedule", "step", "--hidden", "64", "--lr", "0.02"),
        ("--precision", "float64", "--optimizer", "rmsprop"),
        ("--precision", "bf16", "--optimizer", "adagrad", "--lr", "0.01"),
    ],
    ids=" ".join,
)
def test_train_options(tmp_path, options, capsys, monkeypatch):
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    args = ["train", "--epochs", "3", "--batch-size", "32", "--out", str(tmp_path), *options]
    assert main(args) == 0
    assert float(CLOSING.search(capsys.readouterr().out)[1]) > 0.5


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("dance",),
        ("train", "--dance"),
        ("train", "--epochs", "0"),
        ("train", "--batch-size", "2.5"),
        ("train", "--hidden", "64,,64"),
        ("train", "--optimizer", "lbfgs"),
        ("info", "--threads", "0"),
        ("info", "--threads", "1025"),
        ("info", "--seed", "-1"),
        ("info", "--seed", str(2**64)),
        ("info", "--device", "tpu"),
        ("curve", "--batches", "8,zero"),
        ("curve", "--variants", "fancy"),
        ("curve", "--peers", "torch,abacus"),
    ],
    ids=lambda args: " ".join(args) or "nothing",
)
def test_wrong_usage_is_exit_2(args, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    assert "usage: fastnn" in capsys.readouterr().err


def failure(capsys, *args):
    """The one line on stderr of a command that fails."""
    assert main(list(map(str, args))) == 1
    message = capsys.readouterr().err
    assert message.startswith("fastnn: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize("command", ["info", "train", "curve"])
def test_no_cuda_is_a_plain_failure(command, capsys, tmp_path):
    assert "cuda" in failure(capsys, command, "--device", "cuda", "--out", tmp_path).lower()


@pytest.mark.parametrize("command", ["train", "curve"])
def test_a_folder_without_data_is_named(command, capsys, tmp_path):
    message = failure(capsys, command, "--data", tmp_path, "--out", tmp_path)
    assert str(tmp_path) in message
    assert "train-images-idx3-ubyte" in message


def test_damaged_data_is_a_plain_failure(capsys, tmp_path):
    for name in fastnn.datasets.MNIST_SHA256:
        (tmp_path / name).write_bytes(b"not IDX")
    assert "not an IDX file" in failure(capsys, "train", "--data", tmp_path, "--out", tmp_path)


def test_a_missing_checkpoint_is_a_plain_failure(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    missing = tmp_path / "none.safetensors"
    assert str(missing) in failure(capsys, "train", "--resume", missing, "--out", tmp_path)


def test_a_bad_learning_rate_is_a_plain_failure(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    assert "lr" in failure(capsys, "train", "--lr", "nan", "--out", tmp_path)


def test_losses_that_are_no_numbers_are_null(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    args = ["--optimizer", "sgd", "--lr", "1e30", "--no-batch-norm", "--epochs", "1"]
    assert main(["train", *args, "--out", str(tmp_path), "--json", str(tmp_path / "h.json")]) == 0
    assert json.loads((tmp_path / "h.json").read_text())["epochs"]["loss"] == [None]
    assert CLOSING.search(capsys.readouterr().out)


def test_out_that_is_a_file_is_a_plain_failure(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in failure(capsys, "info", "--out", tmp_path / "file")


def test_mnist_without_data_or_network_says_what_to_do(tmp_path):
    result = run(tmp_path, "train", "--dataset", "mnist", **OFFLINE, XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 1
    assert "--data DIR" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_leaves_is_no_crash(tmp_path):
    pipeline = f"{sys.executable} -m fastnn info | (exec <&-; sleep 3)"
    result = subprocess.run(pipeline, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert result.stderr == ""


def test_foreign_locale_and_no_home(tmp_path):
    """Numbers keep their point, and nothing needs a home to write to."""
    environment = {"LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8", "HOME": "/proc/none"}
    result = run(tmp_path, "train", "--epochs", 1, "--json", "h.json", **environment)
    assert 0 < closing_accuracy(result) <= 1
    assert np.isfinite(json.loads((tmp_path / "h.json").read_text())["epochs"]["loss"]).all()

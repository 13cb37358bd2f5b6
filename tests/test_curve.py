"""The batch-size curve: its figures, its files, and the floor it is measured against."""

import json
import struct
import sys

import numpy as np
import pytest
from test_cli import CLOSING, failure, run

from fastnn import curve, floor
from fastnn.__main__ import main
from fastnn.curve_report import table_line
from fastnn.peers import PEERS, Peer

ROW = {
    "variant": str,
    "batch": int,
    "library": str,
    "update_us": float,
    "floor_us": float,
    "share_of_floor": float,
    "epoch_s": float,
    "epoch_measured": bool,
    "update_samples_us": list,
    "epoch_samples_s": list,
}
MACHINE = {"cpu", "cpus", "isa", "threads", "system", "python", "numpy", "fastnn", "commit"}
MACHINE |= {"peers", "time"}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """`fastnn curve --quick` without data: (folder, result of the run, its JSON file)."""
    folder = tmp_path_factory.mktemp("curve")
    result = run(folder, "curve", "--quick")
    assert result.returncode == 0, result.stderr
    return folder, result, json.loads((folder / "batch_size_curve.json").read_text())


def write_mnist(folder, train, test):
    """MNIST's four files with random images."""
    rng = np.random.default_rng(0)
    for name, n in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">4BI", 0, 0, 8, 1, n)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


# ---- without data ----------------------------------------------------------------------------


def test_says_what_it_times(quick):
    assert "generated" in quick[1].stdout
    assert quick[2]["data"] == {"name": "generated", "samples": 2000}


def test_closes_with_the_accuracy_on_digits(quick):
    accuracy, samples = CLOSING.fullmatch(quick[1].stdout.splitlines()[-1]).groups()
    assert float(accuracy) > 0.9
    assert quick[2]["training"]["samples"] == int(samples) == 360
    assert quick[2]["training"]["data"] == "digits"


def test_rows_cover_both_variants(quick):
    found = [(row["variant"], row["batch"], row["library"]) for row in quick[2]["rows"]]
    plain = [("plain", batch, "fastnn") for batch in (1, 32, 1000)]
    assert found == plain + [("batch-norm", batch, "fastnn") for batch in (32, 1000)]


def test_rows_have_every_sample(quick):
    for row in quick[2]["rows"]:
        assert {name: type(value) for name, value in row.items()} == ROW
        assert row["update_us"] == pytest.approx(np.median(row["update_samples_us"]))
        assert row["share_of_floor"] == pytest.approx(row["floor_us"] / row["update_us"])
        assert len(row["update_samples_us"]) >= 3
        assert row["epoch_measured"] == bool(row["epoch_samples_s"])
        if not row["epoch_measured"]:
            assert row["epoch_s"] == pytest.approx(row["update_us"] * 1e-6 * 2000 / row["batch"])


def test_file_tells_the_machine(quick):
    assert set(quick[2]["machine"]) == MACHINE
    assert quick[2]["probe"]["peak_gflops"] > 0
    assert quick[2]["floor"]["adam_seconds"] > 0


def test_table_is_markdown_with_a_line_a_row(quick):
    lines = [line for line in quick[1].stdout.splitlines() if line.startswith("|")]
    assert len(lines) == len(quick[2]["rows"]) + 2 * len(curve.VARIANTS)
    assert len({line.count("|") for line in lines}) == 1


def test_picture_is_drawn(quick):
    picture = (quick[0] / "batch_size_curve.png").read_bytes()
    width, height = struct.unpack(">2I", picture[16:24])
    assert picture.startswith(b"\x89PNG")
    assert (width, height) > (1000, 400)
    assert len(picture) > 20_000


def test_without_matplotlib_there_is_no_picture(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from fastnn.__main__ import main; "
    code += "sys.exit(main(['curve', '--quick', '--batches', '4', '--variants', 'plain']))"
    result = run(tmp_path, command=[sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    assert "needs matplotlib" in result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["batch_size_curve.json"]


# ---- with data and options -------------------------------------------------------------------


def test_times_and_trains_on_the_data_given(tmp_path, capsys):
    write_mnist(tmp_path, 300, 50)
    args = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "j")]
    assert main(["curve", "--quick", "--batches", "8,300", "--variants", "batch-norm", *args]) == 0
    report = json.loads((tmp_path / "out" / "batch_size_curve.json").read_text())
    assert report == json.loads((tmp_path / "j").read_text())
    assert report["data"] == {"name": "MNIST", "samples": 300}
    assert [row["batch"] for row in report["rows"]] == [8, 300]
    assert capsys.readouterr().out.splitlines()[-1].endswith("(50 samples)")


def test_a_batch_larger_than_the_data_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    message = failure(capsys, "curve", "--quick", "--batches", 2001, "--out", tmp_path)
    assert "2001" in message
    assert "2000" in message


def test_default_batches_end_with_all_samples():
    assert curve.default_batches(60_000) == [
        *(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1024, 10_000, 60_000)
    ]
    assert curve.default_batches(100) == [1, 2, 4, 8, 16, 32, 64, 100]
    assert curve.default_batches(1) == [1]


# ---- other libraries -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "jax", "sklearn"])  # torch-compile takes too long
def test_peers_make_the_same_first_update(name):
    pytest.importorskip(name)
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 5), np.float32), rng.integers(0, 3, 12)
    for batch_norm in (False, True)[: 1 + PEERS[name].batch_norm]:
        _, steps = curve.make_steps((5, 16, 8, 3), batch_norm, x, y, [name])
        second = {library: step() for library, step in steps.items()}
        # scikit-learn's Adam has made one update more than the others
        assert name == "sklearn" or second[name] == pytest.approx(second["fastnn"], rel=1e-3)


def test_peers_are_rows_of_the_same_run(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.delenv("FASTNN_DATA", raising=False)
    args = ["--peers", "sklearn", "--batches", "4", "--out", str(tmp_path)]
    assert main(["curve", "--quick", *args]) == 0
    report = json.loads((tmp_path / "batch_size_curve.json").read_text())
    rows = [(row["variant"], row["library"]) for row in report["rows"]]
    assert rows == [("plain", "fastnn"), ("plain", "sklearn"), ("batch-norm", "fastnn")]
    assert list(report["machine"]["peers"]) == ["sklearn"]
    assert "geometric mean" in capsys.readouterr().out


def test_a_peer_that_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setitem(PEERS, "wrong", Peer("wrong", True, lambda setup: lambda: 0.5))
    x, y = np.ones((4, 5), np.float32), np.arange(4) % 3
    with pytest.raises(RuntimeError, match=r"wrong is 0\.5"):
        curve.make_steps((5, 8, 3), False, x, y, ["wrong"])


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    missing = Peer("no-such-library", True, lambda setup: lambda: 0.5)
    with pytest.raises(ImportError, match="no-such-library is not installed"):
        missing.version()


# ---- the floor -------------------------------------------------------------------------------


def test_flops_of_a_step():
    forward = 784 * 512 + 512 * 512 + 512 * 10
    assert floor.step_flops(curve.SIZES) == 2 * (3 * forward - 784 * 512)


def test_floor_adds_products_adam_and_a_read():
    found = floor.Floor(1000, peak_gflops=2.0, adam_seconds=3.0, read_seconds=0.5)
    assert found.seconds(4) == pytest.approx(4 * 1000 / 2e9 + 3.5)
    assert found.seconds(4, adam_seconds=5.0) == pytest.approx(4 * 1000 / 2e9 + 5.5)


def test_probe_finds_rates():
    found = floor.measure_probe(0.01)
    assert found.peak_gflops > 0
    assert found.cache_gbs > 0
    assert found.memory_gbs > 0


def test_time_calls_stops_at_its_limits():
    assert len(floor.time_calls(lambda: None, budget=0.0)) == 1
    assert len(floor.time_calls(lambda: None, budget=10.0, most=3)) == 3


def test_epochs_not_measured_are_worked_out_from_updates():
    row = curve.Row("plain", 8, "fastnn", 60_000, [1e-3, 2e-3, 9e-3], floor=1e-3)
    assert row.epoch == pytest.approx(2e-3 * 60_000 / 8)
    assert row.share == pytest.approx(0.5)
    assert "~15.00" in table_line([row], ())

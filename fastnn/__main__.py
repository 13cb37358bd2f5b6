"""The command line: ``fastnn info``, ``fastnn train``, ``fastnn curve``.

Exit status 0 on success, 1 on failure (with one line on stderr that says what failed), 2 for wrong
usage. ``python -m fastnn`` is the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastnn as fnn
from fastnn import curve, curve_profile, curve_report
from fastnn.datasets import Dataset, digits, generated, mnist
from fastnn.floor import Floor, Probe, measure_floor, measure_probe
from fastnn.machine import machine_facts
from fastnn.peers import PEERS
from fastnn.schedules import Constant, Cosine, Schedule, Step, Warmup

__all__ = ["main"]

_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": fnn.Adam,
    "adamw": fnn.AdamW,
    "sgd": partial(fnn.SGD, momentum=0.9),
    "rmsprop": fnn.RMSProp,
    "adagrad": fnn.Adagrad,
    "radam": fnn.RAdam,
}
_SCHEDULES: dict[str, Callable[[int], Schedule]] = {  # from the number of updates to come
    "constant": lambda updates: Constant(),
    "cosine": Cosine,
    "warmup": lambda updates: Warmup(-(-updates // 10), Cosine(updates)),
    "step": lambda updates: Step(-(-updates // 3)),
}
_QUICK_BATCHES = (1, 32, 1000)
_QUICK = curve.Effort(probe_seconds=0.05, update_seconds=0.05, epoch_seconds=0.2)
_FAILURES = (
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
    ImportError,
)

Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = _parser().parse_args(argv)
    ranks = None
    try:
        ranks = args.ranks = _ranks(args)
        _require_device(args.device)
        if args.threads:
            fnn.set_num_threads(args.threads)
        args.out.mkdir(parents=True, exist_ok=True)
        report = args.command(args)
        if args.json and _is_first(ranks):
            _write_json(args.json, report)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("fastnn: interrupted", file=sys.stderr)
        return 1
    except _FAILURES as error:
        print(f"fastnn: {str(error) or type(error).__name__}", file=sys.stderr)
        if ranks is not None and ranks.size > 1:
            ranks.end_all()
        return 1
    return 0


# ---- commands -----------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> Report:
    fnn.show_config()
    return fnn.show_config("dicts") or {}


def _train(args: argparse.Namespace) -> Report:
    data = _dataset(args)
    trainer = (
        fnn.Trainer.load(args.resume, device=args.device, distributed=args.ranks)
        if args.resume
        else _new_trainer(args, data)
    )
    callbacks: list[Callable[[fnn.History], object]] = [_print_epoch]
    if args.save:
        callbacks.append(lambda _: trainer.save(args.save))
    history = trainer.fit(
        data.x_train,
        data.y_train,
        epochs=args.epochs,
        batch_size=args.batch_size,
        validation_split=args.validation_split,
        callbacks=callbacks,
        progress=False,
    )
    if _is_first(args.ranks):
        _picture(args.out / "training_curve.png", lambda path: history.plot().savefig(path))
    return {"machine": machine_facts(), "epochs": history.epochs, "test": _test(trainer, data)}


def _curve(args: argparse.Namespace) -> Report:
    if args.data:
        timed = trained = mnist(args.data)
    else:
        timed, trained = generated(2000 if args.quick else 60_000), digits()
        print(f"no --data: timing {len(timed.x_train)} generated samples of MNIST's shape")
    effort = _QUICK if args.quick else curve.Effort()
    facts, probe, floor = machine_facts(args.peers), None, None
    if args.device == "cpu":
        probe = measure_probe(effort.probe_seconds)
        floor = measure_floor(curve.SIZES, probe, effort.probe_seconds)
    elif args.peers or args.profile:
        raise ValueError("curve: --peers and --profile measure the CPU; see benchmarks/gpu.py")
    title = _title(facts, timed.name, args.device)
    print(f"{title}\n{_abilities(probe, floor)}" if probe and floor else title)
    rows = _measure(args, timed, floor, effort)
    profiles = _profile(args, timed, floor, effort) if args.profile and floor else []
    _picture(args.out / "batch_size_curve.png", partial(curve_report.draw, rows, title))
    report = {
        "machine": facts,
        "probe": asdict(probe) if probe else None,
        "floor": asdict(floor) if floor else None,
        "network": {"sizes": curve.SIZES, "optimizer": "Adam", "learning_rate": curve.LR},
        "data": {"name": timed.name, "samples": len(timed.x_train)},
        "rows": [row.as_dict() for row in rows],
        "profiles": [profile.as_dict() for profile in profiles],
        "training": _train_briefly(args, trained, epochs=2 if args.data else 20),
    }
    _write_json(args.out / "batch_size_curve.json", report)
    return report


# ---- their parts --------------------------------------------------------------------------------


def _ranks(args: argparse.Namespace) -> fnn.MPI | None:
    """The processes that mpiexec started, of which the first alone shows and writes anything."""
    ranks = fnn.MPI() if getattr(args, "distributed", None) else None
    if not _is_first(ranks):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    return ranks


def _is_first(ranks: fnn.MPI | None) -> bool:
    return ranks is None or ranks.rank == 0


def _require_device(device: str) -> None:
    cuda = (fnn.show_config("dicts") or {})["cuda"]
    if device == "cuda" and not cuda["available"]:
        raise fnn.DeviceError(f"device 'cuda' cannot be used: {cuda['why_not']}")


def _dataset(args: argparse.Namespace) -> Dataset:
    if (args.dataset or ("mnist" if args.data else "digits")) == "digits":
        return digits()
    return mnist(args.data or None, download=not args.data)


def _network(data: Dataset, hidden: Sequence[int], batch_norm: bool) -> fnn.Sequential:
    sizes = (data.x_train.shape[1], *hidden, int(data.y_train.max()) + 1)
    return curve.network(sizes, batch_norm, scale=1 / 16 if data.name == "digits" else 1 / 255)


def _new_trainer(args: argparse.Namespace, data: Dataset) -> fnn.Trainer:
    training = len(data.x_train) - round(args.validation_split * len(data.x_train))
    updates = args.epochs * -(-training // args.batch_size)
    return fnn.Trainer(
        _network(data, args.hidden, args.batch_norm),
        loss=fnn.CrossEntropy(),
        optimizer=_OPTIMIZERS[args.optimizer](lr=args.lr),
        schedule=_SCHEDULES[args.schedule](updates),
        device=args.device,
        precision=args.precision,
        seed=args.seed,
        distributed=args.ranks,
    )


def _print_epoch(history: fnn.History) -> None:
    last = {name: values[-1] for name, values in history.epochs.items() if len(values)}
    validation = ""
    if "val_loss" in last:
        validation = (
            f"validation loss {last['val_loss']:.4f}, accuracy {last['val_accuracy']:.4f}, "
        )
    print(
        f"epoch {len(history.epochs['loss']):3}: loss {last['loss']:.4f}, "
        f"accuracy {last['accuracy']:.4f}, {validation}{last['seconds']:.2f} s",
        flush=True,
    )


def _test(trainer: fnn.Trainer, data: Dataset) -> Report:
    """Evaluate on the test set and print the closing line."""
    result = trainer.evaluate(data.x_test, data.y_test)
    print(f"test accuracy: {result['accuracy']:.4f} ({len(data.x_test)} samples)")
    return {"data": data.name, "samples": len(data.x_test), **result}


def _title(facts: Report, data: str, device: str) -> str:
    sizes = "-".join(map(str, curve.SIZES))
    machine = f"{facts['cpu']}, {facts['isa']}, {facts['threads']} threads"
    if device != "cpu":
        machine = (fnn.show_config("dicts") or {})["cuda"]["devices"][0]
    return f"{sizes}, Adam, {data}; fastnn {facts['fastnn']} on {machine}"


def _abilities(probe: Probe, floor: Floor) -> str:
    return (
        f"peak {probe.peak_gflops:.0f} GFLOP/s; reads {probe.cache_gbs:.0f} GB/s from cache, "
        f"{probe.memory_gbs:.0f} GB/s from memory; Adam alone {floor.adam_seconds * 1e6:.0f} us\n"
        "share: of the floor in the update; ~: worked out from the updates"
    )


def _measure(
    args: argparse.Namespace, data: Dataset, floor: Floor | None, effort: curve.Effort
) -> list[curve.Row]:
    x = _scaled(data)
    batches = args.batches or (_QUICK_BATCHES if args.quick else curve.default_batches(len(x)))
    rows: list[curve.Row] = []
    for variant in args.variants:
        print(f"\n{variant}\n\n{curve_report.table_head(args.peers)}")
        speedups = []
        for measured in curve.measure(
            x,
            data.y_train,
            variant=variant,
            batches=batches,
            peers=args.peers,
            floor=floor,
            effort=effort,
            seed=args.seed,
            device=args.device,
        ):
            print(curve_report.table_line(measured, args.peers), flush=True)
            rows += measured
            if len(measured) > 1:
                speedups.append(curve_report.speedup(measured))
        if speedups:
            print(f"\ngeometric mean of best peer / fastnn: {geometric_mean(speedups):.2f}")
    return rows


def _profile(
    args: argparse.Namespace, data: Dataset, floor: Floor, effort: curve.Effort
) -> list[curve_profile.Profile]:
    x = _scaled(data)
    batches = args.batches or [batch for batch in curve_profile.BATCHES if batch <= len(x)]
    profiles: list[curve_profile.Profile] = []
    for variant in args.variants:
        for profile in curve_profile.measure_profiles(
            x,
            data.y_train,
            variant=variant,
            batches=batches,
            floor=floor,
            effort=effort,
            seed=args.seed,
        ):
            print(f"\n{variant}, batch {profile.batch}\n")
            print(curve_profile.profile_table(profile), flush=True)
            profiles.append(profile)
    return profiles


def _scaled(data: Dataset) -> NDArray[np.float32]:
    """Pixels as numbers from 0 to 1."""
    scaled: NDArray[np.float32] = data.x_train.astype(np.float32) / np.float32(255)
    return scaled


def _train_briefly(args: argparse.Namespace, data: Dataset, epochs: int) -> Report:
    print(f"\ntraining with batch norm on {data.name}: {epochs} epochs, batches of 128")
    trainer = fnn.Trainer(
        _network(data, curve.SIZES[1:-1], batch_norm=True),
        loss=fnn.CrossEntropy(),
        optimizer=fnn.Adam(lr=curve.LR),
        device=args.device,
        seed=args.seed,
    )
    trainer.fit(data.x_train, data.y_train, epochs=epochs, batch_size=128, progress=False)
    return {"epochs": epochs, **_test(trainer, data)}


def _picture(path: Path, draw: Callable[[Path], object]) -> None:
    if find_spec("matplotlib"):
        draw(path)
    else:
        print(f"no {path.name}: it needs matplotlib (pip install 'fastnn[plot]')")


def _write_json(path: Path, report: Report) -> None:
    path.write_text(json.dumps(_plain(report), indent=1, allow_nan=False) + "\n", "utf-8")


def _plain(value: Any) -> Any:
    """Make a report fit for JSON, which has no NaN: a loss that is none becomes null."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- arguments ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    threads = partial(_integer, low=1, high=1024)
    add("--threads", type=threads, metavar="N", help="default: the CPUs this process may use")
    seed = partial(_integer, low=0, high=2**64 - 1)
    add("--seed", type=seed, metavar="N", default=0, help="of weights and shuffling; default: 0")
    add("--out", type=Path, default=Path(), metavar="DIR", help="folder for files; default: here")
    add(
        "--data",
        default=os.environ.get("FASTNN_DATA", ""),
        metavar="DIR",
        help="folder with MNIST's four IDX files; default: FASTNN_DATA",
    )
    add("--json", type=Path, metavar="FILE", help="also write the results to FILE")

    parser = argparse.ArgumentParser(prog="fastnn", description="Training kernels for small nets.")
    parser.add_argument("--version", action="version", version=f"fastnn {fnn.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], Report], text: str) -> Any:
        sub = commands.add_parser(name, parents=[common], help=text, description=text)
        sub.set_defaults(command=run)
        return sub.add_argument

    command("info", _info, "Show version, instruction sets, threads and devices.")
    _add_train(command("train", _train, "Train a dense network and test it."))
    _add_curve(command("curve", _curve, "Time updates and epochs against batch size."))
    return parser


def _add_train(add: Any) -> None:
    add("--dataset", choices=("mnist", "digits"), help="default: mnist with --data, else digits")
    add("--epochs", type=_count, metavar="N", default=5, help="default: 5")
    add("--batch-size", type=_count, metavar="N", default=128, help="default: 128")
    add("--lr", type=float, default=1e-3, help="learning rate; default: 0.001")
    add(
        "--hidden", type=_counts, metavar="N,N", default=(512, 512), help="widths; default: 512,512"
    )
    add("--no-batch-norm", dest="batch_norm", action="store_false", help="default: with")
    add("--optimizer", choices=_OPTIMIZERS, default="adam", help="default: adam")
    add("--schedule", choices=_SCHEDULES, default="constant", help="default: constant")
    add(
        "--validation-split",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="share of the training data, its end, to validate on; default: 0",
    )
    precisions = ("float32", "float64", "tf32", "bf16")
    add("--precision", choices=precisions, default="float32", help="default: float32")
    add(
        "--save",
        type=Path,
        metavar="FILE",
        help="write the model (safetensors) after every epoch",
    )
    add(
        "--resume",
        type=Path,
        metavar="FILE",
        help="continue what --save wrote, with its network, optimizer, schedule and seed",
    )
    add("--distributed", choices=("mpi",), help="be one of the processes that mpiexec started")


def _add_curve(add: Any) -> None:
    add("--batches", type=_counts, metavar="N,N", help="default: 1, 2, 4 ... up to all samples")
    both = tuple(curve.VARIANTS)
    add(
        "--variants",
        type=_names(both),
        metavar="A,B",
        default=both,
        help=f"default: {','.join(both)}",
    )
    peers = tuple(PEERS)
    add(
        "--peers",
        type=_names(peers),
        metavar="A,B",
        default=(),
        help=f"also time {', '.join(peers)}",
    )
    add(
        "--profile",
        action="store_true",
        help="also show where an update's time goes, at --batches (default: 1, 64, 1000)",
    )
    add("--quick", action="store_true", help="few batches, few samples")


def _integer(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, got {text!r}")
    return int(text)


_count = partial(_integer, low=1, high=2**31 - 1)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


def _names(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if not set(names) <= set(allowed):
            raise argparse.ArgumentTypeError(f"choose from {', '.join(allowed)}, got {text!r}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())

"""Every goal for GPUs measured by one command, beside PyTorch (eager, compiled) and JAX.

    python benchmarks/gpu.py                  all sections, in less than ten minutes, no network
    python benchmarks/gpu.py --only products  those alone
    python benchmarks/gpu.py --rehearse       all of it at toy sizes, on the emulator and the CPU

Writes gpu.json with device, driver, commit and every sample, gpu.md with the tables and
gpu-batch-size-curve.png into --out, by default benchmarks/results (--rehearse writes nothing by
default). What is timed is checked first; libraries take turns. Device time is that of CUDA events,
over graphs for single ops, with warm caches and with cold ones; wall time is the host's. Copy
bandwidth and matrix rates, of which shares are told, come from the same run. A job that fails is
noted and the others go on; what is left when time is up is listed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_machine import Machine
from gpu_sections import PRECISIONS, SECTIONS, Bench, Row
from tqdm import tqdm

from fastnn import curve, curve_report
from fastnn.machine import machine_facts

RESULTS = Path(__file__).parent / "results"
BUDGET = 540.0  # seconds


@dataclass
class Results:
    """Rows by section, what failed and why, and what there was no time for."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 0 whether goals are met or not, 1 if a job failed."""
    args = _parser().parse_args(argv)
    end = time.monotonic() + args.budget
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave memory to the others
    with tempfile.TemporaryDirectory() as folder:
        if args.rehearse:
            os.environ.setdefault("FASTNN_SIMT_BUILD_DIR", folder)
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        return _run(args, end)


def _run(args: argparse.Namespace, end: float) -> int:
    machine = Machine(args.rehearse)
    peers = [name for name in ("torch", "jax") if find_spec(name)]
    report: dict[str, Any] = {"machine": machine_facts(peers) | machine.facts}
    print(f"{machine.facts['gpu']}, driver {machine.facts['driver']}", flush=True)
    bandwidth = machine.copy_rate()
    report["copy_bytes_per_second"] = bandwidth
    report["flops_per_second"] = {name: machine.matrix_rate(name) for name in PRECISIONS}
    results = measure(Bench(machine), args.only, end)
    lines = [_rates(report)]
    for section, rows in results.rows.items():
        lines += ["", f"## {section}", "", table(rows, bandwidth)]
    text = "\n".join(lines)
    print(text)
    for name, error in results.failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    report |= {
        "rows": {s: [row.as_dict(bandwidth) for row in r] for s, r in results.rows.items()},
        "failed": results.failed,
        "left_out": results.left_out,
    }
    out = args.out or (None if args.rehearse else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        (out / "gpu.md").write_text(text + "\n", "utf-8")
        _draw(results.rows.get("steps", []), report, out / "gpu-batch-size-curve.png")
    return 1 if results.failed else 0


def measure(bench: Bench, sections: Sequence[str], end: float) -> Results:
    """All jobs of the sections, until time is up."""
    results = Results()
    for section in sections:
        rows = results.rows[section] = []
        for name, run in tqdm(list(SECTIONS[section](bench)), section, unit=" jobs", leave=False):
            if time.monotonic() > end:
                results.left_out.append(name)
                continue
            try:
                rows.append(run())
            except Exception as error:  # the others' figures must not be lost
                results.failed[name] = f"{type(error).__name__}: {error}"
    return results


def table(rows: Sequence[Row], bandwidth: float) -> str:
    """Return a section's rows as a Markdown table, microseconds of device time."""
    libraries = list(dict.fromkeys(name for row in rows for name in row.samples))
    titles = ["", *(f"{name} us" for name in libraries), "cold us", "wall us"]
    lines = []
    for row in rows:
        cells = [_us(row, name) for name in libraries]
        cells += [_us(row, "fastnn", "cold"), _us(row, "fastnn", "wall")]
        measured = row.measured(bandwidth)
        figure = "" if measured is None else f"{measured:.2f} {row.unit}"
        goal = "" if row.solid is None else f"{row.solid:g}"
        lines.append([row.name, *cells, figure, goal])
    return curve_report.markdown([*titles, "measured", "goal"], lines)


def _us(row: Row, library: str, kind: str = "device") -> str:
    taken = row.samples.get(library)
    if taken is None or (kind not in taken and kind != "device"):
        return ""
    return f"{row.median(library, kind) * 1e6:.1f}"


def _rates(report: dict[str, Any]) -> str:
    facts = report["machine"]
    products = ", ".join(f"{f / 1e12:.1f} {name}" for name, f in report["flops_per_second"].items())
    return (
        f"{facts['gpu']}, driver {facts['driver']}, commit {facts['commit']}; copy "
        f"{report['copy_bytes_per_second'] / 1e9:.0f} GB/s; PyTorch's products {products} TFLOP/s"
    )


def _draw(rows: Sequence[Row], report: dict[str, Any], path: Path) -> None:
    """The curve of the steps in tf32."""
    drawn = [
        curve.Row(row.facts["variant"], row.facts["batch"], name, 60_000, taken, float("nan"))
        for row in rows
        if row.facts["precision"] == "tf32"
        for name, kinds in row.samples.items()
        for taken in [kinds.get("device") or kinds["wall"]]
    ]
    if drawn:
        facts = report["machine"]
        curve_report.draw(drawn, f"tf32 on {facts['gpu']}, commit {facts['commit']}", path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=_names, default=tuple(SECTIONS), metavar="A,B")
    parser.add_argument("--out", type=Path, help="folder for files; default: benchmarks/results")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds; default: 540")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, without a GPU")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(SECTIONS):
        raise argparse.ArgumentTypeError(f"choose from {', '.join(SECTIONS)}, got {text!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())

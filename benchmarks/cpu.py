"""Every goal for CPUs measured by one command, beside PyTorch, NumPy and JAX where installed.

    python benchmarks/cpu.py                    all sections, in some minutes
    python benchmarks/cpu.py --only ops,calls   those alone
    python benchmarks/cpu.py --quick            small sizes, one thread: to see that it runs

Writes cpu-SECTION.json with the machine, the commit and every sample into --out, by default
benchmarks/results (--quick writes nothing by default), and prints a Markdown table a section. What
is timed is checked first; libraries take turns, with a pause and an untimed call before each block.
benchmarks/compare.py compares two such files. FASTNN_DATA names the folder with MNIST.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from calls import installed
from cpu_sections import SECTIONS, Bench, Row
from tqdm import tqdm

import fastnn as fnn
from fastnn.curve_report import markdown
from fastnn.floor import Probe, measure_probe
from fastnn.machine import machine_facts

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 0 whether goals are met or not."""
    args = _parser().parse_args(argv)
    if args.threads or args.quick:
        fnn.set_num_threads(args.threads or 1)  # other libraries' threads may spin for seconds
    out = args.out or (None if args.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
    facts = machine_facts(installed("torch", "jax")[1:])
    print(f"{facts['cpu']}, {facts['isa']}, {facts['threads']} threads, commit {facts['commit']}")
    for section in args.only:
        probe = measure_probe(0.02 if args.quick else 0.3)
        jobs = SECTIONS[section](Bench(probe, args.quick))
        rows = list(tqdm(jobs, section, unit=" rows", leave=False))
        print(f"\n{section}: {_rates(probe)}\n\n{table(rows)}", flush=True)
        if out:
            text = json.dumps(report(section, facts, probe, rows), indent=1)
            (out / f"cpu-{section}.json").write_text(text + "\n", "utf-8")
    return 0


def table(rows: Sequence[Row]) -> str:
    """Return a section's rows as a Markdown table, times in microseconds."""
    libraries = list(dict.fromkeys(name for row in rows for name in row.samples))
    libraries.sort(key=lambda name: name != "fastnn")
    floors = any(row.floor for row in rows)
    titles = ["", *(f"{name} us" for name in libraries), *["share of floor"] * floors]
    lines = [_cells(row, libraries, floors) for row in rows]
    return markdown([*titles, "measured", "goal", "met"], lines)


def _cells(row: Row, libraries: Sequence[str], floors: bool) -> list[str]:
    medians = {name: median(taken) for name, taken in row.samples.items()}
    cells = [row.name, *(_us(medians.get(name)) for name in libraries)]
    cells += [f"{row.floor / medians['fastnn']:.2f}" if row.floor else ""] * floors
    measured = "" if row.measured is None else f"{row.measured:.2f} {row.unit}"
    return [*cells, measured, str(row.goal or ""), {None: "", True: "yes", False: "no"}[row.met]]


def _us(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e6:.3g}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def _rates(probe: Probe) -> str:
    return (
        f"peak {probe.peak_gflops:.0f} GFLOP/s; reads {probe.cache_gbs:.0f} GB/s from cache, "
        f"{probe.memory_gbs:.0f} GB/s from memory"
    )


def report(section: str, facts: Any, probe: Probe, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the section's file holds; `rows` has one entry a job and library."""
    return {
        "section": section,
        "machine": facts,
        "probe": asdict(probe),
        "results": [
            {
                "name": row.name,
                "measured": row.measured,
                "unit": row.unit,
                "goal": row.goal and row.goal._asdict(),
                "met": row.met,
                **row.facts,
            }
            for row in rows
        ],
        "rows": [
            {
                "name": row.name,
                "library": library,
                "median_us": median(taken) * 1e6,
                "floor_us": row.floor * 1e6 or None,
                "samples_us": [seconds * 1e6 for seconds in taken],
            }
            for row in rows
            for library, taken in row.samples.items()
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cpu.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        type=_sections,
        default=tuple(SECTIONS),
        metavar="A,B",
        help=f"sections; default: {','.join(SECTIONS)}",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one thread")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: {RESULTS.name}/ here")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the CPUs it may use")
    return parser


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(SECTIONS):
        raise argparse.ArgumentTypeError(f"choose from {', '.join(SECTIONS)}, got {text!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())

"""What got slower, what faster: two files of results, row by row.

    python benchmarks/compare.py OLD NEW [--threshold 0.05]

Reads what `fastnn curve`, `pytest benchmarks --benchmark-json=FILE` and benchmarks/cpu.py write.
A row is fastnn's time for one job; its ratio is the median of NEW over that of OLD. Where a run
knows the job's floor, times are multiples of it, else of what its FMA peak takes for one operation,
so that machines in different states compare. The band is a 95 % bootstrap interval of the ratio of
medians: 2000 times, both rows' samples are drawn again with replacement. A row counts as slower if
its ratio is beyond the threshold and its band leaves out 1.

Exit status: 1 if a row is slower, 0 if none is, 2 for wrong usage or files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastnn.curve_report import markdown

_DRAWS = 2000
_MOST = 500  # samples drawn from, evenly spaced: a few more would only narrow the band
_TITLES = ("", "old us", "new us", "new / old", "band", "")

Samples = NDArray[np.float64]
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """Times of one job: seconds, and the seconds that count as one unit of work."""

    seconds: Samples
    unit: float

    @property
    def relative(self) -> Samples:
        """The times as multiples of the unit."""
        return self.seconds / self.unit


class Change(NamedTuple):
    """Ratio of a row's medians, new over old, and its 95 % band."""

    name: str
    old: Row
    new: Row
    ratio: float
    low: float
    high: float

    def verdict(self, threshold: float) -> str:
        """Return 'slower', 'faster' or nothing."""
        if self.ratio > 1 + threshold and self.low > 1:
            return "slower"
        return "faster" if self.ratio < 1 / (1 + threshold) and self.high < 1 else ""

    def cells(self, threshold: float) -> list[str]:
        """Return the row's line of the table."""
        times = [f"{np.median(row.seconds) * 1e6:.4g}" for row in (self.old, self.new)]
        band = f"{self.low:.3f} to {self.high:.3f}"
        return [self.name, *times, f"{self.ratio:.3f}", band, self.verdict(threshold)]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two files; return the exit status."""
    args = _parser().parse_args(argv)
    try:
        old, new = read(args.old), read(args.new)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    common = [name for name in old if name in new]
    if not common:
        print("compare: the files have no row in common", file=sys.stderr)
        return 2
    changes = sorted(
        (change(name, old[name], new[name]) for name in common), key=lambda c: -c.ratio
    )
    told = [each for each in changes if args.all or each.verdict(args.threshold)]
    if told:
        print(markdown(_TITLES, [each.cells(args.threshold) for each in told]))
    counts = {
        verdict: sum(each.verdict(args.threshold) == verdict for each in changes)
        for verdict in ("slower", "faster")
    }
    print(f"{len(changes)} rows: {counts['slower']} slower, {counts['faster']} faster")
    for file, names in (("OLD", old.keys() - new.keys()), ("NEW", new.keys() - old.keys())):
        if names:
            print(f"only in {file}: {'; '.join(sorted(names))}")
    return 1 if counts["slower"] else 0


def change(name: str, old: Row, new: Row) -> Change:
    """Compare two rows; the same rows give the same band."""
    rng = np.random.default_rng(0)
    draws = _medians(new.relative, rng) / _medians(old.relative, rng)
    low, high = np.quantile(draws, (0.025, 0.975))
    ratio = float(np.median(new.relative) / np.median(old.relative))
    return Change(name, old, new, ratio, float(low), float(high))


def _medians(samples: Samples, rng: np.random.Generator) -> Samples:
    """Medians of samples drawn again and again."""
    spaced = samples[:: -(-len(samples) // _MOST)]
    drawn = spaced[rng.integers(0, len(spaced), (_DRAWS, len(spaced)))]
    return np.asarray(np.median(drawn, axis=1))


# ---- files --------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Row]:
    """Read fastnn's rows of any of the kinds of files.

    Raises
    ------
    ValueError
        The file is none of them, or has no rows with samples.
    """
    try:
        report = json.loads(path.read_text("utf-8"))
        rows = dict(_pytest_rows(report) if "benchmarks" in report else _rows(report))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no file of results: {error!r}") from None
    if not rows:
        raise ValueError(f"{path} has no rows of fastnn with samples")
    return rows


def _rows(report: Report) -> Iterator[tuple[str, Row]]:
    """Of `fastnn curve` and benchmarks/cpu.py."""
    operation = 1e-9 / report["probe"]["peak_gflops"]
    for row in report["rows"]:
        if row["library"] != "fastnn":
            continue
        if "update_samples_us" in row:
            name, samples = f"update, {row['variant']}, batch {row['batch']}", "update_samples_us"
        else:
            name, samples = row["name"], "samples_us"
        floor = row["floor_us"]
        yield name, _row(row[samples], 1e-6, floor * 1e-6 if floor else operation)


def _pytest_rows(report: Report) -> Iterator[tuple[str, Row]]:
    """Of pytest-benchmark, with what benchmarks/conftest.py adds."""
    operation = 1e-9 / report["machine_info"]["probe"]["peak_gflops"]
    for each in report["benchmarks"]:
        facts, stats = each["extra_info"], each["stats"]
        if facts.get("library") != "fastnn":
            continue
        if "data" not in stats:
            raise ValueError("it has no samples; write it with --benchmark-json")
        share = facts.get("share_of_floor")
        unit = share * stats["median"] if share else operation
        yield each["group"] or each["name"], _row(stats["data"], 1.0, unit)


def _row(samples: Sequence[float], scale: float, unit: float) -> Row:
    if not samples or not unit > 0:
        raise ValueError("a row without samples, or with a floor that is not positive")
    return Row(np.array(samples, np.float64) * scale, unit)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument(
        "--threshold",
        type=_share,
        default=0.05,
        metavar="SHARE",
        help="a change that counts; default: 0.05",
    )
    parser.add_argument("--all", action="store_true", help="show every row")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())

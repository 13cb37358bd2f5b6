"""The batch-size curve as a Markdown table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from fastnn.curve import Row

__all__ = ["draw", "markdown", "speedup", "table_head", "table_line"]

_COLORS = {"plain": "tab:blue", "batch-norm": "tab:orange"}
_MARKERS = {"fastnn": "o", "torch": "^", "torch-compile": "v", "jax": "s"}


def table_head(peers: Sequence[str]) -> str:
    """Return the first two lines of a Markdown table."""
    titles = _titles(peers)
    return _line(titles, peers) + "\n" + _line([f"{'-' * (len(t) - 1)}:" for t in titles], peers)


def table_line(rows: Sequence[Row], peers: Sequence[str]) -> str:
    """Return the table's line for what `measure` yielded; ``~`` marks an epoch not measured."""
    ours, others = rows[0], {row.library: row.update for row in rows[1:]}
    sign = "" if ours.epoch_samples else "~"
    known = not math.isnan(ours.floor)
    cells = [f"{ours.batch}", f"{ours.update * 1e6:.0f}"]
    cells += [f"{ours.floor * 1e6:.0f}", f"{ours.share:.2f}"] if known else ["", ""]
    cells += [f"{sign}{ours.epoch:.2f}"]
    cells += [f"{others[name] * 1e6:.0f}" if name in others else "" for name in peers]
    cells += [f"{speedup(rows):.2f}" if others else ""] * bool(peers)
    return _line(cells, peers)


def speedup(rows: Sequence[Row]) -> float:
    """Return how many times longer the best other library takes for an update."""
    return min(row.update for row in rows[1:]) / rows[0].update


def _titles(peers: Sequence[str]) -> list[str]:
    titles = ["batch", "update us", "floor us", "share", "epoch s"]
    return titles + [f"{name} us" for name in peers] + ["best peer / fastnn"] * bool(peers)


def _line(cells: Sequence[str], peers: Sequence[str]) -> str:
    widths = [max(len(title), 7) for title in _titles(peers)]
    return f"| {' | '.join(f'{c:>{w}}' for c, w in zip(cells, widths, strict=True))} |"


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    rows = [titles, *lines]
    widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows.insert(1, rule)
    return "\n".join(
        f"| {' | '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])} |"
        for row in rows
    )


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw time per update and per epoch against batch size; needs matplotlib."""
    figure = import_module("matplotlib.figure").Figure(figsize=(12, 5.2), layout="constrained")
    ticker = import_module("matplotlib.ticker")
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2)
    for axes, heading in ((left, "one update"), (right, "one epoch")):
        axes.set_title(f"time of {heading}", fontsize=12)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("batch size (samples)")
        axes.set_xticks([1, 10, 100, 1000, 10_000, 60_000])
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda size, _: f"{size:,.0f}"))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(_readable))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(True, which="major", color="0.88")
        axes.spines[["top", "right"]].set_visible(False)
    for (variant, library), line in _lines(rows).items():
        _draw_line(left, right, variant, library, line)
    if not math.isnan(rows[0].floor):
        _draw_floor(left, right, rows)
    right.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _draw_floor(left: Any, right: Any, rows: Sequence[Row]) -> None:
    floor: dict[int, float] = {}  # of one network: the least that its variants found
    for row in rows:
        floor[row.batch] = min(row.floor, floor.get(row.batch, row.floor))
    batch, update = np.array(sorted(floor.items())).T
    samples = rows[0].samples_in_epoch
    left.plot(batch, update, "--", color="0.4", label="floor", zorder=1)
    right.plot(batch, update * samples / batch, "--", color="0.4", label="floor", zorder=1)


def _readable(seconds: float, _: int) -> str:
    size, unit = next(pair for pair in ((1, "s"), (1e-3, "ms"), (0, "us")) if seconds >= pair[0])
    return f"{seconds / (size or 1e-6):,.6g} {unit}"


def _lines(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.variant, row.library), []).append(row)
    return lines


def _draw_line(left: Any, right: Any, variant: str, library: str, line: Sequence[Row]) -> None:
    ours = library == "fastnn"
    style = {
        "color": _COLORS[variant],
        "marker": _MARKERS.get(library, "x"),
        "markersize": 5 if ours else 4,
        "linewidth": 2.2 if ours else 0.9,
        "zorder": 3 if ours else 2,
        "label": f"{library}, {variant.replace('-', ' ')}",
    }
    batch = [row.batch for row in line]
    left.plot(batch, [row.update for row in line], **style)
    right.plot(batch, [row.epoch for row in line], **style)

"""Where the time of an update goes: each stage's time, beside what it computes and moves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from numpy.typing import NDArray

from fastnn.curve import MOST_UPDATES, SIZES, VARIANTS, Effort, make_steps
from fastnn.curve_report import markdown
from fastnn.engine import Stage
from fastnn.floor import Floor, time_calls

__all__ = ["BATCHES", "Profile", "measure_profiles", "profile_table"]

BATCHES = (1, 64, 1000)
_TITLES = ("stage", "us", "share", "GFLOP/s", "of peak", "GB/s")

Array = NDArray[Any]


@dataclass(frozen=True)
class Profile:
    """The stages of an update at one batch size.

    Attributes
    ----------
    variant, batch
        The network, and samples of an update.
    update : float
        Median seconds of `Trainer.step`.
    floor : float
        The least seconds that the machine allows.
    peak_gflops : float
        Of the machine.
    stages : sequence of Stage
        In order, with their typical seconds.
    """

    variant: str
    batch: int
    update: float
    floor: float
    peak_gflops: float
    stages: Sequence[Stage]

    def as_dict(self) -> dict[str, Any]:
        """Return the profile for JSON, in the units of the table."""
        return {
            "variant": self.variant,
            "batch": self.batch,
            "update_us": self.update * 1e6,
            "floor_us": self.floor * 1e6,
            "stages": [self._stage(stage) for stage in self.stages],
        }

    def _stage(self, stage: Stage) -> dict[str, Any]:
        seconds = max(stage.seconds, 1e-9)  # the clock's resolution
        return {
            "name": stage.name,
            "us": stage.seconds * 1e6,
            "share": stage.seconds / self.update,
            "flops": stage.flops,
            "bytes": stage.bytes,
            "gflops": stage.flops / seconds * 1e-9,
            "share_of_peak": stage.flops / seconds * 1e-9 / self.peak_gflops,
            "gbs": stage.bytes / seconds * 1e-9,
        }


def measure_profiles(
    x: Array,
    y: Array,
    *,
    variant: str,
    batches: Sequence[int],
    floor: Floor,
    effort: Effort,
    seed: int = 0,
) -> Iterator[Profile]:
    """Yield one profile a batch size; the arguments are those of `fastnn.curve.measure`."""
    for batch in batches:
        if VARIANTS[variant] and batch == 1:
            continue
        update, stages = _measure(x[:batch], y[:batch], VARIANTS[variant], effort, seed)
        yield Profile(variant, batch, update, floor.seconds(batch), floor.peak_gflops, stages)


def _measure(
    x: Array, y: Array, batch_norm: bool, effort: Effort, seed: int
) -> tuple[float, list[Stage]]:
    """Make updates with their stages timed and without, in turns.

    Returns the median update, and the mean stages of the middle half of the profiles: means add up,
    and what was disturbed is left out.
    """
    trainer, _ = make_steps(SIZES, batch_norm, x, y, seed=seed)
    updates: list[float] = []
    profiles: list[list[Stage]] = []

    def both() -> None:
        start = time.perf_counter()
        trainer.step(x, y)
        updates.append(time.perf_counter() - start)
        profiles.append(trainer.profile(x, y, batch_size=len(x), n=1))

    time_calls(both, effort.update_seconds, MOST_UPDATES // 2)
    profiles.sort(key=_total)
    middle = profiles[len(profiles) // 4 : -(-3 * len(profiles) // 4)]
    stages = [
        replace(each[0], seconds=fmean(stage.seconds for stage in each))
        for each in zip(*middle, strict=True)
    ]
    return median(updates), stages


def _total(stages: Sequence[Stage]) -> float:
    return sum(stage.seconds for stage in stages)


def profile_table(profile: Profile) -> str:
    """Return a Markdown table: stages, what is outside them (Python, waking threads), the floor."""
    lines = [_line(stage) for stage in profile.as_dict()["stages"]]
    for name, seconds in (
        ("outside the stages", profile.update - _total(profile.stages)),
        ("update", profile.update),
        ("floor", profile.floor),
    ):
        lines.append([name, f"{seconds * 1e6:.1f}", f"{seconds / profile.update:.0%}", "", "", ""])
    return markdown(_TITLES, lines)


def _line(stage: dict[str, Any]) -> list[str]:
    products = [f"{stage['gflops']:.0f}", f"{stage['share_of_peak']:.0%}"]
    cells = [stage["name"], f"{stage['us']:.1f}", f"{stage['share']:.0%}"]
    return [*cells, *(products if stage["flops"] else ["", ""]), f"{stage['gbs']:.0f}"]

"""Learning-rate schedules: what the base rate is multiplied by at update ``t = 0, 1, ...``.

A schedule is a frozen dataclass and a function: ``Cosine(1000)(500)`` is 0.5. It depends on the
number of the update alone, so a resumed run continues it exactly. A `Trainer` takes any callable
``schedule(t) -> float``.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fastnn.arguments import positive_integer

__all__ = ["Constant", "Cosine", "Exponential", "InverseSquareRoot", "Schedule", "Step", "Warmup"]


class Schedule:
    """Base of the schedules; derived classes define ``__call__``."""

    def __call__(self, t: int) -> float:
        """Multiplier at update `t` (int, from 0)."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(t)")

    def values(self, start: int, n: int) -> npt.NDArray[np.float64]:
        """Multipliers of the `n` updates from `start` on: float64 of shape ``(n,)``."""
        return np.fromiter(map(self, range(start, start + n)), np.float64, n)


@dataclass(frozen=True)
class Constant(Schedule):
    """The base rate throughout."""

    def __call__(self, t: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """``gamma ** (t // every)``: times `gamma` once every so many updates.

    Parameters
    ----------
    every : int
        Updates between two drops, at least 1.
    gamma : float, default 0.1
        Factor of each drop, positive.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        positive_integer("Step", "every", self.every)
        _check_positive("Step", "gamma", self.gamma)

    def __call__(self, t: int) -> float:
        return float(self.gamma ** (t // self.every))


@dataclass(frozen=True)
class Exponential(Schedule):
    """``gamma ** t``.

    Parameters
    ----------
    gamma : float
        Factor of each update, positive.

    Raises
    ------
    ValueError
        If `gamma` is not positive and finite.
    """

    gamma: float

    def __post_init__(self) -> None:
        _check_positive("Exponential", "gamma", self.gamma)

    def __call__(self, t: int) -> float:
        return float(self.gamma**t)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to `final`, which it keeps (Loshchilov & Hutter 2017, one period).

    Parameters
    ----------
    steps : int
        Updates until `final` is reached, at least 1.
    final : float, default 0.0
        Last multiplier, at least 0.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        positive_integer("Cosine", "steps", self.steps)
        _check_multiplier("Cosine", "final", self.final)

    def __call__(self, t: int) -> float:
        if t >= self.steps:
            return float(self.final)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * t / self.steps))


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """``1 / sqrt(1 + t / timescale)`` (Zhai et al. 2022): needs no number of updates in advance.

    Parameters
    ----------
    timescale : int
        Updates after which the rate has fallen to ``1 / sqrt(2)``, at least 1.

    Raises
    ------
    ValueError
        If `timescale` is not an integer of at least 1.
    """

    timescale: int

    def __post_init__(self) -> None:
        positive_integer("InverseSquareRoot", "timescale", self.timescale)

    def __call__(self, t: int) -> float:
        return 1.0 / math.sqrt(1.0 + t / self.timescale)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line from `start` up to another schedule, which then runs from its own update 0.

    Parameters
    ----------
    steps : int
        Updates before `then` takes over, at least 1.
    then : Schedule, default ``Constant()``
        What follows.
    start : float, default 0.0
        Multiplier of update 0, relative to the first of `then`; at least 0.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    steps: int
    then: Schedule = field(default_factory=Constant)
    start: float = 0.0

    def __post_init__(self) -> None:
        positive_integer("Warmup", "steps", self.steps)
        _check_multiplier("Warmup", "start", self.start)
        if not callable(self.then):
            raise TypeError(f"Warmup: then must be a schedule, got {type(self.then).__name__}")

    def __call__(self, t: int) -> float:
        if t >= self.steps:
            return self.then(t - self.steps)
        return (self.start + (1.0 - self.start) * (t / self.steps)) * self.then(0)


def _check_positive(owner: str, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite and > 0, got {value}")


def _check_multiplier(owner: str, name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite and >= 0, got {value}")

"""How a Trainer runs a step: recorded into a native plan, or op by op for layers of one's own.

Both take the same function of placeholders or arrays, the body of a step, and the same job.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn import _core

__all__ = ["Eager", "Job", "Native", "Program"]

Array: TypeAlias = npt.NDArray[Any]
# body(*inputs) -> results by name; commit() changes the model.
Body: TypeAlias = Callable[..., dict[str, Any]]
Commit: TypeAlias = Callable[[], None]


@dataclass
class Job:
    """Some consecutive steps over the rows of `sources`.

    `results` maps names of the body's results to arrays that get one element per step.
    """

    sources: Sequence[Array]
    count: int = 1
    first_row: int = 0
    shuffle: bool = False
    wrap: bool = False
    seed: int = 0
    epoch: int = 0
    lr: npt.NDArray[np.float64] | None = None
    clock: _core.Clock | None = None
    results: dict[str, Array] = field(default_factory=dict)
    phase: str = "all"  # "body": without the commit; "commit": that alone


class Program(Protocol):
    """Steps of one batch size."""

    def run(self, job: Job) -> None:
        """Do the job; KeyboardInterrupt comes between steps."""

    def result(self, name: str) -> Array:
        """Result of the last step."""


class Native:
    """The body's op calls, recorded once and replayed without Python."""

    def __init__(self, inputs: Sequence[tuple[tuple[int, ...], str]], body: Body, commit: Commit):
        self._plan = _core.Plan()
        with self._plan:
            placeholders = [self._plan.input(shape, dtype) for shape, dtype in inputs]
            self._results = body(*placeholders)
            self._plan.mark_commit()
            commit()

    def run(self, job: Job) -> None:
        self._plan.run(
            list(job.sources),
            count=job.count,
            first_row=job.first_row,
            shuffle=job.shuffle,
            wrap=job.wrap,
            seed=job.seed,
            epoch=job.epoch,
            lr=job.lr,
            clock=job.clock,
            records=[(self._results[name], array) for name, array in job.results.items()],
            phase=job.phase,
        )

    def result(self, name: str) -> Array:
        array: Array = self._results[name]
        return array.copy()

    @property
    def calls(self) -> list[str]:
        """Names of the recorded ops, in order."""
        return self._plan.calls


class Eager:
    """The body run afresh for each step: for layers, losses and optimizers of one's own."""

    def __init__(self, batch: int, body: Body, commit: Commit):
        self._batch, self._body, self._commit = batch, body, commit
        self._results: dict[str, Any] = {}

    def run(self, job: Job) -> None:
        rows = len(job.sources[0])
        order = _core.permutation(rows, job.seed, job.epoch) if job.shuffle else None
        for step in range(job.count):
            if job.phase != "commit":
                self._run_body(job, step, order)
            if job.phase != "body":
                self._commit()

    def _run_body(self, job: Job, step: int, order: Array | None) -> None:
        first = job.first_row + step * self._batch
        if job.wrap:
            first = step % (len(job.sources[0]) // self._batch) * self._batch
        rows = slice(first, first + self._batch)
        chosen = rows if order is None else order[rows]
        if job.clock is not None:
            job.clock.step[...] += 1
            job.clock.counter[...] += 1
            if job.lr is not None:
                job.clock.lr[...] = job.lr[step]
        self._results = self._body(*(source[chosen] for source in job.sources))
        for name, array in job.results.items():
            array[step] = self._results[name]

    def result(self, name: str) -> Array:
        return np.array(self._results[name])

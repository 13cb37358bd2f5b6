"""How a Trainer runs a step: recorded into a native plan, or op by op for layers of one's own.

Both take the same functions: ``body(*inputs)`` computes results by name, the gradients among them
or in arrays of their own; ``commit()`` then changes the model, and may have results, too. Whatever
ends a step before its commit is through leaves the model as it was before the step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn import _core
from fastnn.data import Inputs

__all__ = ["Body", "Commit", "Direct", "Eager", "Job", "Native", "Program", "Stage"]

Array: TypeAlias = npt.NDArray[Any]
Body: TypeAlias = Callable[..., dict[str, Any]]
Commit: TypeAlias = Callable[[], dict[str, Any]]


@dataclass
class Job:
    """Some consecutive steps over the rows of `sources`.

    `results` maps names of results to arrays that get one element per step. Without `update` there
    is no commit, all that the body changed is put back, and no gradient is refused. To `seconds`,
    one element per stage of a native program, the stages' time is added.
    """

    sources: Sequence[Array] = ()
    count: int = 1
    first_row: int = 0
    shuffle: bool = False
    wrap: bool = False
    seed: int = 0
    epoch: int = 0
    lr: npt.NDArray[np.float64] | None = None
    clock: _core.Clock | None = None
    results: dict[str, Array] = field(default_factory=dict)
    update: bool = True
    seconds: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Stage:
    """A part of a step: an op with its shape, or a product fused with the optimizer.

    Attributes
    ----------
    name : str
        For example ``'matmul 128x784x512'``: rows, terms, columns.
    flops : int
        Multiplications and additions of its products.
    bytes : int
        Of the arrays that it reads and writes.
    seconds : float
        That it took in one step.
    """

    name: str
    flops: int
    bytes: int
    seconds: float


class Program(Protocol):
    """Steps of one batch size."""

    def run(self, job: Job) -> int:
        """Do the job; KeyboardInterrupt comes between steps.

        Returns the number of steps done: fewer than asked for if the body's result ``nonfinite``
        was not negative. That step is undone then.
        """

    def result(self, name: str) -> Array:
        """Result of the last step."""


class Native:
    """Op calls recorded once and replayed without Python.

    Parameters
    ----------
    arena : Arena
        Its memory, shared with programs that never run at the same time.
    inputs : sequence of (shape, dtype)
        Of the batches that the body takes.
    body, commit : callable
        Calls of `fastnn.ops` alone.
    buffers : sequence of array
        What the body changes besides its results and gradients.

    Attributes
    ----------
    plan : Plan
        The recording.
    results : dict of str to array
        Where body and commit leave their results.
    """

    def __init__(
        self,
        arena: _core.Arena,
        inputs: Inputs,
        body: Body,
        commit: Commit,
        buffers: Sequence[Array] = (),
    ) -> None:
        self.plan = _core.Plan(arena)
        with self.plan:
            placeholders = [self.plan.input(shape, dtype.name) for shape, dtype in inputs]
            self.results = body(*placeholders)
            self.plan.mark_commit()
            self.results |= commit()
        for buffer in buffers:
            self.plan.keep(buffer)
        self._single: _core.Single | None = None

    def run(self, job: Job) -> int:
        return self.plan.run(list(job.sources), **self.arguments(job))

    def arguments(self, job: Job) -> dict[str, Any]:
        """What a plan's run takes besides the sources."""
        return {
            "count": job.count,
            "first_row": job.first_row,
            "shuffle": job.shuffle,
            "wrap": job.wrap,
            "seed": job.seed,
            "epoch": job.epoch,
            "lr": job.lr,
            "clock": job.clock,
            "records": [(self.results[name], array) for name, array in job.results.items()],
            "update": job.update,
            "guard": self.results.get("nonfinite") if job.update else None,
            "seconds": job.seconds,
        }

    def single(self, clock: _core.Clock, labels: tuple[int, int] | None) -> _core.Single:
        """Single steps, each on all rows of its arrays; see `_core.Single`."""
        if self._single is None:
            loss, guard = self.results["loss"], self.results.get("nonfinite")
            self._single = _core.Single(self.plan, clock, loss, labels, guard)
        return self._single

    def profile(self, job: Job) -> list[Stage]:
        """Stages of a step with an update, with their mean times in the job, once it is done."""
        assert job.seconds is not None
        means = job.seconds / job.count
        return [Stage(*work, float(mean)) for work, mean in zip(self.work, means, strict=True)]

    def result(self, name: str) -> Array:
        return np.array(self.results[name])

    @property
    def stages(self) -> list[str]:
        """What a step with an update does: ops, some of them fused."""
        return self.plan.stages

    @property
    def work(self) -> list[tuple[str, int, int]]:
        """Name with shape, FLOPs and bytes of each stage."""
        return self.plan.work


class Direct:
    """A commit that can't be recorded, as a program."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._results: dict[str, Any] = {}

    def run(self, job: Job) -> int:
        assert job.clock is not None
        assert job.lr is not None
        job.clock.lr[...] = job.lr[0]
        self._results = self._commit()
        job.clock.set(int(job.clock.updates) + 1)
        return 1

    def result(self, name: str) -> Array:
        return np.array(self._results[name])


class Eager:
    """The body run afresh for each step: for layers and losses of one's own.

    The commit is a program of its own that also counts the update: from one native call, no signal
    can part the two.

    Parameters
    ----------
    batch : int
        Rows of a step.
    body : callable
        As for `Native`, of any Python.
    commit : Program, optional
        What changes the model; None where nothing does.
    state : sequence of array
        All that body and commit may have changed when one of them fails.
    """

    def __init__(
        self, batch: int, body: Body, commit: Program | None, state: Sequence[Array] = ()
    ) -> None:
        self._batch, self._body, self._commit, self._state = batch, body, commit, state
        self._results: dict[str, Any] = {}

    def run(self, job: Job) -> int:
        rows = len(job.sources[0])
        order = _core.permutation(rows, job.seed, job.epoch) if job.shuffle else None
        for step in range(job.count):
            with self._undone_without_update(job):
                if not self._step(job, step, order):
                    return step
            for name, array in job.results.items():
                array[step] = self.result(name)
        return job.count

    def _step(self, job: Job, step: int, order: Array | None) -> bool:
        first = job.first_row + step * self._batch
        if job.wrap:
            first = step % (len(job.sources[0]) // self._batch) * self._batch
        rows = slice(first, first + self._batch)
        chosen = rows if order is None else order[rows]
        self._results = self._body(*(source[chosen] for source in job.sources))
        if not job.update:
            return True
        if self._results.get("nonfinite", -1) >= 0:
            return False
        if self._commit is not None:
            assert job.lr is not None
            self._commit.run(Job(clock=job.clock, lr=job.lr[step : step + 1]))
        return True

    @contextmanager
    def _undone_without_update(self, job: Job) -> Iterator[None]:
        """Put the state back unless the update inside was counted."""
        before = [array.copy() for array in self._state]
        updates = None if job.clock is None else int(job.clock.updates)
        try:
            yield
        finally:
            if job.clock is not None and job.clock.updates == updates:
                for array, old in zip(self._state, before, strict=True):
                    array[...] = old

    def result(self, name: str) -> Array:
        if name in self._results or self._commit is None:
            return np.array(self._results[name])
        return self._commit.result(name)

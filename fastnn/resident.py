"""A Trainer's arrays on a GPU, and steps that run there.

Parameters, optimizer state and running statistics are NumPy arrays on the host as on a CPU, each
with a copy in the GPU's memory. Training changes the latter alone; whoever reads or writes the
former gets them brought up to date first.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn import _core
from fastnn.data import Data
from fastnn.engine import Job, Native, Stage

__all__ = ["OnDevice", "Resident", "device_number"]

Array: TypeAlias = npt.NDArray[Any]


def device_number(device: str) -> int | None:
    """Number of the GPU that ``'cuda'`` or ``'cuda:1'`` names; None for ``'cpu'``."""
    kind, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind == "cuda" and (number.isdecimal() or not colon):
        return int(number or 0)
    if device != "cpu":
        raise ValueError(f"Trainer: device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    return None


class Resident:
    """Arrays of the host with copies on a GPU, of which the newer one counts.

    Parameters
    ----------
    number : int
        Of the GPU.
    clock : Clock
        The Trainer's; steps advance it.
    live : sequence of array
        What steps change.
    grads : array
        Gradients; copied to the host when asked for.

    Raises
    ------
    DeviceError
        If the GPU can't be used.
    """

    def __init__(
        self, number: int, clock: _core.Clock, live: Sequence[Array], grads: Array
    ) -> None:
        self.device = _core.Device(number, clock)
        self._live, self._grads = list(live), grads
        for array in (*live, grads):
            self.device.hold(array)
        self.device.push(grads)  # the gaps in it stay zero
        self._to_push, self._to_pull = True, False

    def settle(self, write: bool) -> None:
        """Call it before the host's arrays are read, or written."""
        if self._to_pull:
            for array in self._live:
                self.device.pull(array)
            self._to_pull = False
        self._to_push |= write

    def before_steps(self) -> None:
        """Bring the GPU's arrays up to date."""
        if self._to_push:
            for array in self._live:
                self.device.push(array)
            self._to_push = False

    def after_update(self) -> None:
        """Note that the GPU's arrays have changed."""
        self._to_pull = True

    def pull_gradients(self) -> None:
        """Bring the host's gradients up to date."""
        self.device.pull(self._grads)

    def rows(self, source: Any) -> _core.DeviceArray:
        """These rows on the GPU."""
        return self.device.upload(source) if isinstance(source, np.ndarray) else source

    def upload(self, data: Data) -> Data:
        """The data with copies on the GPU, to be used by many steps."""
        return Data(data.arrays, tuple(self.rows(array) for array in data.arrays))


class OnDevice:
    """A recorded step, replayed on a GPU as a graph.

    Parameters
    ----------
    resident : Resident
        The arrays that the step reads and writes.
    clock : Clock
        The one of `resident`.
    arena : Arena
        Of the recording; its memory on the GPU is shared like that on the host.
    recorded : Native
        The step. On the host it never runs.
    """

    def __init__(
        self, resident: Resident, clock: _core.Clock, arena: _core.Arena, recorded: Native
    ) -> None:
        self._resident, self._recorded = resident, recorded
        numbers = [result for result in recorded.results.values() if result.ndim == 0]
        self._plan = _core.DevicePlan(resident.device, arena, recorded.plan, numbers, clock)

    def run(self, job: Job) -> int:
        self._resident.before_steps()
        sources = [self._resident.rows(source) for source in job.sources]
        try:
            return self._plan.run(sources, **self._recorded.arguments(job))
        finally:
            if job.update and job.clock is not None:
                self._resident.after_update()

    def profile(self, job: Job) -> list[Stage]:
        """The step as one stage, with its mean time on the device in the job, once it is done."""
        assert job.seconds is not None
        ((name, flops, moved),) = self.work
        return [Stage(name, flops, moved, float(job.seconds[0]) / job.count)]

    @property
    def work(self) -> list[tuple[str, int, int]]:
        """Name, FLOPs and bytes of the step."""
        _, flops, moved = zip(*self._recorded.work, strict=True)
        return [("step as a graph", sum(flops), sum(moved))]

    def result(self, name: str) -> Array:
        return self._plan.read(self._recorded.results[name])

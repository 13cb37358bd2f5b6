"""Several processes train one model: each works on its share of every batch, one allreduce a step.

All ranks hold the whole model and are given the same data. Of each batch a rank takes consecutive
rows, computes their gradient, and adds it to those of the others in one flat buffer, together with
the loss; then every rank makes the same update. Nothing else is exchanged, except for synchronised
statistics of batch norm.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fastnn import _core, ops
from fastnn.data import Inputs
from fastnn.engine import Direct, Eager, Job, Native, Program
from fastnn.errors import DeviceError
from fastnn.layer import Backprop
from fastnn.layers import BatchNorm, Dropout
from fastnn.losses import Loss

if TYPE_CHECKING:
    from fastnn.trainer import Trainer

__all__ = ["MPI", "join"]

Array: TypeAlias = npt.NDArray[Any]
L = TypeVar("L")


class MPI:
    """The processes that ``mpiexec`` started, through mpi4py; an uncaught error ends all of them.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Which of them; all by default.
    sync_batch_norm : bool, default True
        Normalise by the statistics of the whole batch, exchanged in each layer, so that the result
        is that of one process. False: by those of a rank's rows, the running ones being averages
        over the ranks; steps are native then.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.

    Raises
    ------
    ImportError
        Without mpi4py (``pip install 'fastnn[mpi]'``) or an MPI library.
    """

    def __init__(self, comm: Any = None, *, sync_batch_norm: bool = True) -> None:
        try:
            from mpi4py import MPI as mpi
        except (ImportError, RuntimeError) as error:  # the latter without an MPI library
            message = "distributed='mpi' needs mpi4py and an MPI library; pip install 'fastnn[mpi]'"
            raise ImportError(message) from error
        self.comm = mpi.COMM_WORLD if comm is None else comm
        self.sync_batch_norm = sync_batch_norm
        self.rank, self.size = self.comm.rank, self.comm.size
        self._in_place = mpi.IN_PLACE
        if self.size > 1 and not isinstance(sys.excepthook, _EndsAll):
            sys.excepthook = _EndsAll(self, sys.excepthook)

    def add_up(self, array: Array) -> None:
        """Replace the array by its sum over the ranks, the same bits on each."""
        self.comm.Allreduce(self._in_place, array)

    def gather(self, array: Array) -> Array:
        """The arrays of all ranks, one behind the other along a new first axis."""
        result = np.empty((self.size, *array.shape), array.dtype)
        self.comm.Allgather(array, result)
        return result

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.gather(np.array(flag)).any())

    def on_first(self, work: Callable[[], object]) -> None:
        """Do the work on rank 0 alone; all wait for it, and all raise what it raises."""
        error = None
        if self.rank == 0:
            try:
                work()
            except Exception as raised:
                error = raised
        error = self.comm.bcast(error)
        if error is not None:
            raise error

    def end_all(self, status: int = 1) -> None:
        """End the processes of all ranks, this one too: the others may be waiting for it."""
        sys.stdout.flush()
        print(f"fastnn: rank {self.rank} of {self.size} failed; ending all ranks", file=sys.stderr)
        sys.stderr.flush()
        self.comm.Abort(status)


class _EndsAll:
    """An excepthook: without it the others would wait for ever for a rank that has failed."""

    def __init__(self, ranks: MPI, before: Callable[..., Any]) -> None:
        self._ranks, self._before = ranks, before

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        self._before(kind, error, trace)
        self._ranks.end_all()


def join(trainer: "Trainer", distributed: Any) -> MPI:
    """Make a new Trainer one of several; its model is that of rank 0 from now on."""
    ranks = MPI() if distributed == "mpi" else distributed
    if not isinstance(ranks, MPI):
        raise ValueError(f"Trainer: distributed must be 'mpi' or an MPI, got {distributed!r}")
    if trainer.device != "cpu":
        raise DeviceError(f"Trainer: distributed='mpi' trains on the CPU, not {trainer.device!r}")
    for array in (trainer._flat.values, *trainer._flat.buffers, *trainer._state.values()):
        ranks.comm.Bcast(array)
    for dropout in _layers(trainer, Dropout):
        dropout.rank = ranks.rank
    if ranks.size > 1 and ranks.sync_batch_norm:
        for norm in _layers(trainer, BatchNorm):
            norm.synchronised = partial(_synchronised, ranks, norm)
            trainer._recordable, trainer._objective = False, _Scaled(trainer.loss)
    return ranks


def least_rows(ranks: MPI | None, has_batch_norm: bool) -> int:
    """Samples that a batch must have: one of each rank, two of whoever computes statistics."""
    size = 1 if ranks is None else ranks.size
    alone = ranks is None or not ranks.sync_batch_norm
    return 2 * size if has_batch_norm and alone else max(size, 1 + has_batch_norm)


class Shared:
    """Steps on batches of which each rank has a share; a `Program`.

    Parameters
    ----------
    trainer : Trainer
        One of several.
    numbers : bool
        Whether to count right answers and measure the gradient's norm.
    batch : int
        Rows of a step, on all ranks together.
    inputs : sequence of (shape, dtype)
        Of the whole batch.
    """

    def __init__(self, trainer: "Trainer", numbers: bool, batch: int, inputs: Inputs) -> None:
        assert trainer._ranks is not None
        self._trainer, self._ranks, self._batch = trainer, trainer._ranks, batch
        least = least_rows(self._ranks, trainer._has_batch_norm)
        if batch < least:
            size = self._ranks.size
            raise ValueError(f"Trainer: {size} ranks need batches of {least}, got {batch} samples")
        rank, size = self._ranks.rank, self._ranks.size
        self._share = slice(batch * rank // size, batch * (rank + 1) // size)
        self._averaged = [
            a for layer in _layers(trainer, BatchNorm) for a in layer.buffers.values()
        ]
        n = trainer._flat.grads.size
        self._sums = np.zeros(n + 2 + sum(a.size for a in self._averaged), trainer.dtype)
        self._grads, self._running = self._sums[:n], self._sums[n + 2 :]
        self._results: dict[str, Any] = {}
        self._body = self._new_body(numbers, inputs)
        self._commit = self._new_commit(numbers)

    def _new_body(self, numbers: bool, inputs: Inputs) -> Program:
        trainer, buffers = self._trainer, self._trainer._flat.buffers
        rows = self._share.stop - self._share.start
        mine = tuple(((rows, *shape[1:]), dtype) for shape, dtype in inputs)
        body = partial(trainer._training_body, numbers)
        if not trainer._recordable:
            return Eager(rows, body, None, buffers)
        return Native(trainer._programs.arena, mine, body, dict, buffers)

    def _new_commit(self, numbers: bool) -> Program:
        commit = partial(self._trainer._commit, numbers, self._grads)
        if not self._trainer.optimizer.recordable:
            return Direct(commit)
        return Native(self._trainer._programs.arena, (), dict, commit)

    def run(self, job: Job) -> int:
        rows = len(job.sources[0])
        order = _core.permutation(rows, job.seed, job.epoch) if job.shuffle else np.arange(rows)
        for step in range(job.count):
            first = job.first_row + step * self._batch
            if job.wrap:
                first = step % (rows // self._batch) * self._batch
            if not self._step(job, step, order[first : first + self._batch]):
                return step
            for name, array in job.results.items():
                array[step] = self.result(name)
        return job.count

    def _step(self, job: Job, step: int, rows: Array) -> bool:
        before = [array.copy() for array in self._averaged]
        self._add_up(job, rows)
        if not job.update:
            self._trainer._flat.grads[...] = self._grads
            return True
        if self._trainer.check_finite:
            self._results["nonfinite"] = ops.first_nonfinite(self._grads)
            if self._results["nonfinite"] >= 0:
                for array, old in zip(self._averaged, before, strict=True):
                    array[...] = old
                return False
        assert job.lr is not None
        self._commit.run(Job(clock=job.clock, lr=job.lr[step : step + 1]))
        return True

    def _add_up(self, job: Job, rows: Array) -> None:
        """Gradient, loss, right answers and running statistics of all ranks, to each of them."""
        loss, mine = self._trainer._objective, rows[self._share]
        part = self._part(job.sources[1:], rows, mine)
        if isinstance(loss, _Scaled):
            loss.scale, part = part, 1.0
        # With a clock nothing counts the update, so that what it changed is put back.
        clock = None if job.update else job.clock
        sources = [source[mine] for source in job.sources]
        self._body.run(Job(sources, clock=clock, update=job.update))
        np.multiply(self._trainer._flat.grads, part, out=self._grads)
        n = self._grads.size
        self._sums[n] = self._body.result("loss") * part
        self._sums[n + 1] = self._body.result("correct") if "correct" in job.results else 0
        self._running[...] = _joined(self._averaged) / self._ranks.size
        self._ranks.add_up(self._sums)
        self._results |= {"loss": self._sums[n], "correct": round(self._sums[n + 1])}
        if job.update:
            first = 0
            for array in self._averaged:
                array[...] = self._running[first : first + array.size]
                first += array.size

    def _part(self, targets: Sequence[Array], rows: Array, mine: Array) -> float:
        """Factor of this rank's loss in that of the batch."""
        loss = self._trainer.loss
        if getattr(loss, "reduction", "mean") != "mean":
            return 1.0
        whole = loss.weight_of(*(source[rows] for source in targets))
        return loss.weight_of(*(source[mine] for source in targets)) / whole if whole else 0.0

    def result(self, name: str) -> Array:
        return np.array(self._results[name]) if name in self._results else self._commit.result(name)


# ---- batch norm over all ranks ---------------------------------------------------------------


class _Scaled(Loss):
    """A loss times a factor: the gradients within the layers then are those of the whole batch."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self.scale = 1.0

    def __call__(self, pred: Any, target: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        value, dpred = self._loss(pred, target, sample_weight)
        return value * self.scale, dpred * self.scale


def _synchronised(
    ranks: MPI, layer: BatchNorm, x: Array, activation: str | None
) -> tuple[Array, Backprop]:
    """`BatchNorm.forward_fused` in training, with the statistics of all ranks' rows.

    Those of each rank are merged in float64, in the order of the ranks (Chan, Golub & LeVeque
    1983). Backwards, two sums over the rows are exchanged.
    """
    axes = (0, *range(2, x.ndim))
    gamma, beta = layer.params.get("weight"), layer.params.get("bias")
    mean, var, n = _statistics(ranks, x, axes)
    unbiased = n / (n - 1) if layer.unbiased_running_var else 1.0
    for name, value in (("running_mean", mean), ("running_var", var * unbiased)):
        layer.buffers[name] += layer.momentum * (value - layer.buffers[name])
    mean, var = mean.astype(x.dtype), var.astype(x.dtype)
    y, mean, rstd = ops.batch_norm(
        x, gamma, beta, mean, var, training=False, eps=layer.eps, activation=activation
    )

    def backprop(dy: Array, overwrite: bool = False) -> Array | None:
        dx, dgamma, dbeta = ops.batch_norm_backward(
            dy,
            x,
            gamma,
            mean,
            rstd,
            training=False,
            activation=activation,
            y=y if activation else None,
        )
        if layer.affine:
            layer.grads["weight"], layer.grads["bias"] = dgamma, dbeta
        sums = np.stack([dgamma, dbeta])
        ranks.add_up(sums)
        slope = rstd if gamma is None else rstd * gamma
        shape = (1, -1) + (1,) * (x.ndim - 2)
        along = (slope * rstd * sums[0] / n).astype(x.dtype)
        constant = (slope * sums[1] / n).astype(x.dtype) - along * mean
        return np.asarray(dx - (along.reshape(shape) * x + constant.reshape(shape)))

    return y, backprop


def _statistics(ranks: MPI, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, int]:
    """Mean, biased variance (float64) and number of the values of a channel on all ranks."""
    mean = x.mean(axes, dtype=np.float64)
    centred = x - np.expand_dims(mean, axes)
    counts = np.full_like(mean, x.size // x.shape[1])
    counts, means, squares = np.moveaxis(
        ranks.gather(np.stack([counts, mean, (centred**2).sum(axes)])), 1, 0
    )
    n = counts.sum(0)
    mean = (counts * means).sum(0) / n
    squares = squares + counts * (means - mean) ** 2
    return mean, squares.sum(0) / n, int(n[0])


def _layers(trainer: "Trainer", kind: type[L]) -> list[L]:
    return [layer for _, layer in trainer.model.named_layers() if isinstance(layer, kind)]


def _joined(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays) if arrays else np.empty(0)

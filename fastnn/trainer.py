"""The Trainer: a model, a loss and an optimizer compiled into native training steps.

The first step of each batch size records the model's op calls into a plan (`fastnn.engine`); from
then on a step, or a whole epoch, is one native call. On a GPU the plan becomes a graph there
(`fastnn.resident`). Parameters, gradients and optimizer state are one flat array each, of which the
layers hold views.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fastnn import _core, ops, saving
from fastnn.arguments import positive_integer, seed_number
from fastnn.data import Data, Inputs, as_array, as_rows, check_rows, describe, is_on_gpu
from fastnn.distributed import MPI, Shared, join, least_rows
from fastnn.engine import Body, Direct, Eager, Job, Native, Program, Stage
from fastnn.errors import DTypeError
from fastnn.history import EarlyStopping, History
from fastnn.layer import Layer
from fastnn.layers import BatchNorm, Dropout, finish_backprop
from fastnn.losses import Loss
from fastnn.optimizers import Optimizer
from fastnn.parameters import FlatParameters
from fastnn.resident import OnDevice, Resident, device_number
from fastnn.sampler import Batches, Position, cut
from fastnn.schedules import Constant

__all__ = ["EarlyStopping", "History", "Trainer"]

Array: TypeAlias = npt.NDArray[Any]
Schedule: TypeAlias = Callable[[int], float]

_PRECISIONS = ("float32", "float64", "tf32", "bf16")
_INFERENCE_BATCH = 1024
_PROGRAMS_KEPT = 16  # each has the memory of its batch size


def _no_step(*_: Any) -> float | None:
    return None


class _Programs(threading.local):
    """Programs by what they are for, the last used last; every thread has its own."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Any, ...], Program] = {}
        self.arena = _core.Arena()
        self.single: Callable[..., float | None] = _no_step  # on arrays like the last step's

    def get(self, key: tuple[Any, ...], make: Callable[[], Program]) -> Program:
        program = self.kept.pop(key, None) or make()
        self.kept[key] = program
        if len(self.kept) > _PROGRAMS_KEPT:
            del self.kept[next(iter(self.kept))]
        return program


class Trainer:
    """Trains a model; one native call per step or per epoch.

    Parameters
    ----------
    model : Layer
        Usually a `Sequential`. Its parameters are drawn here, from `seed`, unless set before.
    loss : Loss
        For example ``CrossEntropy()``; its reduction must be 'mean' or 'sum'.
    optimizer : Optimizer
        For example ``Adam(lr=1e-3)``.
    device : {'cpu', 'cuda', 'cuda:1', ...}, default 'cpu'
        Where the training runs. On a GPU ('cuda' is the first) every layer, the loss and the
        optimizer must be recordable; data may be arrays of the host, or of CuPy, PyTorch or JAX on
        that GPU, and the model's arrays are brought to the host when they are looked at.
    precision : {'float32', 'float64', 'tf32', 'bf16'}, default 'float32'
        Type of parameters and arithmetic. 'tf32' is float32 on a CPU; on a GPU it rounds the inputs
        of the products to 10 bits of mantissa. 'bf16' rounds them to bfloat16; sums are float32.
    seed : int, default 0
        0 .. 2^64 - 1. Initial values, the order of the batches and dropout follow from it.
    schedule : callable, optional
        ``schedule(t) -> float`` multiplies the learning rate of update t = 0, 1, ...; see
        `fastnn.schedules`.
    clip_grad_norm : float, optional
        Scale the gradient so that its norm is at most this.
    check_finite : bool, default False
        Raise FloatingPointError on a NaN or infinite gradient, with parameters and state as before
        the step. False lets it propagate, as in PyTorch.
    distributed : {'mpi'} or fastnn.MPI, optional
        This process is one of those that ``mpiexec`` started, which train one model: all are given
        the same data, each works on its share of the rows of every batch, and all make the same
        update. The result is that of one process up to rounding, except for dropout, of which
        each draws its own bits. Every method that trains, and `save`, is to be called by all.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range; one array registered as two parameters.
    DeviceError
        Where there is no such GPU, no driver, or no CUDA kernels were built.
    """

    def __init__(
        self,
        model: Layer,
        *,
        loss: Loss,
        optimizer: Optimizer,
        device: str = "cpu",
        precision: str = "float32",
        seed: int = 0,
        schedule: Schedule | None = None,
        clip_grad_norm: float | None = None,
        check_finite: bool = False,
        distributed: str | MPI | None = None,
    ) -> None:
        _check_arguments(loss, precision, clip_grad_norm)
        number = device_number(device)
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self._objective = loss
        self.device, self.precision = device, precision
        self.seed = seed_number("Trainer", seed)
        self.schedule: Schedule = Constant() if schedule is None else schedule
        self.clip_grad_norm = None if clip_grad_norm is None else float(clip_grad_norm)
        self.check_finite = bool(check_finite)
        self.dtype = np.dtype(np.float64 if precision == "float64" else np.float32)
        model.build(None, self.dtype, np.random.Generator(np.random.Philox(self.seed)))
        self._flat = FlatParameters(model, self.dtype)
        if not self._flat.values.size:
            raise ValueError("Trainer: the model has no parameters to train")
        self._state = optimizer.init_state(self._flat.values)
        self._clock = _core.Clock()
        self._updates = self._clock.updates  # a view
        self._position = Position()
        self._programs = _Programs()
        self._class_counts: dict[tuple[Any, ...], int] = {}
        self._prepare_layers()
        layers = [layer for _, layer in model.named_layers()]
        self._recordable = loss.recordable and all(layer.recordable for layer in layers)
        self._has_batch_norm = any(isinstance(layer, BatchNorm) for layer in layers)
        self._resident = None if number is None else self._move(number)
        self._ranks = None if distributed is None else join(self, distributed)

    @property
    def updates(self) -> int:
        """Number of updates done."""
        return int(self._updates)

    @property
    def epochs(self) -> int:
        """Number of epochs that `fit` has completed."""
        return self._position.at(self.updates).epoch

    # ---- training ---------------------------------------------------------------------------

    def step(self, x: Array, y: Array, sample_weight: Array | None = None) -> float:
        """Update the parameters once, by the gradient over these samples.

        Gradients are used up on the way; `loss_and_grad` returns them.

        Parameters
        ----------
        x : array (n, ...)
            Samples, of the Trainer's dtype; uint8 behind a `Rescaling`.
        y : array
            Targets as the loss takes them.
        sample_weight : array (n,), optional
            Weight of each sample, of the Trainer's dtype.

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        DTypeError, ShapeError, LabelError
            Before anything is changed.
        FloatingPointError
            With ``check_finite=True``; nothing is changed then, either.
        """
        self._leave_epoch()
        return self._single("step", x, y, sample_weight, self._rate(self.updates))

    def steps(self, x: Array, y: Array, *, batch_size: int, n: int) -> Array:
        """Make n updates natively, on consecutive batches, over and over, not shuffled.

        Parameters
        ----------
        x, y : array
            As for `step`; at least one batch. Rows after the last whole batch are left out.
        batch_size, n : int
            Samples per update; number of updates.

        Returns
        -------
        ndarray (n,)
            The losses.
        """
        program, job = self._several("steps", x, y, batch_size, n)
        losses = job.results["loss"] = np.empty(job.count, self.dtype)
        self._run(program, job)
        return losses

    def profile(self, x: Array, y: Array, *, batch_size: int, n: int) -> list[Stage]:
        """Make n updates as `steps` does, and time what they consist of.

        Parameters
        ----------
        x, y, batch_size, n
            As for `steps`.

        Returns
        -------
        list of Stage
            In order; each has ``name``, ``flops``, ``bytes``, and the mean ``seconds`` of a step.
            On a GPU the step is one stage, and the time is that of the device.

        Raises
        ------
        TypeError
            For a layer, loss or optimizer of one's own, whose steps have no such stages.
        """
        program, job = self._several("profile", x, y, batch_size, n)
        if not isinstance(program, Native | OnDevice):
            raise TypeError("profile: needs a model, a loss and an optimizer that can be recorded")
        job.seconds = np.zeros(len(program.work))
        self._run(program, job)
        return program.profile(job)

    def loss_and_grad(
        self, x: Array, y: Array, sample_weight: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Loss and its gradient by every parameter; changes nothing.

        Dropout draws the bits of the next update; batch norm uses the batch's statistics. The
        gradient is not clipped.

        Returns
        -------
        loss : float
        gradients : dict of str to ndarray
            By the names of `Layer.named_parameters`.
        """
        loss = self._single("loss_and_grad", x, y, sample_weight, None)
        if self._resident is not None:
            self._resident.pull_gradients()
        return loss, self._flat.gradients()

    def fit(
        self,
        x: Array,
        y: Array,
        *,
        epochs: int = 1,
        batch_size: int = 128,
        shuffle: bool = True,
        drop_last: bool = False,
        sample_weight: Array | None = None,
        validation_data: tuple[Array, Array] | None = None,
        validation_split: float = 0.0,
        early_stopping: EarlyStopping | int | None = None,
        callbacks: Sequence[Callable[[History], object]] = (),
        progress: bool | None = None,
    ) -> History:
        """Train for some epochs.

        After an interruption, or loading a checkpoint made inside an epoch, the first epoch is the
        rest of that one, in the same order, if the data have as many rows.

        Parameters
        ----------
        x, y, sample_weight : array
            As for `step`.
        epochs, batch_size : int
            Passes over the data; samples per update. Under batch norm a last batch of one sample
            joins the batch before it.
        shuffle : bool, default True
            Visit the samples in another order each epoch, drawn from the seed.
        drop_last : bool, default False
            Leave out a last batch that is not full.
        validation_data : (x, y), optional
            Evaluated after every epoch.
        validation_split : float, default 0
            Share of the samples, the last ones, to validate on instead of training.
        early_stopping : EarlyStopping or int, optional
            When to stop; a number is the patience.
        callbacks : sequence of callables, optional
            ``callback(history)`` after every epoch; returning True ends the training.
        progress : bool, optional
            Show a progress bar; by default if standard error is a terminal.

        Returns
        -------
        History

        Raises
        ------
        DTypeError, ShapeError, LabelError, ValueError
            Before anything is changed.
        FloatingPointError
            With ``check_finite=True``; the updates before that one are done.
        KeyboardInterrupt
            Between two updates. The model is fit to go on with, or to be saved.
        """
        epochs = positive_integer("fit", "epochs", epochs)
        batch = positive_integer("fit", "batch_size", batch_size)
        data = self._data("fit", x, y, sample_weight)
        data, validation = self._validation(self._uploaded(data), validation_data, validation_split)
        stopping = _Stopping(self._flat, self._rule(early_stopping, validation is not None))
        if drop_last and len(data) < batch:
            raise ValueError(f"fit: drop_last leaves no batch of {batch} in {len(data)} samples")
        history = History()
        hidden = None if progress is None else not progress  # None: unless on a terminal
        total = epochs * len(data)
        with tqdm(total=total, unit=" samples", unit_scale=True, disable=hidden) as bar:
            for _ in range(epochs):
                self._fit_epoch(data, batch, shuffle, drop_last, history, bar)
                if validation is not None:
                    result = self._evaluate(validation, _INFERENCE_BATCH)
                    history.add_epoch(**{f"val_{name}": v for name, v in result.items()})
                stop = stopping.update(history)
                for callback in callbacks:
                    stop |= callback(history) is True
                if self._ranks.any(stop) if self._ranks else stop:
                    break
        stopping.restore()
        return history

    # ---- using the model --------------------------------------------------------------------

    def evaluate(
        self,
        x: Array,
        y: Array,
        *,
        batch_size: int = _INFERENCE_BATCH,
        sample_weight: Array | None = None,
    ) -> dict[str, float]:
        """Loss, averaged over samples, and accuracy for classification; in inference mode."""
        batch = positive_integer("evaluate", "batch_size", batch_size)
        data = self._uploaded(self._data("evaluate", x, y, sample_weight))
        return self._evaluate(data, batch)

    def predict(self, x: Array, *, batch_size: int = _INFERENCE_BATCH) -> Array:
        """The model's raw outputs, in inference mode.

        Parameters
        ----------
        x : array (n, ...)
            Samples.
        batch_size : int, default 1024
            Samples at a time; makes no difference to the result.

        Returns
        -------
        ndarray (n, ...)
        """
        batch = positive_integer("predict", "batch_size", batch_size)
        data = self._uploaded(Data((self._samples("predict", x, empty=True),)))
        pieces = []
        for first in range(0, max(len(data), 1), batch):
            program = self._program("predict", min(batch, len(data) - first), data)
            program.run(Job(data.sources, first_row=first))
            pieces.append(program.result("pred"))
        return np.concatenate(pieces)

    # ---- checkpoints ------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write weights, optimizer state, step, seed, schedule and sampler position.

        The file (safetensors) appears whole or not at all; of several processes rank 0 writes it.
        """
        if self._ranks is None:
            saving.save(self, path)
        else:
            self._ranks.on_first(lambda: saving.save(self, path))

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Layer | None = None,
        *,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        distributed: str | MPI | None = None,
        device: str = "cpu",
    ) -> "Trainer":
        """Continue from a file that `save` wrote, with the bits of an unbroken run.

        Parameters
        ----------
        path : path
            The checkpoint.
        model, loss, optimizer, schedule : optional
            Needed only for classes of one's own, which the file can't describe.
        distributed : {'mpi'} or fastnn.MPI, optional
            As for the Trainer; of any number of processes, whatever it was before.
        device : str, default 'cpu'
            Where to go on, whichever device the file comes from.

        Raises
        ------
        CheckpointError
            If the file is damaged, of an unknown version, or belongs to another model.
        OSError
            If it can't be read.
        """
        trainer = saving.load(cls, path, device, model, loss, optimizer, schedule)
        trainer._ranks = None if distributed is None else join(trainer, distributed)
        return trainer

    # ---- one epoch --------------------------------------------------------------------------

    def _fit_epoch(
        self, data: Data, batch: int, shuffle: bool, drop_last: bool, history: History, bar: Any
    ) -> None:
        begin = time.perf_counter()
        end = len(data) - len(data) % batch if drop_last else len(data)
        here = self._position = self._position.at(self.updates).entering(end)
        least = least_rows(self._ranks, self._has_batch_norm)
        parts = cut(here.row, len(data), batch, drop_last=drop_last, least=least)
        records: list[dict[str, Array]] = []
        losses: list[Array] = []
        for part in parts:
            for piece in _pieces(part, 1 if bar.disable else 50):
                results = self._fit_batches(data, piece, here, shuffle)
                records.append(results)
                losses.append(results["loss"] * np.float64(piece.size))
                bar.update(piece.end - piece.first)
        seconds = time.perf_counter() - begin
        for name in ("loss", "grad_norm", "lr"):
            history.add_updates(**{name: np.concatenate([results[name] for results in records])})
        samples = end - here.row
        history.add_epoch(
            loss=float(np.concatenate(losses).sum()) / samples,
            accuracy=self._accuracy(data, here, records, shuffle),
            seconds=seconds,
            samples_per_second=samples / seconds,
        )
        bar.set_postfix(loss=f"{history.epochs['loss'][-1]:.4f}")

    def _fit_batches(
        self, data: Data, part: Batches, here: Position, shuffle: bool
    ) -> dict[str, Array]:
        results: dict[str, Array] = {
            name: np.empty(part.count, self.dtype) for name in ("loss", "grad_norm")
        }
        if self.loss.classification:
            results["correct"] = np.empty(part.count, np.int64)
        program = self._program("fit", part.size, data)
        rates = self._rates(part.count)
        self._position = Position(here.epoch, part.first, here.end, self.updates, part.size)
        job = Job(data.sources, part.count, part.first, shuffle, epoch=here.epoch, lr=rates)
        job.results = results
        self._run(program, job)
        return results | {"lr": rates}

    def _accuracy(
        self, data: Data, here: Position, records: list[dict[str, Array]], shuffle: bool
    ) -> float | None:
        """Share of right answers among the rows of an epoch from `here` on."""
        if not self.loss.classification:
            return None
        targets = data.arrays[1]
        if here.row or here.end < len(data):
            rows = slice(here.row, here.end)
            order = _core.permutation(len(data), self.seed, here.epoch)
            targets = targets[order[rows] if shuffle else rows]
        right = sum(int(results["correct"].sum()) for results in records)
        return right / max(self.loss.answers(targets), 1)

    def _validation(
        self, data: Data, given: tuple[Array, Array] | None, share: float
    ) -> tuple[Data, Data | None]:
        if not 0 <= share < 1:
            raise ValueError(f"fit: validation_split must be in [0, 1), got {share!r}")
        if given is not None:
            if share:
                raise ValueError("fit: give validation_data or validation_split, not both")
            return data, self._uploaded(self._data("fit: validation_data", *given))
        if not share:
            return data, None
        training, validation = data.split(share)
        if not len(training) or not len(validation):
            raise ValueError(f"fit: validation_split={share} leaves no samples on one side")
        return training, validation

    def _evaluate(self, data: Data, batch: int) -> dict[str, float]:
        averages = getattr(self.loss, "reduction", "mean") == "mean"
        loss_sum = weight_sum = 0.0
        right = 0
        for first in range(0, len(data), batch):
            count = min(batch, len(data) - first)
            results = {"loss": np.empty(1, self.dtype)}
            if self.loss.classification:
                results["correct"] = np.empty(1, np.int64)
            job = Job(data.sources, first_row=first, results=results)
            self._program("evaluate", count, data).run(job)
            weight = self.loss.weight_of(*data.rows(first, first + count).arrays[1:])
            loss_sum += float(results["loss"][0]) * (weight if averages else 1.0)
            weight_sum += weight
            right += int(results["correct"][0]) if "correct" in results else 0
        result = {"loss": loss_sum / weight_sum if weight_sum else 0.0}
        if self.loss.classification:
            result["accuracy"] = right / max(self.loss.answers(data.arrays[1]), 1)
        return result

    def _rule(
        self, given: EarlyStopping | int | None, has_validation: bool
    ) -> EarlyStopping | None:
        if given is None:
            return None
        if not isinstance(given, EarlyStopping):
            given = EarlyStopping(patience=positive_integer("fit", "early_stopping", given))
        if given.monitor.startswith("val_") and not has_validation:
            raise ValueError(
                f"fit: early_stopping monitors {given.monitor}; "
                "give validation_data or validation_split"
            )
        if given.monitor.endswith("accuracy") and not self.loss.classification:
            raise ValueError(f"fit: early_stopping monitors {given.monitor}, which the loss lacks")
        return given

    # ---- programs ---------------------------------------------------------------------------

    def _rates(self, count: int) -> npt.NDArray[np.float64]:
        """Learning rates of the next updates."""
        first = self.updates
        return np.array([self._rate(t) for t in range(first, first + count)])

    def _rate(self, t: int) -> float:
        """Learning rate of update t."""
        rate = float(self.optimizer.lr * np.float64(self.schedule(t)))
        if not 0 <= rate < math.inf:
            raise ValueError("Trainer: the schedule must give finite factors >= 0")
        return rate

    def _leave_epoch(self) -> None:
        """The updates from here on are no part of the epoch that `fit` was in."""
        if self._position.batch:
            self._position = self._position.at(self.updates)

    def _single(self, where: str, x: Any, y: Any, sample_weight: Any, lr: float | None) -> float:
        """One step on all of these samples, an update if there is a rate; its loss."""
        self._flat.check_held()
        # Arrays of the types and shapes of the step before need no more than this.
        loss = self._programs.single(x, y, sample_weight, lr)
        if loss is not None:
            return loss
        data = self._data(where, x, y, sample_weight)
        program = self._program("step", len(data), data)
        losses = np.empty(1, self.dtype)
        rates = None if lr is None else np.array([lr])
        job = Job(data.sources, lr=rates, results={"loss": losses}, update=lr is not None)
        self._run(program, job)
        if isinstance(program, Native):
            self._programs.single = program.single(self._clock, self._labels(data)).run
        return float(losses[0])

    def _labels(self, data: Data) -> tuple[int, int] | None:
        """Number of classes, and the label to ignore, if the targets are class indices."""
        if data.arrays[1].dtype != np.int64:
            return None
        return self._classes(data.arrays[0]), getattr(self.loss, "ignore_index", 0)

    def _run(self, program: Program, job: Job) -> None:
        """Run training steps, with everything that advances with them."""
        job.clock, job.seed = self._clock, self.seed
        if program.run(job) < job.count:
            name, index = self._flat.locate(int(program.result("nonfinite")))
            raise FloatingPointError(
                f"Trainer: gradient of {name} is not finite at element {index} "
                f"(update {self.updates + 1}); parameters and state are as before"
            )

    def _several(
        self, where: str, x: Array, y: Array, batch_size: int, n: int
    ) -> tuple[Program, Job]:
        """Check the arguments of `steps`; the program of a step, and n of them over the data."""
        data = self._data(where, x, y)
        batch = positive_integer(where, "batch_size", batch_size)
        count = positive_integer(where, "n", n)
        if batch > len(data):
            raise ValueError(
                f"{where}: batch_size must be at most {len(data)} samples, got {batch}"
            )
        self._leave_epoch()
        program = self._program("step", batch, data)
        return program, Job(data.sources, count, wrap=True, lr=self._rates(count))

    def _program(self, kind: str, batch: int, data: Data) -> Program:
        self._flat.check_held()
        inputs = data.inputs(batch)
        return self._programs.get((kind, inputs), lambda: self._new_program(kind, batch, inputs))

    def _new_program(self, kind: str, batch: int, inputs: Inputs) -> Program:
        bodies: dict[str, Body] = {"predict": self._predict_body, "evaluate": self._evaluate_body}
        if kind not in bodies:
            return self._training_program(kind == "fit", batch, inputs)
        body, arena = bodies[kind], self._programs.arena
        if not self._recordable:
            return Eager(batch, body, None)
        return self._placed(Native(arena, inputs, body, dict))

    def _placed(self, recorded: Native) -> Program:
        """A recorded step on the Trainer's device."""
        if self._resident is None:
            return recorded
        return OnDevice(self._resident, self._clock, self._programs.arena, recorded)

    def _training_program(self, numbers: bool, batch: int, inputs: Inputs) -> Program:
        if self._ranks is not None and self._ranks.size > 1:
            return Shared(self, numbers, batch, inputs)

        def body(*arrays: Any) -> dict[str, Any]:
            return self._training_body(numbers, *arrays)

        def commit() -> dict[str, Any]:
            return self._commit(numbers, self._flat.grads)

        arena, buffers = self._programs.arena, self._flat.buffers
        if not self.optimizer.recordable:
            state = [self._flat.values, *self._state.values(), *buffers]
            return Eager(batch, body, Direct(commit), state)
        if not self._recordable:
            return Eager(batch, body, Native(arena, (), dict, commit), buffers)
        return self._placed(Native(arena, inputs, body, commit, buffers))

    def _training_body(self, numbers: bool, x: Any, y: Any, *weight: Any) -> dict[str, Any]:
        pred, backprop = self.model.forward(x, training=True)
        loss, dpred = self._objective(pred, y, *weight)
        results = {"loss": loss}
        if numbers and self.loss.classification:
            results["correct"] = self.loss.correct(pred, y)
        del pred
        if not self._recordable:
            self._flat.grads[...] = 0  # a layer of one's own may leave some out
        finish_backprop(backprop, dpred)
        self._flat.collect(copies=not self._recordable)
        if self.check_finite:
            results["nonfinite"] = ops.first_nonfinite(self._flat.grads)
        return results

    def _commit(self, numbers: bool, grads: Array) -> dict[str, Any]:
        results = {}
        if self.clip_grad_norm is not None:
            results["grad_norm"] = ops.clip_grad_norm(grads, self.clip_grad_norm)
        elif numbers:
            results["grad_norm"] = ops.l2_norm(grads)
        self.optimizer.update(
            self._flat.values,
            grads,
            self._state,
            step=self._clock.step,
            lr=self._clock.lr,
        )
        return results

    def _predict_body(self, x: Any) -> dict[str, Any]:
        return {"pred": self.model.forward(x, training=False)[0]}

    def _evaluate_body(self, x: Any, y: Any, *weight: Any) -> dict[str, Any]:
        pred = self.model.forward(x, training=False)[0]
        results = {"loss": self.loss(pred, y, *weight)[0]}
        if self.loss.classification:
            results["correct"] = self.loss.correct(pred, y)
        return results

    # ---- arguments --------------------------------------------------------------------------

    def _move(self, number: int) -> Resident:
        """Give the model's arrays and the optimizer's copies on a GPU."""
        if not (self._recordable and self.optimizer.recordable):
            raise TypeError(
                "Trainer: on a GPU every layer, the loss and the optimizer must be recordable"
            )
        live = (self._flat.values, *self._state.values(), *self._flat.buffers)
        resident = Resident(number, self._clock, live, self._flat.grads)
        self._flat.settle = resident.settle
        for _, layer in self.model.named_layers():
            layer.settle = resident.settle
        return resident

    def _uploaded(self, data: Data) -> Data:
        """The data where the steps run."""
        return data if self._resident is None else self._resident.upload(data)

    def _prepare_layers(self) -> None:
        self.model.needs_input_grad = False
        for _, layer in self.model.named_layers():
            if hasattr(layer, "precision"):
                layer.precision = self.precision if self.precision in ("tf32", "bf16") else None
            if isinstance(layer, Dropout):
                layer.offset, layer.shared_counter = self._clock.updates, True
                layer.rank = 0
            if isinstance(layer, BatchNorm):
                layer.synchronised = None

    def _data(self, where: str, x: Any, y: Any, sample_weight: Any | None = None) -> Data:
        samples = self._samples(where, x)
        arrays: list[Any] = [samples, self._targets(where, samples, y)]
        if sample_weight is not None:
            weight = self._on_host(where, "sample_weight", sample_weight)
            arrays.append(as_rows(where, "sample_weight", weight, (self.dtype,)))
        data = Data(tuple(arrays))
        data.check_lengths(where)
        return data

    def _samples(self, where: str, x: Any, *, empty: bool = False) -> Any:
        """`x` as rows on the host, or where they lie on the Trainer's GPU."""
        dtypes = (self.dtype, np.uint8)
        if self._resident is None or not is_on_gpu(x):
            return as_rows(where, "x", x, dtypes, empty=empty)
        rows = self._resident.device.borrow(x, where, "x")
        check_rows(where, "x", rows, dtypes, empty=empty)
        return rows

    def _on_host(self, where: str, name: str, array: Any) -> Any:
        """An array of the Trainer's GPU as a copy on the host, others as they are."""
        if self._resident is None or not is_on_gpu(array):
            return array
        return self._resident.device.borrow(array, where, name).numpy()

    def _targets(self, where: str, x: Array, y: Any) -> Array:
        y = as_array(where, "y", self._on_host(where, "y", y))
        if not self.loss.integer_targets or y.ndim > 1:
            return as_rows(where, "y", y, (self.dtype,))
        if y.dtype.kind not in "iu":
            raise DTypeError(f"{where}: y must be integers of shape (n,), got {describe(y)}")
        labels = as_rows(where, "y", y, (y.dtype,))
        ignored = getattr(self.loss, "ignore_index", 0)
        return _core.check_labels(labels, self._classes(x), ignored, where)

    def _classes(self, x: Array) -> int:
        """Length of the model's output for such samples."""
        key = (x.shape[1:], x.dtype)
        if key not in self._class_counts:
            row = Data((x[:1],))
            program = self._program("predict", 1, row)
            program.run(Job(row.sources))
            self._class_counts[key] = program.result("pred").shape[-1]
        return self._class_counts[key]


def _pieces(part: Batches, count: int) -> list[Batches]:
    """A part of an epoch in about so many pieces."""
    step = max(part.count // count, 1)
    starts = range(0, part.count, step)
    return [
        Batches(part.first + i * part.size, part.size, min(step, part.count - i)) for i in starts
    ]


class _Stopping:
    """Follows the monitored value and keeps the best weights."""

    def __init__(self, flat: FlatParameters, rule: EarlyStopping | None) -> None:
        self._flat, self._rule = flat, rule
        self._best: float | None = None
        self._weights: list[Array] | None = None
        self._waited = 0

    def update(self, history: History) -> bool:
        """Take note of an epoch; whether to stop."""
        if self._rule is None:
            return False
        value = history.epochs[self._rule.monitor][-1]
        self._waited += 1
        if self._rule.improved(value, self._best):
            self._best, self._waited = value, 0
            self._weights = self._flat.snapshot() if self._rule.restore_best else None
        return self._waited >= self._rule.patience

    def restore(self) -> None:
        """Go back to the best weights."""
        if self._weights is not None:
            self._flat.restore(self._weights)


def _check_arguments(loss: Loss, precision: str, clip_grad_norm: float | None) -> None:
    if precision not in _PRECISIONS:
        raise ValueError(f"Trainer: precision must be one of {_PRECISIONS}, got {precision!r}")
    if getattr(loss, "reduction", "mean") not in ("mean", "sum"):
        raise ValueError("Trainer: the loss must have reduction 'mean' or 'sum', got 'none'")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"Trainer: clip_grad_norm must be > 0, got {clip_grad_norm!r}")

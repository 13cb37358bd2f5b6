"""The Trainer: a model, a loss and an optimizer compiled into native training steps.

The first step of each batch size records the model's op calls into a plan (`fastnn.engine`); from
then on a step, or a whole epoch, is one native call. Parameters, gradients and optimizer state
are one flat array each, of which the layers hold views.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fastnn import _core, ops, saving
from fastnn.arguments import positive_integer, seed_number
from fastnn.data import Data, as_rows
from fastnn.engine import Eager, Job, Native, Program
from fastnn.errors import DeviceError
from fastnn.history import EarlyStopping, History
from fastnn.layer import Layer
from fastnn.layers import BatchNorm, Dropout
from fastnn.losses import Loss
from fastnn.optimizers import Optimizer
from fastnn.parameters import FlatParameters
from fastnn.schedules import Constant

__all__ = ["EarlyStopping", "History", "Trainer"]

Array: TypeAlias = npt.NDArray[Any]
Schedule: TypeAlias = Callable[[int], float]

_PRECISIONS = ("float32", "float64", "tf32", "bf16")
_INFERENCE_BATCH = 1024


@dataclass
class _Position:
    """Where the sampler is: epochs begun, and rows of the present one that are used."""

    epoch: int = 0
    row: int = 0


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
    device : {'cpu'}, default 'cpu'
        Where the training runs.
    precision : {'float32', 'float64', 'tf32', 'bf16'}, default 'float32'
        Type of parameters and arithmetic. 'tf32' is float32 on a CPU; 'bf16' rounds the inputs of
        the products to bfloat16 and sums in float32.
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

    Raises
    ------
    ValueError, TypeError
        For arguments out of range; one array registered as two parameters.
    DeviceError
        For a device that this build has no kernels for.
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
    ) -> None:
        _check_arguments(loss, device, precision, clip_grad_norm)
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.device, self.precision = device, precision
        self.seed = seed_number("Trainer", seed)
        self.schedule: Schedule = Constant() if schedule is None else schedule
        self.clip_grad_norm = clip_grad_norm
        self.check_finite = check_finite
        self.dtype = np.dtype(np.float64 if precision == "float64" else np.float32)
        model.build(None, self.dtype, np.random.Generator(np.random.Philox(self.seed)))
        self._flat = FlatParameters(model, self.dtype)
        self._state = optimizer.init_state(self._flat.values)
        self._clock = _core.Clock()
        self._position = _Position()
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._lr_schedule: list[float] = []
        self._prepare_layers()
        parts: tuple[Any, ...] = (*(layer for _, layer in model.named_layers()), loss, optimizer)
        self._recordable = all(part.recordable for part in parts)
        self._has_batch_norm = any(isinstance(part, BatchNorm) for part in parts)

    # ---- training ---------------------------------------------------------------------------

    def step(self, x: Array, y: Array, sample_weight: Array | None = None) -> float:
        """Update the parameters once, by the gradient over these samples.

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
        data = self._data("step", x, y, sample_weight)
        loss = np.empty(1, self.dtype)
        self._run("step", len(data), data, Job(data.arrays, results={"loss": loss}))
        return float(loss[0])

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
        data = self._data("steps", x, y)
        batch = positive_integer("steps", "batch_size", batch_size)
        count = positive_integer("steps", "n", n)
        if batch > len(data):
            raise ValueError(f"steps: batch_size must be at most {len(data)} samples, got {batch}")
        losses = np.empty(count, self.dtype)
        job = Job(data.arrays, count, wrap=True, results={"loss": losses})
        self._run("step", batch, data, job)
        return losses

    def loss_and_grad(
        self, x: Array, y: Array, sample_weight: Array | None = None
    ) -> tuple[float, dict[str, Array]]:
        """Loss and its gradient by every parameter; changes nothing.

        Dropout draws the same bits in every call; batch norm uses the batch's statistics.

        Returns
        -------
        loss : float
        gradients : dict of str to ndarray
            By the names of `Layer.named_parameters`.
        """
        data = self._data("loss_and_grad", x, y, sample_weight)
        loss = np.empty(1, self.dtype)
        with self._flat.buffers_kept():
            self._program("step", len(data), data).run(
                Job(data.arrays, results={"loss": loss}, phase="body")
            )
        return float(loss[0]), self._flat.gradients()

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
        rest of that one, in the same order.

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
        """
        epochs = positive_integer("fit", "epochs", epochs)
        batch = positive_integer("fit", "batch_size", batch_size)
        data = self._data("fit", x, y, sample_weight)
        data, validation = self._validation(data, validation_data, validation_split)
        stopping = _Stopping(self._flat, early_stopping, validation is not None)
        batches = _batches(len(data), batch, drop_last, self._has_batch_norm)
        history = History()
        hidden = None if progress is None else not progress  # None: off unless a terminal
        with tqdm(total=epochs * len(data), unit=" samples", unit_scale=True, disable=hidden) as bar:
            for _ in range(epochs):
                self._fit_epoch(data, batches, shuffle, history, bar)
                if validation is not None:
                    result = self._evaluate(validation, _INFERENCE_BATCH)
                    history.add_epoch(**{f"val_{name}": v for name, v in result.items()})
                stop = stopping.update(history)
                for callback in callbacks:
                    stop |= callback(history) is True
                if stop:
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
        return self._evaluate(self._data("evaluate", x, y, sample_weight), batch)

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
        data = Data((as_rows("predict", "x", x, self._input_dtypes()),))
        pieces = []
        for first in range(0, max(len(data), 1), batch):
            count = min(batch, len(data) - first)
            program = self._program("predict", count, data)
            program.run(Job(data.arrays, first_row=first))
            pieces.append(program.result("pred"))
        return np.concatenate(pieces)

    # ---- checkpoints ------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write weights, optimizer state, step, seed, schedule and sampler position.

        The file (safetensors) appears whole or not at all.
        """
        saving.save(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Layer | None = None,
        *,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
    ) -> "Trainer":
        """Continue from a file that `save` wrote, with the bits of an unbroken run.

        Parameters
        ----------
        path : path
            The checkpoint.
        model, loss, optimizer, schedule : optional
            Needed only for classes of one's own, which the file can't describe.

        Raises
        ------
        CheckpointError
            If the file is damaged, of an unknown version, or belongs to another model.
        OSError
            If it can't be read.
        """
        return saving.load(cls, path, model, loss, optimizer, schedule)

    # ---- one epoch --------------------------------------------------------------------------

    def _fit_epoch(
        self, data: Data, batches: "list[_Batches]", shuffle: bool, history: History, bar: Any
    ) -> None:
        begin = time.perf_counter()
        samples = right = answers = 0
        loss_sum = 0.0
        for part in batches:
            first = max(part.first_row, self._position.row)
            chunk = max(part.count // 50, 1) if not bar.disable else part.count
            while first < part.end:
                count = min(chunk, (part.end - first) // part.size)
                results = self._fit_steps(data, part.size, first, count, shuffle, history)
                first += count * part.size
                samples += count * part.size
                loss_sum += float(np.sum(results["loss"], dtype=np.float64)) * part.size
                right += int(results["correct"].sum()) if "correct" in results else 0
                bar.update(count * part.size)
        seconds = time.perf_counter() - begin
        answers = _answers(self.loss, data) * samples / len(data)
        history.add_epoch(
            loss=loss_sum / max(samples, 1),
            accuracy=right / max(answers, 1) if self.loss.classification else None,
            seconds=seconds,
            samples_per_second=samples / seconds,
        )
        bar.set_postfix(loss=f"{history.epochs['loss'][-1]:.4f}")
        self._position = _Position(self._position.epoch + 1)

    def _fit_steps(
        self, data: Data, batch: int, first: int, count: int, shuffle: bool, history: History
    ) -> dict[str, Array]:
        results: dict[str, Array] = {
            "loss": np.empty(count, self.dtype),
            "grad_norm": np.empty(count, self.dtype),
        }
        if self.loss.classification:
            results["correct"] = np.empty(count, np.int64)
        job = Job(data.arrays, count, first, shuffle, epoch=self._position.epoch, results=results)
        before = self.updates
        try:
            self._run("fit", batch, data, job)
        finally:  # an interruption comes between steps: those done are done
            done = self.updates - before
            self._position.row = first + done * batch
            history.add_updates(
                loss=results["loss"][:done],
                grad_norm=results["grad_norm"][:done],
                lr=self._rates(before, done),
            )
        return results

    def _validation(
        self, data: Data, given: tuple[Array, Array] | None, share: float
    ) -> tuple[Data, Data | None]:
        if not 0 <= share < 1:
            raise ValueError(f"fit: validation_split must be in [0, 1), got {share!r}")
        if given is not None:
            if share:
                raise ValueError("fit: give validation_data or validation_split, not both")
            return data, self._data("fit: validation_data", *given)
        if not share:
            return data, None
        training, validation = data.split(share)
        if not len(training) or not len(validation):
            raise ValueError(f"fit: validation_split={share} leaves no samples on one side")
        return training, validation

    def _evaluate(self, data: Data, batch: int) -> dict[str, float]:
        loss_sum = weight_sum = right = 0.0
        for first in range(0, len(data), batch):
            count = min(batch, len(data) - first)
            results = {"loss": np.empty(1, self.dtype)}
            if self.loss.classification:
                results["correct"] = np.empty(1, np.int64)
            self._program("evaluate", count, data).run(
                Job(data.arrays, first_row=first, results=results)
            )
            part = Data(tuple(a[first : first + count] for a in data.arrays))
            weight = self.loss.weight_of(*part.arrays[1:])
            loss_sum += float(results["loss"][0]) * (weight if self.loss.reduction == "mean" else 1)
            weight_sum += weight
            right += int(results["correct"][0]) if "correct" in results else 0
        result = {"loss": loss_sum / weight_sum if weight_sum else 0.0}
        if self.loss.classification:
            result["accuracy"] = right / max(_answers(self.loss, data), 1)
        return result

    # ---- programs ---------------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Number of updates done."""
        return int(self._clock.step)

    def _rates(self, first: int, count: int) -> npt.NDArray[np.float64]:
        factors = [self.schedule(t) for t in range(first, first + count)]
        rates = self.optimizer.lr * np.array(factors, np.float64)
        if not np.all((rates >= 0) & (rates < np.inf)):
            raise ValueError("Trainer: the schedule must give finite factors >= 0")
        return rates

    def _run(self, kind: str, batch: int, data: Data, job: Job) -> None:
        """Run training steps, with everything that advances with them."""
        program = self._program(kind, batch, data)
        job.clock, job.seed = self._clock, self.seed
        job.lr = self._rates(self.updates, job.count)
        if not self.check_finite:
            program.run(job)
            return
        for step in range(job.count):
            self._run_checked(program, job, step, batch)

    def _run_checked(self, program: Program, job: Job, step: int, batch: int) -> None:
        """One step that stops before it changes anything if a gradient is not finite."""
        bad = np.empty(1, np.int64)
        one = {name: array[step : step + 1] for name, array in job.results.items()}
        first = job.first_row + step * batch
        if job.wrap:
            first = step % (len(job.sources[0]) // batch) * batch
        assert job.lr is not None
        single = Job(
            job.sources, 1, first, job.shuffle, False, job.seed, job.epoch, job.lr[step:],
            job.clock, {**one, "nonfinite": bad}, "body",
        )  # fmt: skip
        before = self._flat.snapshot()
        program.run(single)
        if bad[0] >= 0:
            self._flat.restore(before)
            self._clock.step[...] -= 1
            self._clock.counter[...] -= 1
            name, index = self._flat.locate(int(bad[0]))
            raise FloatingPointError(
                f"Trainer: gradient of {name} is not finite at element {index} "
                f"(update {self.updates + 1}); parameters and state are as before"
            )
        single.phase, single.clock, single.results = "commit", None, {}
        program.run(single)

    def _program(self, kind: str, batch: int, data: Data) -> Program:
        inputs = data.inputs(batch)
        key = (kind, inputs)
        if key not in self._programs:
            training = kind in ("step", "fit")
            body = {"predict": self._predict_body, "evaluate": self._evaluate_body}.get(
                kind, lambda *arrays: self._training_body(kind == "fit", *arrays)
            )
            commit = self._update if training else _nothing
            with _settled(self._clock):
                self._programs[key] = (
                    Native(inputs, body, commit)
                    if self._recordable
                    else Eager(batch, body, commit)
                )
        return self._programs[key]

    def _training_body(self, numbers: bool, x: Any, y: Any, *weight: Any) -> dict[str, Any]:
        pred, backprop = self.model.forward(x, training=True)
        loss, dpred = self.loss(pred, y, *weight)
        results = {"loss": loss}
        if numbers and self.loss.classification:
            results["correct"] = self.loss.correct(pred, y)
        del pred
        backprop(dpred, overwrite=True) if self._recordable else backprop(dpred)
        del dpred
        if self.check_finite:
            results["nonfinite"] = ops.first_nonfinite(self._flat.grads)
        if self.clip_grad_norm is not None:
            results["grad_norm"] = ops.clip_grad_norm(self._flat.grads, self.clip_grad_norm)
        elif numbers:
            results["grad_norm"] = ops.l2_norm(self._flat.grads)
        return results

    def _update(self) -> None:
        self.optimizer.update(
            self._flat.values,
            self._flat.grads,
            self._state,
            step=self._clock.step,
            lr=self._clock.lr,
        )

    def _predict_body(self, x: Any) -> dict[str, Any]:
        return {"pred": self.model.forward(x, training=False)[0]}

    def _evaluate_body(self, x: Any, y: Any, *weight: Any) -> dict[str, Any]:
        pred = self.model.forward(x, training=False)[0]
        results = {"loss": self.loss(pred, y, *weight)[0]}
        if self.loss.classification:
            results["correct"] = self.loss.correct(pred, y)
        return results

    # ---- arguments --------------------------------------------------------------------------

    def _prepare_layers(self) -> None:
        needs_gradient = False
        for index, (_, layer) in enumerate(self.model.named_layers()):
            if layer.children():
                continue
            layer.needs_input_grad = needs_gradient
            needs_gradient |= bool(layer.params)
            if hasattr(layer, "precision"):
                layer.precision = "bf16" if self.precision == "bf16" else None
            if isinstance(layer, Dropout):
                stream = np.random.SeedSequence(self.seed, spawn_key=(index,))
                layer.seed = int(stream.generate_state(1, np.uint64)[0])
                layer.offset, layer.shared_counter = self._clock.counter, True

    def _data(
        self, where: str, x: Any, y: Any, sample_weight: Any | None = None
    ) -> Data:
        arrays = [as_rows(where, "x", x, (self.dtype, np.uint8))]
        integer = getattr(y, "dtype", None) is not None and np.dtype(y.dtype).kind in "iu"
        if self.loss.integer_targets and integer:
            labels = as_rows(where, "y", y, (y.dtype,))
            ignored = getattr(self.loss, "ignore_index", -1)
            arrays.append(
                _core.check_labels(labels, self._classes(arrays[0]), ignored, where)
            )
        else:
            arrays.append(as_rows(where, "y", y, (self.dtype,)))
        if sample_weight is not None:
            arrays.append(as_rows(where, "sample_weight", sample_weight, (self.dtype,)))
        data = Data(tuple(arrays))
        data.check_lengths(where)
        return data

    def _classes(self, x: Array) -> int:
        """Length of the model's output."""
        program = self._program("predict", 1, Data((x,)))
        if not self._recordable:
            program.run(Job((x,)))
        return program.result("pred").shape[-1]


@dataclass(frozen=True)
class _Batches:
    """Consecutive batches of one size within an epoch."""

    first_row: int
    size: int
    count: int

    @property
    def end(self) -> int:
        return self.first_row + self.size * self.count


def _batches(rows: int, size: int, drop_last: bool, batch_norm: bool) -> list[_Batches]:
    """How an epoch is cut. Batch norm can't take a single sample: it joins the batch before."""
    count, rest = divmod(rows, size)
    if rest == 1 and batch_norm and count and not drop_last:
        count, rest = count - 1, size + 1
    parts = [_Batches(0, size, count)]
    if rest and not drop_last:
        parts.append(_Batches(count * size, rest, 1))
    return [part for part in parts if part.count]


class _Stopping:
    """Follows the monitored value and keeps the best weights."""

    def __init__(
        self, flat: FlatParameters, rule: EarlyStopping | int | None, has_validation: bool
    ) -> None:
        if isinstance(rule, int):
            rule = EarlyStopping(patience=positive_integer("fit", "early_stopping", rule))
        if rule is not None and rule.monitor.startswith("val_") and not has_validation:
            raise ValueError(
                f"fit: early_stopping monitors {rule.monitor}; "
                "give validation_data or validation_split"
            )
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


@contextmanager
def _settled(clock: _core.Clock) -> Iterator[None]:
    """Recording checks arguments as they stand; before the first update there is no step yet."""
    before = float(clock.step)
    clock.step[...] = max(before, 1)
    try:
        yield
    finally:
        clock.step[...] = before


def _nothing() -> None:
    """What a program that changes nothing commits."""


def _answers(loss: Loss, data: Data) -> int:
    return loss.answers(data.arrays[1]) if loss.classification else 0


def _check_arguments(
    loss: Loss, device: str, precision: str, clip_grad_norm: float | None
) -> None:
    if device == "cuda":
        raise DeviceError("Trainer: device 'cuda': this build of fastnn has no CUDA kernels")
    if device != "cpu":
        raise ValueError(f"Trainer: device must be 'cpu' or 'cuda', got {device!r}")
    if precision not in _PRECISIONS:
        raise ValueError(f"Trainer: precision must be one of {_PRECISIONS}, got {precision!r}")
    if getattr(loss, "reduction", "mean") not in ("mean", "sum"):
        raise ValueError("Trainer: the loss must have reduction 'mean' or 'sum', got 'none'")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"Trainer: clip_grad_norm must be > 0, got {clip_grad_norm!r}")

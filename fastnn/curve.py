"""The batch-size curve: how long one update and one epoch take, from one sample to all at once.

Every row is the median of many updates on one batch with a fresh network (on a GPU of its own
times, with the batch in its memory); libraries to compare with
run in the same process, in turns, from the same weights. An epoch that would take long is worked
out from its updates, and marked so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

from numpy.typing import NDArray

import fastnn as fnn
from fastnn.floor import Floor, adam_loop, take_turns, time_calls
from fastnn.peers import PEERS, Setup, Step

__all__ = [
    "LR",
    "MOST_UPDATES",
    "SIZES",
    "VARIANTS",
    "Effort",
    "Row",
    "default_batches",
    "linear_weights",
    "make_steps",
    "measure",
    "network",
]

SIZES = (784, 512, 512, 10)
LR = 1e-3
VARIANTS = {"plain": False, "batch-norm": True}

_ADAM = "adam"
MOST_UPDATES = 200  # calls: fewer than it takes a dead unit's moments to decay into denormals

Array = NDArray[Any]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    probe_seconds : float
        Time for each rate of the machine.
    update_seconds : float
        Time for a library's updates (at least three are made, at most 200).
    epoch_seconds : float
        An epoch that takes longer is worked out from its updates, others are run.
    """

    probe_seconds: float = 0.3
    update_seconds: float = 0.5
    epoch_seconds: float = 4.0


@dataclass(frozen=True)
class Row:
    """Timings of one library at one batch size; every sample, in seconds."""

    variant: str
    batch: int
    library: str
    samples_in_epoch: int
    update_samples: Sequence[float]
    floor: float
    epoch_samples: Sequence[float] = ()

    @property
    def update(self) -> float:
        """Median seconds of an update."""
        return median(self.update_samples)

    @property
    def epoch(self) -> float:
        """Median seconds of an epoch, or what its updates add up to."""
        if self.epoch_samples:
            return median(self.epoch_samples)
        return self.update * self.samples_in_epoch / self.batch

    @property
    def share(self) -> float:
        """The floor's share of the update: 1 is as fast as the machine allows."""
        return self.floor / self.update

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON, in the units of the table."""
        return {
            "variant": self.variant,
            "batch": self.batch,
            "library": self.library,
            "update_us": self.update * 1e6,
            "floor_us": self.floor * 1e6,
            "share_of_floor": self.share,
            "epoch_s": self.epoch,
            "epoch_measured": bool(self.epoch_samples),
            "update_samples_us": [sample * 1e6 for sample in self.update_samples],
            "epoch_samples_s": list(self.epoch_samples),
        }


def network(sizes: Sequence[int], batch_norm: bool, scale: float | None = None) -> fnn.Sequential:
    """Build a dense ReLU network, with ``Rescaling(scale)`` in front of integer inputs."""
    layers: list[Any] = [] if scale is None else [fnn.Rescaling(scale)]
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [fnn.Linear(inputs, outputs), *[fnn.BatchNorm(outputs)] * batch_norm, fnn.ReLU()]
    return fnn.Sequential(*layers, fnn.Linear(sizes[-2], sizes[-1]))


def default_batches(samples: int) -> list[int]:
    """Return 1, 2, 4 and so on, the round sizes, and all samples at once."""
    powers = (2**i for i in range(11))
    return sorted({size for size in (*powers, 1000, 10_000) if size < samples} | {samples})


def measure(
    x: Array,
    y: Array,
    *,
    variant: str,
    batches: Sequence[int],
    peers: Sequence[str],
    floor: Floor | None,
    effort: Effort,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[list[Row]]:
    """Yield the rows of one batch size after another, fastnn's first.

    Parameters
    ----------
    x : ndarray of float32, shape (n, 784)
        All samples of an epoch.
    y : ndarray of int64, shape (n,)
        Their classes.
    variant : str
        A name in `VARIANTS`.
    batches : sequence of int
        Batch sizes; a batch of one is left out with batch norm, as it has no variance.
    peers : sequence of str
        Names in `fastnn.peers.PEERS`.
    floor : Floor or None
        Of the network `SIZES`; None where it is not known: on a GPU.
    effort : Effort
        How long to measure.
    seed : int, default 0
        Of the weights and of the order of samples.
    device : str, default 'cpu'
        Where fastnn trains. Other libraries are timed on the CPU alone.

    Raises
    ------
    ValueError
        A batch is larger than the data.
    RuntimeError
        A library's first loss differs from fastnn's: it is not the same computation.
    """
    if max(batches) > len(x):
        raise ValueError(f"batch {max(batches)} is larger than the data, {len(x)} samples")
    batch_norm = VARIANTS[variant]
    for batch in batches:
        if batch_norm and batch == 1:
            continue
        trainer, steps = make_steps(SIZES, batch_norm, x[:batch], y[:batch], peers, seed, device)
        # The floor's Adam takes turns, too: how much of a cache others leave varies in a run.
        pauses = {} if peers else {"pause": 0.0}
        if floor is None:
            timed = {"fastnn": _on_device(trainer, x[:batch], y[:batch], effort.update_seconds)}
            least = math.nan
        else:
            calls = {**steps, _ADAM: adam_loop(SIZES)}
            timed = take_turns(calls, effort.update_seconds, MOST_UPDATES, **pauses)
            least = floor.seconds(batch, median(timed.pop(_ADAM)))
        ours, *others = (
            Row(variant, batch, name, len(x), taken, least) for name, taken in timed.items()
        )
        if ours.epoch <= effort.epoch_seconds:
            fit = partial(trainer.fit, x, y, batch_size=batch, progress=False)
            ours = replace(ours, epoch_samples=time_calls(fit, effort.epoch_seconds / 2, 3))
        yield [ours, *others]


def _on_device(trainer: fnn.Trainer, x: Array, y: Array, budget: float) -> list[float]:
    """A GPU's own seconds of an update, data in its memory: means of ten updates."""
    samples: list[float] = []

    def updates() -> None:
        (stage,) = trainer.profile(x, y, batch_size=len(x), n=10)
        samples.append(stage.seconds)

    time_calls(updates, budget, MOST_UPDATES // 10)
    return samples


def make_steps(
    sizes: Sequence[int],
    batch_norm: bool,
    x: Array,
    y: Array,
    peers: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> tuple[fnn.Trainer, dict[str, Step]]:
    """Return a new Trainer, and by library the call that makes one update on ``x`` and ``y``.

    All start from the same weights, and each has made one update, whose loss was the same. A
    library that lacks batch norm is left out of networks that have it.
    """
    model = network(sizes, batch_norm)
    trainer = fnn.Trainer(
        model, loss=fnn.CrossEntropy(), optimizer=fnn.Adam(lr=LR), seed=seed, device=device
    )
    setup = Setup(linear_weights(model), batch_norm, x, y, LR, fnn.get_num_threads())
    steps: dict[str, Step] = {"fastnn": lambda: trainer.step(x, y)}
    for name in peers:
        if PEERS[name].batch_norm or not batch_norm:
            steps[name] = PEERS[name].step(setup)
    _require_same_loss({name: step() for name, step in steps.items()})
    return trainer, steps


def linear_weights(model: fnn.Sequential) -> list[tuple[Array, Array]]:
    """Return each Linear's weight and bias."""
    params = dict(model.named_parameters())
    weights = [name for name, array in params.items() if array.ndim == 2]
    return [(params[name], params[name.replace("weight", "bias")]) for name in weights]


def _require_same_loss(losses: Mapping[str, float]) -> None:
    ours = losses["fastnn"]
    for name, loss in losses.items():
        if not math.isclose(loss, ours, rel_tol=1e-3, abs_tol=1e-3):
            raise RuntimeError(f"first loss of {name} is {loss}, of fastnn {ours}: not comparable")

"""The dense network behind `fastnn.sklearn`, and the objective that scikit-learn gives it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastnn import ops
from fastnn.layers import BatchNorm, Layer, Linear, ReLU, Sequential, Sigmoid, Tanh
from fastnn.losses import Loss
from fastnn.optimizers import Optimizer
from fastnn.sampler import Batches, cut
from fastnn.trainer import Trainer

__all__ = ["ACTIVATIONS", "OUTPUTS", "Design", "Network", "Objective"]

Array: TypeAlias = npt.NDArray[Any]

_PIECE_BYTES = 4 << 20  # of samples gathered at a time

# By scikit-learn's names: hidden layer, and how `ops.matmul` calls it; loss, and the factor of its
# mean over samples (of the sum over outputs).
ACTIVATIONS: dict[str, tuple[type[Layer] | None, str | None]] = {
    "identity": (None, None),
    "logistic": (Sigmoid, "sigmoid"),
    "tanh": (Tanh, "tanh"),
    "relu": (ReLU, "relu"),
}
OUTPUTS: dict[str, tuple[Callable[..., Any], float]] = {
    "softmax": (ops.softmax_cross_entropy, 1.0),
    "logistic": (ops.sigmoid_cross_entropy, 1.0),
    "identity": (ops.mse, 0.5),
}


class _PenalisedLinear(Linear):
    """A `Linear` whose weight belongs to the penalty of an `Objective`."""

    objective: "Objective"

    def _backprop(self, x: Any, dy: Any, overwrite: bool = False) -> Any:
        dx = super()._backprop(x, dy, overwrite)
        weight, share = self.params["weight"], self.objective.penalty.share
        ops.sgd_step(self.grads["weight"], weight, lr=share, maximize=True)  # += share * weight
        return dx


class _Penalty:
    """Arrays with alpha / n, which recorded steps read afresh."""

    def __init__(self, share: float, dtype: np.dtype[Any]) -> None:
        self.share = np.array(share, np.float64)
        self.half = np.array([[share / 2]], dtype)

    def set(self, share: float) -> None:
        self.share[...], self.half[...] = share, share / 2


class Objective(Loss):
    """Loss of a batch plus an L2 penalty of the weights, ``alpha / 2 * sum(W^2) / n``.

    n is the number of samples in the batch, or the sum of their weights; `weights` makes what
    `__call__` takes as weights. The gradient is that of the sum over outputs.

    Parameters
    ----------
    output : {'softmax', 'logistic', 'identity'}
        Cross-entropy over classes, that of each output, or half the squared error.
    alpha : float
        Strength of the penalty.
    layers : sequence of Layer
        Those with penalised weights.
    dtype : dtype
        Of the network.
    mean_of : int, default 1
        The value, unlike the gradient, divides the loss by this number of outputs.
    """

    recordable = True

    def __init__(
        self,
        output: str,
        alpha: float,
        layers: Sequence[Layer],
        dtype: np.dtype[Any],
        mean_of: int = 1,
    ) -> None:
        self.integer_targets = output == "softmax"  # type: ignore[misc]
        self._loss, self._factor = OUTPUTS[output]
        self._alpha, self._layers, self._dtype = alpha, layers, dtype
        self._part = np.array([[1 / mean_of]], dtype)
        self._means: dict[int, Array] = {}  # by number of samples: their weights without weights
        self._penalties: dict[tuple[int, bool], _Penalty] = {}

    def weights(self, sample_weight: Array) -> Array:
        """Weights of the next batch's samples as `__call__` takes them; their sum is n there."""
        n = float(sample_weight.sum(dtype="float64"))
        self._penalty(len(sample_weight), True).set(self._alpha / n)
        return sample_weight * (self._factor / n)

    def _penalty(self, rows: int, weighted: bool) -> _Penalty:
        """That of batches of so many samples; theirs alone, for it outlives plans made with it."""
        new = _Penalty(self._alpha / rows, self._dtype)
        return self._penalties.setdefault((rows, weighted), new)

    def __call__(self, pred: Any, target: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        rows = len(pred)
        self.penalty = self._penalty(rows, sample_weight is not None)
        if sample_weight is None:
            mean = np.full(rows, self._factor / rows, self._dtype)
            sample_weight = self._means.setdefault(rows, mean)
        value, dpred = self._loss(pred, target, sample_weight=sample_weight, reduction="sum")
        if self._part != 1:
            value = ops.matmul(value.reshape(1, 1), self._part)
        if self._alpha:
            squares = self._sum_of_squares()
            value = ops.matmul(squares, self.penalty.half, bias=value.reshape(1))
        return value.reshape(()), dpred

    def _sum_of_squares(self) -> Any:
        total = None
        for layer in self._layers:
            norm = ops.l2_norm(layer.params["weight"]).reshape(1, 1)
            total = ops.matmul(norm, norm, bias=None if total is None else total.reshape(1))
        return total


@dataclass(frozen=True)
class Design:
    """What a `Network` is made from.

    Attributes
    ----------
    sizes : sequence of int
        Features, hidden widths, outputs.
    activation, output : str
        Keys of `ACTIVATIONS` and `OUTPUTS`.
    optimizer : Optimizer
        With ``lr=1``; the network keeps the rate.
    alpha, mean_of
        See `Objective`.
    dtype : dtype
        float32 or float64.
    batch_norm : bool
        Normalise every hidden layer before its activation.
    device : str
        Where the `Trainer` runs.
    """

    sizes: Sequence[int]
    activation: str
    output: str
    optimizer: Optimizer
    alpha: float
    mean_of: int
    dtype: np.dtype[Any]
    batch_norm: bool
    device: str


class Network:
    """A dense network with its objective, optimizer and learning rate; picklable."""

    def __init__(self, design: Design) -> None:
        self._design, self.dtype = design, design.dtype
        kind = _PenalisedLinear if design.alpha else Linear
        self._linears = [kind(n, m) for n, m in pairwise(design.sizes)]
        hidden = design.sizes[1:-1]
        self._norms = [BatchNorm(width) for width in hidden] if design.batch_norm else []
        self._objective = Objective(
            design.output, design.alpha, self._linears, design.dtype, design.mean_of
        )
        for linear in self._linears:
            if isinstance(linear, _PenalisedLinear):
                linear.objective = self._objective
        self._rate = 1.0
        self._trainer = Trainer(
            Sequential(*self._layers(ACTIVATIONS[design.activation][0])),
            loss=self._objective,
            optimizer=design.optimizer,
            schedule=lambda _: self._rate,
            precision=self.dtype.name,
            device=design.device,
        )

    def _layers(self, activation: type[Layer] | None) -> Iterator[Layer]:
        for i, linear in enumerate(self._linears[:-1]):
            yield linear
            yield from self._norms[i : i + 1]
            if activation:
                yield activation()
        yield self._linears[-1]

    # ---- state ------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {
            "design": self._design,
            "model": self._trainer.model.state_dict(),
            "optimizer": self._trainer._state,
            "updates": self._trainer.updates,
            "rate": self._rate,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Network.__init__(self, state["design"])
        self._trainer.model.load_state_dict(state["model"])
        for name, array in state["optimizer"].items():
            self._trainer._state[name][...] = array
        self._trainer._clock.set(state["updates"])
        self._rate = state["rate"]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate; scikit-learn's velocity has the old one in it, ours has none."""
        if "velocity" in self._trainer._state:
            self._trainer._state["velocity"] *= self._rate / rate
        self._rate = rate

    def write(
        self, coefs: list[Array], intercepts: list[Array], norms: list[dict[str, Array]]
    ) -> None:
        """Set weights, biases and, with batch norm, the state of these layers."""
        for linear, weight, bias in zip(self._linears, coefs, intercepts, strict=True):
            linear.weight, linear.bias = weight.astype(self.dtype), bias.astype(self.dtype)
        for norm, state in zip(self._norms, norms, strict=True):
            norm.load_state_dict(state)

    def read(self) -> tuple[list[Array], list[Array], list[dict[str, Array]]]:
        """Copies of what `write` sets."""
        return (
            [_host(linear.weight) for linear in self._linears],
            [_host(linear.bias) for linear in self._linears],
            [{k: _host(a) for k, a in norm.state_dict().items()} for norm in self._norms],
        )

    # ---- training ---------------------------------------------------------------------------

    def epoch(
        self,
        x: Callable[[Any], Array],
        y: Array,
        sample_weight: Array | None,
        order: Array | None,
        batch: int,
    ) -> float:
        """Make the updates of one epoch.

        Parameters
        ----------
        x : callable
            ``x(rows)`` gives some of the samples, by slice or indices.
        y, sample_weight : array
            One element per sample; without weights, None.
        order : int array, optional
            In which to visit the samples.
        batch : int
            Samples per update. Under batch norm a last batch of one joins the batch before it.

        Returns
        -------
        float
            Mean over the samples of their batches' losses.
        """
        total = 0.0
        for part in cut(0, len(y), batch, drop_last=False, least=2 if self._norms else 1):
            for piece in self._pieces(part, sample_weight is not None):
                rows: Any = slice(piece.first, piece.end)
                rows = rows if order is None else order[rows]
                weight = None if sample_weight is None else sample_weight[rows]
                total += piece.size * self._steps(x(rows), y[rows], weight, piece.size, piece.count)
        return total / len(y)

    def _pieces(self, part: Batches, single: bool) -> Iterator[Batches]:
        """Some batches at a time, so many that their samples still are in cache when used."""
        row_bytes = self._linears[0].in_features * self.dtype.itemsize
        most = 1 if single else max(_PIECE_BYTES // max(row_bytes * part.size, 1), 1)
        for i in range(0, part.count, most):
            first = part.first + i * part.size
            yield Batches(first, part.size, min(most, part.count - i))

    def _steps(self, x: Array, y: Array, weight: Array | None, batch: int, count: int) -> float:
        """Sum of the losses of some updates; of one, if there are weights."""
        if weight is None:
            losses = self._trainer.steps(x, y, batch_size=batch, n=count)
            return float(losses.sum(dtype=np.float64))
        if not weight.any():
            return 0.0  # nothing to learn from
        return self._trainer.step(x, y, self._objective.weights(weight))

    def loss_and_grad(
        self, theta: Array, x: Array, y: Array, weight: Array | None
    ) -> tuple[float, Array]:
        """Loss and gradient, float64, at the parameters `theta`, float64, which stay set."""
        self.parameters = theta
        scaled = None if weight is None else self._objective.weights(weight)
        loss, gradients = self._trainer.loss_and_grad(x, y, scaled)
        return loss, _joined(gradients.values())

    @property
    def parameters(self) -> Array:
        """All parameters in one float64 array."""
        return _joined(array for _, array in self._trainer.model.named_parameters())

    @parameters.setter
    def parameters(self, theta: Array) -> None:
        first = 0
        for _, layer in self._trainer.model.named_layers():
            for name, array in layer.params.items():
                part = theta[first : first + array.size].reshape(array.shape)
                setattr(layer, name, part.astype(self.dtype))
                first += array.size

    def set_statistics(self, x: Array) -> None:
        """Set the running statistics of batch norm to those of these samples."""
        momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 1.0
        self._trainer.model.forward(x, training=True)
        for norm, momentum in zip(self._norms, momenta, strict=True):
            norm.momentum = momentum


def _joined(arrays: Any) -> Array:
    return np.concatenate([_host(array).ravel() for array in arrays]).astype(np.float64)


def _host(array: Any) -> Array:
    """A copy of an array, from a GPU too, in the CPU's memory."""
    return np.array(array.get() if hasattr(array, "get") else array)

"""What training leaves behind: numbers of every epoch and every update, and their picture."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.arguments import positive_integer

__all__ = ["EarlyStopping", "History"]

Numbers = npt.NDArray[np.float64]

_EPOCH_NAMES = (
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "seconds",
    "samples_per_second",
)
_UPDATE_NAMES = ("loss", "lr", "grad_norm")


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a value has not improved for a while, and go back to the best weights.

    Parameters
    ----------
    monitor : str, default 'val_loss'
        Key of `History.epochs`; a name with ``accuracy`` is better when larger, others when
        smaller.
    patience : int, default 5
        Epochs without improvement before training stops.
    min_delta : float, default 0.0
        Smallest change that counts as an improvement.
    restore_best : bool, default True
        Go back to the weights of the best epoch at the end.

    Raises
    ------
    ValueError
        For an unknown monitor, a patience that is no integer >= 1, or min_delta < 0.
    """

    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.monitor not in _EPOCH_NAMES:
            raise ValueError(
                f"EarlyStopping: monitor must be one of {_EPOCH_NAMES}, got {self.monitor!r}"
            )
        positive_integer("EarlyStopping", "patience", self.patience)
        if not self.min_delta >= 0:
            raise ValueError(f"EarlyStopping: min_delta must be >= 0, got {self.min_delta}")

    def improved(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far."""
        if best is None:
            return value == value
        sign = 1 if "accuracy" in self.monitor else -1
        return sign * (value - best) > self.min_delta


@dataclass
class History:
    """Numbers of one call of `Trainer.fit`.

    Attributes
    ----------
    epochs : dict of str to list of float
        ``loss``, ``accuracy`` (classification only, else empty), ``val_loss``, ``val_accuracy``
        (empty without validation data), ``seconds`` of training, ``samples_per_second``.
    updates : dict of str to ndarray
        ``loss``, ``lr``, ``grad_norm`` (before clipping) of every update.
    """

    epochs: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in _EPOCH_NAMES}
    )
    updates: dict[str, Numbers] = field(
        default_factory=lambda: {name: np.empty(0) for name in _UPDATE_NAMES}
    )

    def add_epoch(self, **numbers: float | None) -> None:
        """Append one epoch's numbers; None leaves a list as it is."""
        for name, value in numbers.items():
            if value is not None:
                self.epochs[name].append(value)

    def add_updates(self, **numbers: npt.ArrayLike) -> None:
        """Append the numbers of some updates."""
        for name, values in numbers.items():
            new = np.asarray(values, np.float64)
            self.updates[name] = np.concatenate([self.updates[name], new])

    def plot(self) -> Any:
        """Draw loss, accuracy, learning rate and gradient norm.

        Returns
        -------
        matplotlib.figure.Figure
            Save it with ``.savefig("training.png")``.

        Raises
        ------
        ImportError
            Without matplotlib (``pip install 'fastnn[plot]'``).
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            message = "History.plot needs matplotlib; use pip install 'fastnn[plot]'"
            raise ImportError(message) from error
        figure = Figure(figsize=(10, 7), layout="constrained")
        axes = figure.subplots(2, 2)
        self._plot_epochs(axes[0, 0], "loss", "loss")
        self._plot_epochs(axes[0, 1], "accuracy", "accuracy")
        self._plot_updates(axes[1, 0], "loss", "loss of each update")
        self._plot_updates(axes[1, 1], "grad_norm", "gradient norm")
        rate = axes[1, 1].twinx()
        rate.plot(self.updates["lr"], color="tab:orange", linewidth=1)
        rate.set_ylabel("learning rate", color="tab:orange")
        rate.set_ylim(bottom=0)
        return figure

    def _plot_epochs(self, axes: Any, name: str, label: str) -> None:
        for key, text in ((name, "training"), (f"val_{name}", "validation")):
            values = self.epochs[key]
            if values:
                axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=text)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)

    def _plot_updates(self, axes: Any, name: str, label: str) -> None:
        axes.plot(self.updates[name], linewidth=0.8)
        axes.set_xlabel("update")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)

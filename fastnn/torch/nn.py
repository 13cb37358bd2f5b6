"""PyTorch's layers and loss on fastnn's kernels.

Each is derived from the layer of the same name in ``torch.nn``: the same arguments, parameters,
initial values and ``state_dict``.
"""

from typing import Any

import torch

from fastnn.torch import functional as F

Tensor = Any

__all__ = [
    "GELU",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CrossEntropyLoss",
    "Hardsigmoid",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class Linear(torch.nn.Linear):
    """`torch.nn.Linear`, with an activation in the same pass where wanted.

    Parameters
    ----------
    *args, **kwargs
        As of `torch.nn.Linear`.
    activation : str, optional
        ``"relu"``, ``"leaky_relu"``, ``"sigmoid"``, ``"hard_sigmoid"``, ``"tanh"``, ``"gelu"``,
        ``"gelu_tanh"``, ``"silu"`` or ``"softplus"``, with its default numbers.
    """

    activation: str | None = None

    def __init__(self, *args: Any, activation: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        activation = f", activation={self.activation!r}" if self.activation else ""
        return super().extra_repr() + activation


class _BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the mean over all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        by_batch = self.training or self.running_mean is None
        updated = self.track_running_stats or not self.training
        running = (self.running_mean, self.running_var) if updated else (None, None)
        return F.batch_norm(x, self.weight, self.bias, *running, by_batch, momentum, self.eps)[0]


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`."""


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`."""


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`."""


class LayerNorm(torch.nn.LayerNorm):
    """`torch.nn.LayerNorm`; several normalised axes count as one."""

    def forward(self, x: Tensor) -> Tensor:
        axes = len(self.normalized_shape)
        if tuple(x.shape[-axes:]) != tuple(self.normalized_shape):
            raise RuntimeError(
                f"LayerNorm: x must have shape (..., {str(tuple(self.normalized_shape))[1:]}, "
                f"got {tuple(x.shape)}"
            )
        if axes == 1:
            return F.layer_norm(x, self.weight, self.bias, self.eps)[0]
        flat = [None if p is None else p.flatten() for p in (self.weight, self.bias)]
        return F.layer_norm(x.flatten(-axes), *flat, self.eps)[0].view(x.shape)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, forward and backward in one pass over the scores.

    A mean over no contributing row is 0, not NaN. Scores of other than two axes are PyTorch's own
    business.
    """

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        if scores.dim() != 2:
            return super().forward(scores, target)
        return F.cross_entropy(
            scores, target, self.weight, self.reduction, self.ignore_index, self.label_smoothing
        )


class ReLU(torch.nn.ReLU):
    """`torch.nn.ReLU`; never in place."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class LeakyReLU(torch.nn.LeakyReLU):
    """`torch.nn.LeakyReLU`; never in place."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)


class Sigmoid(torch.nn.Sigmoid):
    """`torch.nn.Sigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Hardsigmoid(torch.nn.Hardsigmoid):
    """`torch.nn.Hardsigmoid`; never in place."""

    def forward(self, x: Tensor) -> Tensor:
        return F.hard_sigmoid(x)


class Tanh(torch.nn.Tanh):
    """`torch.nn.Tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class GELU(torch.nn.GELU):
    """`torch.nn.GELU`, exact or with tanh."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu_tanh(x) if self.approximate == "tanh" else F.gelu(x)


class SiLU(torch.nn.SiLU):
    """`torch.nn.SiLU`; never in place."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class Softplus(torch.nn.Softplus):
    """`torch.nn.Softplus`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x, float(self.beta), float(self.threshold))


class Softmax(torch.nn.Softmax):
    """`torch.nn.Softmax`, with `dim` given."""

    def forward(self, x: Tensor) -> Tensor:
        return _along(self, F.softmax, x)


class LogSoftmax(torch.nn.LogSoftmax):
    """`torch.nn.LogSoftmax`, with `dim` given."""

    def forward(self, x: Tensor) -> Tensor:
        return _along(self, F.log_softmax, x)


def _along(layer: Any, function: Any, x: Tensor) -> Tensor:
    """Over the layer's axis, which the kernels have last."""
    if layer.dim is None:
        raise ValueError(f"{type(layer).__name__}: dim must be given")
    if layer.dim in (-1, x.dim() - 1):
        return function(x)
    return function(x.movedim(layer.dim, -1)).movedim(-1, layer.dim)


_REPLACED = {getattr(torch.nn, name): globals()[name] for name in __all__}


def convert(module: Any) -> Any:
    """Let the layers of an existing model run on fastnn's kernels, in place.

    Layers keep their parameters, buffers and hooks: only their class changes, to the one of the
    same name in `fastnn.torch.nn`. Layers of other classes, derived ones included, stay as they
    are, and so do activations with ``inplace=True`` and softmax layers without ``dim``.

    Parameters
    ----------
    module : torch.nn.Module
        The model; float32 or float64 by the time it is used.

    Returns
    -------
    torch.nn.Module
        The same object.

    Examples
    --------
    >>> model = fastnn.torch.convert(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()))
    """
    for layer in module.modules():
        derived = _REPLACED.get(type(layer))
        softmax = isinstance(layer, (torch.nn.Softmax, torch.nn.LogSoftmax))
        if derived and not getattr(layer, "inplace", False) and not (softmax and layer.dim is None):
            layer.__class__ = derived
    return module

"""Gradients of the operators, in terms of operators.

Each class runs the forward pass, by way of another operator where the gradient needs more than the
result, and the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from fastnn.torch.schemas import ACTIVATIONS, plain

Tensor = Any
linear, linear_preactivation, linear_backward = map(
    plain, ("linear", "linear_preactivation", "linear_backward")
)
softmax_cross_entropy = plain("softmax_cross_entropy")
layer_norm, layer_norm_backward = plain("layer_norm"), plain("layer_norm_backward")
batch_norm, batch_norm_backward = plain("batch_norm"), plain("batch_norm_backward")
activation_backward = {name: plain(f"{name}_backward") for name in ACTIVATIONS}
ONCE = "fastnn's operators can be differentiated once, without create_graph"


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that refuses to be differentiated.

    `torch.autograd.function.once_differentiable` would, where dy needs no gradient, leave out that
    of x in silence.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *dy: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(ONCE)
        return backward(ctx, *dy)

    return run


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Any = None, activation: Any = None
    ) -> Tensor:
        ctx.activation = activation
        if activation is None:
            ctx.save_for_backward(x, weight)
            return linear(x, weight, bias)
        y, preactivation = linear_preactivation(x, weight, bias, activation)
        ctx.save_for_backward(x, weight, preactivation)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, *preactivation = ctx.saved_tensors
        if preactivation:
            dy = activation_backward[ctx.activation](dy, *preactivation)
        needs = (*ctx.needs_input_grad, False)[:3]  # there may be no bias
        return *_needed(linear_backward(dy, x, weight, *needs), needs), None


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weight: Any = None,
        reduction: str = "mean",
        *numbers: Any,
    ) -> Tensor:
        if any(ctx.needs_input_grad[1:3]):
            raise RuntimeError("cross_entropy: there is no gradient of target or weight")
        loss, dlogits = softmax_cross_entropy(logits, target, weight, reduction, *numbers)
        ctx.save_for_backward(dlogits)
        return loss

    @staticmethod
    @once
    def backward(ctx: Any, dloss: Tensor) -> Any:
        (dlogits,) = ctx.saved_tensors
        return dlogits * (dloss.unsqueeze(-1) if dloss.dim() else dloss), *(None,) * 5


class LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Any, *eps: float) -> Any:
        y, mean, rstd = layer_norm(x, weight, bias, *eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        return y, mean, rstd

    @staticmethod
    @once
    def backward(ctx: Any, dy: Any, *unused: Any) -> Any:
        if dy is None:
            return (None,) * 4
        grads = layer_norm_backward(dy, *ctx.saved_tensors)
        return *_needed(grads, ctx.needs_input_grad), None


class BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Any,
        bias: Any,
        running_mean: Any,
        running_var: Any,
        training: bool,
        *numbers: float,
    ) -> Any:
        running = running_mean, running_var
        y, mean, rstd = batch_norm(x, weight, bias, *running, training, *numbers)
        ctx.training = training
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.set_materialize_grads(False)
        return y, mean, rstd

    @staticmethod
    @once
    def backward(ctx: Any, dy: Any, *unused: Any) -> Any:
        if dy is None:
            return (None,) * 8
        grads = batch_norm_backward(dy, *ctx.saved_tensors, ctx.training)
        return *_needed(grads, ctx.needs_input_grad), *(None,) * 5


def _unary(name: str, of_output: bool) -> type[Any]:
    """Of an operator with one tensor and numbers, whose gradient needs x, or else y."""
    run, differentiate = plain(name), plain(f"{name}_backward")

    class Unary(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, *numbers: float) -> Tensor:
            y = run(x, *numbers)
            ctx.numbers = numbers
            ctx.save_for_backward(y if of_output else x)
            return y

        @staticmethod
        @once
        def backward(ctx: Any, dy: Tensor) -> Any:
            dx = differentiate(dy, *ctx.saved_tensors, *ctx.numbers)
            return dx, *(None for _ in ctx.numbers)

    return Unary


def _needed(grads: Any, needs: Any) -> tuple[Any, ...]:
    return tuple(grad if need else None for grad, need in zip(grads, needs, strict=False))


# By operator; the others have no gradient.
GRADIENTS: dict[str, type[Any]] = {
    "linear": Linear,
    "cross_entropy": CrossEntropy,
    "layer_norm": LayerNorm,
    "batch_norm": BatchNorm,
    **{name: _unary(name, of_output=False) for name in ACTIVATIONS},
    **{name: _unary(name, of_output=True) for name in ("softmax", "log_softmax")},
}

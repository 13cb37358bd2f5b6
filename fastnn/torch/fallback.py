"""The operators by way of `fastnn.ops`: on CUDA, and on the CPU where there is no native library.

Errors become RuntimeError, which is all that an operator's native code can raise.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastnn import ops

Tensor = Any


def _linear(x: Tensor, weight: Tensor, bias: Any = None, activation: Any = None) -> Tensor:
    y = ops.matmul(_rows(x), weight, transpose_b=True, bias=bias, activation=activation)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _linear_preactivation(
    x: Tensor, weight: Tensor, bias: Any, activation: str
) -> tuple[Tensor, Tensor]:
    both = ops.matmul(
        _rows(x),
        weight,
        transpose_b=True,
        bias=bias,
        activation=activation,
        return_preactivation=True,
    )
    shape = (*x.shape[:-1], weight.shape[0])
    return both[0].reshape(shape), both[1].reshape(shape)


def _linear_backward(
    dy: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    gradient = _rows(dy)
    return (
        ops.matmul(gradient, weight).reshape(x.shape) if needs_x else x.new_empty(0),
        ops.matmul(gradient, _rows(x), transpose_a=True) if needs_weight else x.new_empty(0),
        ops.column_sum(gradient) if needs_bias else x.new_empty(0),
    )


def _rowwise(op: Any) -> Callable[..., Tensor]:
    """Over the last axis, also of a tensor that has none."""
    return lambda *tensors: op(*map(torch.atleast_1d, tensors)).reshape(tensors[0].shape)


_softmax, _softmax_backward = _rowwise(ops.softmax), _rowwise(ops.softmax_backward)
_log_softmax, _log_softmax_backward = _rowwise(ops.log_softmax), _rowwise(ops.log_softmax_backward)


def _softmax_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    return ops.softmax_cross_entropy(
        logits,
        target,
        weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )


def _cross_entropy(*arguments: Any) -> Tensor:
    return _softmax_cross_entropy(*arguments)[0]


def _layer_norm(x: Tensor, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    return ops.layer_norm(x, weight, bias, eps=eps)


def _batch_norm(
    x: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    return ops.batch_norm(
        x, weight, bias, running_mean, running_var, training=training, momentum=momentum, eps=eps
    )


def _batch_norm_backward(
    dy: Tensor, x: Tensor, weight: Any, mean: Tensor, rstd: Tensor, training: bool
) -> Any:
    return ops.batch_norm_backward(dy, x, weight, mean, rstd, training=training)


def _sgd_step(
    params: list[Tensor],
    grads: list[Tensor],
    velocities: list[Tensor],
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    ops.sgd_step(
        params,
        grads,
        velocities or None,
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=weight_decay,
        maximize=maximize,
    )


def _adagrad_step(
    params: list[Tensor],
    grads: list[Tensor],
    sums: list[Tensor],
    lr: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    ops.adagrad_step(
        params, grads, sums, lr=lr, eps=eps, weight_decay=weight_decay, maximize=maximize
    )


def _rmsprop_step(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    velocities: list[Tensor],
    grad_avgs: list[Tensor],
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
    eps_in_sqrt: bool = False,
    maximize: bool = False,
) -> None:
    ops.rmsprop_step(
        params,
        grads,
        square_avgs,
        lr=lr,
        alpha=alpha,
        eps=eps,
        momentum=momentum,
        velocity=velocities or None,
        centered=centered,
        grad_avg=grad_avgs or None,
        weight_decay=weight_decay,
        eps_in_sqrt=eps_in_sqrt,
        maximize=maximize,
    )


def _adam_step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    eps_mode: str = "torch",
    maximize: bool = False,
) -> None:
    ops.adam_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        step=step,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        decoupled=decoupled,
        amsgrad=bool(max_exp_avg_sqs),
        max_exp_avg_sq=max_exp_avg_sqs or None,
        eps_mode=eps_mode,
        maximize=maximize,
    )


def _rows(x: Tensor) -> Tensor:
    """All axes but the last made one."""
    columns = x.shape[-1] if x.dim() else 1
    return x.reshape(x.shape[:-1].numel(), columns)


def _detached(value: Any) -> Any:
    """Without the mark of autograd, which lies above the operators and was seen to there."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_detached(item) for item in value]
    return value


def implementation(name: str) -> Callable[..., Any]:
    """The operator of this name."""
    own: Any = globals().get(f"_{name}") or getattr(ops, name)

    @functools.wraps(own)
    def run(*arguments: Any) -> Any:
        try:
            return own(*map(_detached, arguments))
        except (TypeError, ValueError) as error:
            raise RuntimeError(str(error)) from error

    return run

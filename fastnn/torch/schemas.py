"""What every operator takes, returns and changes, and the shapes of its results.

``(a!)`` marks arguments that are updated in place. Weights are as in PyTorch: ``(out_features,
in_features)``.

Every operator has two overloads: ``linear`` knows its gradient, ``linear.plain`` is the kernel and
nothing else, for tensors whose gradient is nobody's concern.
"""

from collections.abc import Callable
from typing import Any

import torch

Tensor = Any

_TARGETS = (
    "(Tensor logits, Tensor target, Tensor? weight=None, str reduction='mean', "
    "int ignore_index=-100, float label_smoothing=0.0)"
)
_NORM_RESULTS = "(Tensor dx, Tensor dweight, Tensor dbias)"

SCHEMAS = {
    "linear": "(Tensor x, Tensor weight, Tensor? bias=None, str? activation=None) -> Tensor",
    "linear_preactivation": "(Tensor x, Tensor weight, Tensor? bias, str activation) "
    "-> (Tensor y, Tensor preactivation)",
    "linear_backward": "(Tensor dy, Tensor x, Tensor weight, bool needs_x, bool needs_weight, "
    f"bool needs_bias) -> {_NORM_RESULTS}",
    "softmax": "(Tensor x) -> Tensor",
    "softmax_backward": "(Tensor dy, Tensor y) -> Tensor",
    "log_softmax": "(Tensor x) -> Tensor",
    "log_softmax_backward": "(Tensor dy, Tensor y) -> Tensor",
    "cross_entropy": f"{_TARGETS} -> Tensor",
    "softmax_cross_entropy": f"{_TARGETS} -> (Tensor loss, Tensor dlogits)",
    "layer_norm": "(Tensor x, Tensor? weight, Tensor? bias, float eps=1e-5) "
    "-> (Tensor y, Tensor mean, Tensor rstd)",
    "layer_norm_backward": "(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor rstd) "
    f"-> {_NORM_RESULTS}",
    "batch_norm": "(Tensor x, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, bool training, float momentum=0.1, float eps=1e-5) "
    "-> (Tensor y, Tensor mean, Tensor rstd)",
    "batch_norm_backward": "(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor rstd, "
    f"bool training) -> {_NORM_RESULTS}",
    "sgd_step": "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] velocities, float lr, "
    "float momentum=0.0, float dampening=0.0, bool nesterov=False, float weight_decay=0.0, "
    "bool maximize=False) -> ()",
    "adagrad_step": "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] sums, float lr, "
    "float eps=1e-10, float weight_decay=0.0, bool maximize=False) -> ()",
    "rmsprop_step": "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, "
    "Tensor(c!)[] velocities, Tensor(d!)[] grad_avgs, float lr, float alpha=0.99, "
    "float eps=1e-8, float momentum=0.0, bool centered=False, float weight_decay=0.0, "
    "bool eps_in_sqrt=False, bool maximize=False) -> ()",
    "adam_step": "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, int step, float lr, "
    "float beta1=0.9, float beta2=0.999, float eps=1e-8, float weight_decay=0.0, "
    "bool decoupled=False, str eps_mode='torch', bool maximize=False) -> ()",
}

# Activations by name, with the numbers they take.
ACTIVATIONS = {
    "relu": "",
    "leaky_relu": ", float negative_slope=0.01",
    "sigmoid": "",
    "hard_sigmoid": "",
    "tanh": "",
    "gelu": "",
    "gelu_tanh": "",
    "silu": "",
    "softplus": ", float beta=1.0, float threshold=20.0",
}
for _name, _numbers in ACTIVATIONS.items():
    SCHEMAS[_name] = f"(Tensor x{_numbers}) -> Tensor"
    SCHEMAS[f"{_name}_backward"] = f"(Tensor dy, Tensor x{_numbers}) -> Tensor"

library = torch.library.Library("fastnn", "DEF")
for _name, _schema in SCHEMAS.items():
    for _overload in ("", ".plain"):
        library.define(_name + _overload + _schema, tags=(torch.Tag.pt2_compliant_tag,))


def plain(name: str) -> Callable[..., Any]:
    """The overload without a gradient, which still tells autograd what it changes in place."""
    op = getattr(torch.ops.fastnn, name).plain
    changed = [
        i
        for i, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]

    def run(*arguments: Any) -> Any:
        result = op(*arguments)
        for i in changed:
            if arguments[i] is not None:
                torch.autograd.graph.increment_version(arguments[i])
        return result

    return run if changed else op


# ---- shapes of results -----------------------------------------------------------------------


def _like_last(*tensors: Any) -> Tensor:
    """Of the shape of the last tensor, as x and y of activations and softmax."""
    last = [t for t in tensors if isinstance(t, torch.Tensor)][-1]
    return last.new_empty(last.shape)


def _linear(x: Tensor, weight: Tensor, bias: Any = None, activation: Any = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _linear_preactivation(
    x: Tensor, weight: Tensor, bias: Any, activation: str
) -> tuple[Tensor, Tensor]:
    return _linear(x, weight), _linear(x, weight)


def _linear_backward(
    dy: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if needs_x else (0,)),
        x.new_empty(weight.shape if needs_weight else (0,)),
        x.new_empty(weight.shape[:1] if needs_bias else (0,)),
    )


def _cross_entropy(
    logits: Tensor, target: Tensor, weight: Any = None, reduction: str = "mean", *numbers: Any
) -> Tensor:
    return logits.new_empty(logits.shape[:1] if reduction == "none" else ())


def _softmax_cross_entropy(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _cross_entropy(logits, *others), logits.new_empty(logits.shape)


def _layer_norm(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[:-1]
    return x.new_empty(x.shape), x.new_empty(rows), x.new_empty(rows)


def _layer_norm_backward(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[-1:]), x.new_empty(x.shape[-1:])


def _batch_norm(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[1:2]), x.new_empty(x.shape[1:2])


def _batch_norm_backward(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _batch_norm(x)


def _step(*arguments: Any) -> None:
    return None


def shapes(name: str) -> Callable[..., Any]:
    """The function that makes results of the right shape and nothing else."""
    if name.endswith("_step"):
        return _step
    own: Callable[..., Any] = globals().get(f"_{name}", _like_last)
    return own

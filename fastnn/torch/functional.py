"""The operators as functions: ``torch.ops.fastnn``, by the shortest way.

The arguments are those that ``help`` shows, as in `fastnn.torch.schemas`.
"""

from collections.abc import Callable
from typing import Any

import torch

from fastnn.torch.gradients import GRADIENTS
from fastnn.torch.schemas import plain

__all__ = [*GRADIENTS]


def _function(name: str) -> Callable[..., Any]:
    op, kernel, differentiable = (
        getattr(torch.ops.fastnn, name).default,
        plain(name),
        GRADIENTS[name].apply,
    )
    is_compiling, autocasts = torch.compiler.is_compiling, torch._C._is_any_autocast_enabled
    grad_enabled, any_requires_grad = torch.is_grad_enabled, torch._C._any_requires_grad

    def function(*arguments: Any, **keywords: Any) -> Any:
        if is_compiling() or keywords or autocasts():
            return op(*arguments, **keywords)
        if grad_enabled() and any_requires_grad(*arguments):
            return differentiable(*arguments)
        return kernel(*arguments)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``torch.ops.fastnn.{name}``\n\n{op._schema}"
    return function


linear = _function("linear")
relu = _function("relu")
leaky_relu = _function("leaky_relu")
sigmoid = _function("sigmoid")
hard_sigmoid = _function("hard_sigmoid")
tanh = _function("tanh")
gelu = _function("gelu")
gelu_tanh = _function("gelu_tanh")
silu = _function("silu")
softplus = _function("softplus")
softmax = _function("softmax")
log_softmax = _function("log_softmax")
cross_entropy = _function("cross_entropy")
batch_norm = _function("batch_norm")
layer_norm = _function("layer_norm")

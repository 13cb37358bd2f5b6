"""The operators as functions: ``torch.ops.fastnn``, past autograd where nothing needs it.

The arguments are those that ``help`` shows, as in `fastnn.torch.schemas`.
"""

from collections.abc import Callable
from typing import Any

import torch

from fastnn.torch import library  # registers the operators

__all__ = [*library.differentiable]


def _function(name: str) -> Callable[..., Any]:
    op = getattr(torch.ops.fastnn, name).default
    grad_enabled, any_requires_grad = torch.is_grad_enabled, torch._C._any_requires_grad
    is_compiling, below = torch.compiler.is_compiling, torch._C._AutoDispatchBelowAutograd

    def function(*arguments: Any, **keywords: Any) -> Any:
        if is_compiling() or (grad_enabled() and any_requires_grad(*arguments, **keywords)):
            return op(*arguments, **keywords)
        with below():
            return op(*arguments, **keywords)

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

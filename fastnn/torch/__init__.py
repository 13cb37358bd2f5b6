"""fastnn inside PyTorch: operators, layers, optimizers.

``torch.ops.fastnn`` has the operators, `functional` the same as plain functions, `nn` layers that
load PyTorch's state dicts, `optim` optimizers, and `convert` moves an existing model to fastnn's
kernels. All work on float32 and float64 tensors; under autocast they compute in float32.

`native` is whether the operators on the CPU are those of the native library; `why_not_native` says
why not, else it is None. With ``FASTNN_TORCH=python`` in the environment it isn't looked for.
"""

from fastnn.torch import functional, nn, optim
from fastnn.torch.library import why_not_native
from fastnn.torch.nn import convert

__all__ = ["convert", "functional", "native", "nn", "optim", "why_not_native"]

native = why_not_native is None

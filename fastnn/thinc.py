"""thinc and spaCy on fastnn's kernels: ``thinc.api.use_ops("fastnn")``.

Models built inside that block (or after ``set_current_ops(FastnnOps())``) keep these ops for life;
thinc finds them through its entry point group ``thinc_ops``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from thinc.backends import NumpyOps

from fastnn import ops

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _ours(*arrays: Any) -> bool:
    """Whether the kernels take these arrays: all float32 or all float64."""
    first = arrays[0]
    return all(isinstance(a, np.ndarray) and a.dtype == first.dtype for a in arrays) and (
        first.dtype in _FLOATS
    )


def _alike(*arrays: Any) -> bool:
    return _ours(*arrays) and all(a.shape == arrays[0].shape for a in arrays)


class FastnnOps(NumpyOps):  # type: ignore[misc]  # thinc's class is compiled, without types
    """thinc's CPU ops with products, activations, softmax and Adam from ``fastnn.ops``.

    Results are those of `NumpyOps` up to rounding, with two exceptions in fastnn's favour: `swish`
    and `gelu` and their gradients are exact in the tails, where thinc clips the sigmoid at 20 and
    approximates erf to 1.5e-7. Everything else is inherited: what has another definition here
    (``hard_sigmoid`` with slope 0.2), what has no kernel (``mish``, ``maxout``, ``seq2col``, LSTM),
    and arrays other than float32 or float64 of one type. ``cblas()``, which spaCy's parser calls
    from C, is thinc's own.
    """

    name = "fastnn"

    def gemm(
        self, x: Any, y: Any, out: Any = None, trans1: bool = False, trans2: bool = False
    ) -> Any:
        if x.ndim != 2 or y.ndim != 2 or not _ours(x, y, *([] if out is None else [out])):
            return super().gemm(x, y, out=out, trans1=trans1, trans2=trans2)
        return ops.matmul(x, y, transpose_a=trans1, transpose_b=trans2, out=out)

    def affine(self, X: Any, W: Any, b: Any) -> Any:
        if X.ndim != 2 or W.ndim != 2 or b.shape != W.shape[:1] or not _ours(X, W, b):
            return super().affine(X, W, b)
        return ops.matmul(X, W, transpose_b=True, bias=b)

    def relu(self, X: Any, inplace: bool = False) -> Any:
        if not _ours(X):
            return super().relu(X, inplace=inplace)
        return ops.relu(X, out=X if inplace else None)

    def backprop_relu(self, dY: Any, Y: Any, inplace: bool = False) -> Any:
        if not _alike(dY, Y):
            return super().backprop_relu(dY, Y, inplace=inplace)
        return ops.relu_backward(dY, Y, out=dY if inplace else None)  # Y > 0 where X > 0

    def sigmoid(self, X: Any, *, inplace: bool = False) -> Any:
        if not _ours(X):
            return super().sigmoid(X, inplace=inplace)
        clipped = np.clip(X, -20.0, 20.0, out=X if inplace else None)  # thinc's range of results
        return ops.sigmoid(clipped, out=clipped)

    def backprop_sigmoid(self, dY: Any, Y: Any, *, inplace: bool = False) -> Any:
        if not _alike(dY, Y):
            return super().backprop_sigmoid(dY, Y, inplace=inplace)
        return ops.sigmoid_backward_from_output(dY, Y, out=Y if inplace else None)

    def softmax(
        self, x: Any, *, inplace: bool = False, axis: int = -1, temperature: float = 1.0
    ) -> Any:
        if not _ours(x) or axis not in (-1, x.ndim - 1):
            return super().softmax(x, inplace=inplace, axis=axis, temperature=temperature)
        return ops.softmax(x if temperature == 1.0 else x / x.dtype.type(temperature))

    def backprop_softmax(self, Y: Any, dY: Any, *, axis: int = -1, temperature: float = 1.0) -> Any:
        if not _alike(Y, dY) or axis not in (-1, Y.ndim - 1):
            return super().backprop_softmax(Y, dY, axis=axis, temperature=temperature)
        return ops.softmax_backward(dY if temperature == 1.0 else dY / Y.dtype.type(temperature), Y)

    def swish(self, X: Any, inplace: bool = False) -> Any:
        if not _ours(X):
            return super().swish(X, inplace=inplace)
        return ops.silu(X, out=X if inplace else None)

    def backprop_swish(self, dY: Any, X: Any, Y: Any, inplace: bool = False) -> Any:
        if not _alike(dY, X, Y):
            return super().backprop_swish(dY, X, Y, inplace=inplace)
        return ops.silu_backward(dY, X, out=dY if inplace else None)

    def gelu(self, X: Any, inplace: bool = False) -> Any:
        if not _ours(X):
            return super().gelu(X, inplace=inplace)
        return ops.gelu(X, out=X if inplace else None)

    def backprop_gelu(self, dY: Any, X: Any, inplace: bool = False) -> Any:
        if not _alike(dY, X):
            return super().backprop_gelu(dY, X, inplace=inplace)
        return ops.gelu_backward(dY, X, out=dY if inplace else None)

    def gelu_approx(self, X: Any, inplace: bool = False) -> Any:
        if not _ours(X):
            return super().gelu_approx(X, inplace=inplace)
        return ops.gelu_tanh(X, out=X if inplace else None)

    def backprop_gelu_approx(self, dY: Any, X: Any, inplace: bool = False) -> Any:
        if not _alike(dY, X):
            return super().backprop_gelu_approx(dY, X, inplace=inplace)
        return ops.gelu_tanh_backward(dY, X, out=dY if inplace else None)

    def adam(
        self,
        weights: Any,
        gradient: Any,
        mom1: Any,
        mom2: Any,
        beta1: float,
        beta2: float,
        eps: float,
        learn_rate: float,
        mod_rate: float = 1.0,
    ) -> Any:
        # The kernel asks for eps > 0. The caller has corrected the rate for the bias of the
        # moments: after infinitely many steps there is nothing left to correct.
        if not _alike(weights, gradient, mom1, mom2) or not eps > 0:
            return super().adam(
                weights, gradient, mom1, mom2, beta1, beta2, eps, learn_rate, mod_rate
            )
        ops.adam_step(
            weights,
            gradient,
            mom1,
            mom2,
            step=math.inf,
            lr=learn_rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            eps_mode="hat",
        )
        gradient.fill(0)  # as NumpyOps leaves it
        return weights, gradient, mom1, mom2

"""ONNX's node cases, run by a backend that is nothing but calls of `fastnn.ops`."""

import math
import re

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX is not installed")

import onnx
import onnx.backend.test
from onnx.backend.base import Backend, BackendRep

from fastnn import ops

NO_GENERATOR = "draws its mask from NumPy's generator; fastnn's bits are Philox's"
DESELECTED = {
    "test_nllloss_.*": "fastnn has no loss over log-probabilities; see test_sce_",
    "test_hardsigmoid.*": "fastnn's slope is 1/6, as PyTorch's",
    "test_training_dropout_cpu": NO_GENERATOR,
    "test_training_dropout_mask_cpu": NO_GENERATOR,
    "test_training_dropout_default_cpu": NO_GENERATOR,
    "test_training_dropout_default_mask_cpu": NO_GENERATOR,
}
INCLUDED = (
    *("gemm", "matmul", "softmax", "logsoftmax", "sce", "batchnorm", "layer_normalization"),
    *("adam", "adagrad", "momentum", "nesterov_momentum", "dropout", "training_dropout"),
    *(
        "relu",
        "leakyrelu",
        "sigmoid",
        "tanh",
        "gelu",
        "softplus",
        "swish",
        "nllloss",
        "hardsigmoid",
    ),
)


# ---- products -----------------------------------------------------------------------------------


def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    a = a * np.float32(alpha)
    options = {"transpose_a": bool(transA), "transpose_b": bool(transB)}
    if c is None:
        return ops.matmul(a, b, **options)
    c = c * np.float32(beta)
    columns = b.shape[0] if transB else b.shape[1]
    if c.size == columns and c.shape[-1:] == (columns,):
        return ops.matmul(a, b, bias=c.reshape(columns), **options)
    return ops.matmul(a, b, **options) + c


def matmul(a, b):
    rows, columns = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    stack = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows = np.broadcast_to(rows, stack + rows.shape[-2:])
    columns = np.broadcast_to(columns, stack + columns.shape[-2:])
    y = np.empty((*stack, rows.shape[-2], columns.shape[-1]), a.dtype)
    for i in np.ndindex(stack):
        ops.matmul(rows[i], columns[i], out=y[i])
    y = y[..., 0] if b.ndim == 1 else y
    return y[..., 0, :] if a.ndim == 1 and b.ndim > 1 else y[..., 0] if a.ndim == 1 else y


# ---- rows and channels --------------------------------------------------------------------------


def along(axis, op, x):
    """An op over the last axis, over another one."""
    return np.moveaxis(op(np.moveaxis(x, axis, -1)), -1, axis)


def cross_entropy(x, targets, weight=None, *, reduction="mean", ignore_index=-100):
    rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    loss, _ = ops.softmax_cross_entropy(
        rows, targets.ravel(), weight=weight, reduction=reduction, ignore_index=ignore_index
    )
    loss = loss.reshape(targets.shape) if reduction == "none" else loss
    return loss, along(1, ops.log_softmax, x)


def batch_norm(x, scale, b, mean, var, *, epsilon=1e-5, momentum=0.9, training_mode=0):
    mean, var = mean.copy(), var.copy()
    y, *_ = ops.batch_norm(
        *(x, scale, b, mean, var),
        training=bool(training_mode),
        momentum=1 - momentum,
        eps=epsilon,
        unbiased_running_var=False,
    )
    return y, mean, var


def layer_norm(x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1):
    axis %= x.ndim
    rows = x.reshape(math.prod(x.shape[:axis]), -1)
    bias = None if bias is None else bias.ravel()
    y, mean, rstd = ops.layer_norm(rows, scale.ravel(), bias, eps=epsilon)
    one_a_row = x.shape[:axis] + (1,) * (x.ndim - axis)
    return y.reshape(x.shape), mean.reshape(one_a_row), rstd.reshape(one_a_row)


def dropout(x, ratio=0.5, training=False, *, seed=0, **old):
    if training:
        return ops.dropout(x, float(ratio), seed=seed)
    return x, np.ones(x.shape, bool)


# ---- optimizers: rate, number of updates, then parameters, gradients and states -----------------


def in_groups(arrays, count):
    """Copies, in lists of arrays of one kind."""
    size = len(arrays) // count
    return [[a.copy() for a in arrays[i * size : (i + 1) * size]] for i in range(count)]


def adam(rate, count, *arrays, alpha=0.9, beta=0.999, epsilon=0.0, norm_coefficient=0.0, **post):
    assert not any(post.values())
    param, grad, exp_avg, exp_avg_sq = in_groups(arrays, 4)
    ops.adam_step(
        *(param, grad, exp_avg, exp_avg_sq),
        step=int(count) or 1 << 53,  # ONNX corrects no bias at 0; so many updates leave none
        lr=float(rate),
        beta1=alpha,
        beta2=beta,
        eps=epsilon,
        weight_decay=norm_coefficient,
        eps_mode="hat",
    )
    return (*param, *exp_avg, *exp_avg_sq)


def adagrad(rate, count, *arrays, decay_factor=0.0, epsilon=0.0, norm_coefficient=0.0):
    param, grad, sum_sq = in_groups(arrays, 3)
    rate = float(rate) / (1 + int(count) * decay_factor)
    ops.adagrad_step(param, grad, sum_sq, lr=rate, eps=epsilon, weight_decay=norm_coefficient)
    return (*param, *sum_sq)


def momentum(rate, count, *arrays, alpha, beta, mode, norm_coefficient):
    param, grad, velocity = in_groups(arrays, 3)
    ops.sgd_step(
        *(param, grad, velocity),
        lr=float(rate),
        momentum=alpha,
        dampening=1 - beta if count > 0 else 0.0,
        nesterov=mode == b"nesterov",
        weight_decay=norm_coefficient,
    )
    return (*param, *velocity)


# ---- the backend --------------------------------------------------------------------------------

NODES = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Softmax": lambda x, *, axis=-1: along(axis, ops.softmax, x),
    "LogSoftmax": lambda x, *, axis=-1: along(axis, ops.log_softmax, x),
    "SoftmaxCrossEntropyLoss": cross_entropy,
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "Dropout": dropout,
    "Adam": adam,
    "Adagrad": adagrad,
    "Momentum": momentum,
    "Relu": ops.relu,
    "LeakyRelu": lambda x, *, alpha=0.01: ops.leaky_relu(x, alpha),
    "Sigmoid": ops.sigmoid,
    "Tanh": ops.tanh,
    "Gelu": lambda x, *, approximate=b"none": (
        ops.gelu(x) if approximate == b"none" else ops.gelu_tanh(x)
    ),
    "Softplus": ops.softplus,
    "Swish": lambda x, *, alpha=1.0: ops.silu(x * np.float32(alpha)) / np.float32(alpha),
}


class Node(BackendRep):
    """The only node of a model."""

    def __init__(self, node):
        self.node = node

    def run(self, inputs, **kwargs):
        given = iter(inputs)
        arguments = [next(given) if name else None for name in self.node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute}
        attributes = {
            name: value.decode() if name == "reduction" else value
            for name, value in attributes.items()
        }
        results = NODES[self.node.op_type](*arguments, **attributes)
        results = results if isinstance(results, tuple) else (results,)
        return [np.asarray(r) for r, name in zip(results, self.node.output, strict=False) if name]


class Fastnn(Backend):
    @classmethod
    def is_compatible(cls, model, device="CPU", **kwargs):
        return len(model.graph.node) == 1 and model.graph.node[0].op_type in NODES

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        (node,) = model.graph.node
        return Node(node)

    @classmethod
    def supports_device(cls, device):
        return device == "CPU"


def wanted(name):
    return re.fullmatch(rf"test_({'|'.join(INCLUDED)})_(?!.*expanded).*cpu", name) and not any(
        re.fullmatch(pattern, name) for pattern in DESELECTED
    )


def cases():
    """ONNX's classes of tests with those wanted alone."""
    for kind, case in onnx.backend.test.BackendTest(Fastnn, __name__).test_cases.items():
        for name in [name for name in vars(case) if name.startswith("test_")]:
            if not wanted(name):
                delattr(case, name)
        yield kind, case


globals().update(cases())

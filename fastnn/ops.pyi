"""Types of the native functions. Made by tests/make_stub.py; don't edit."""

from typing import Any, TypeAlias

Array: TypeAlias = Any  # of any library that exports DLPack
Arrays: TypeAlias = Any  # an array, or a list of arrays

__all__ = [
    "adagrad_step",
    "adam_step",
    "batch_norm",
    "batch_norm_backward",
    "clip_grad_norm",
    "column_sum",
    "count_correct",
    "count_correct_binary",
    "dropout",
    "dropout_backward",
    "first_nonfinite",
    "gelu",
    "gelu_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "hard_sigmoid",
    "hard_sigmoid_backward",
    "l2_norm",
    "layer_norm",
    "layer_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "mae",
    "matmul",
    "mse",
    "probe_fma",
    "probe_read",
    "radam_step",
    "relu",
    "relu_backward",
    "rescale",
    "rmsprop_step",
    "sgd_step",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_backward_from_output",
    "sigmoid_cross_entropy",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softplus",
    "softplus_backward",
    "take_rows",
    "tanh",
    "tanh_backward",
    "tanh_backward_from_output",
]

def matmul(
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Array | None = None,
    activation: str | None = None,
    return_preactivation: bool = False,
    precision: str | None = None,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def column_sum(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def relu(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def relu_backward(
    dy: Array,
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def leaky_relu(
    x: Array,
    negative_slope: float = 0.01,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def leaky_relu_backward(
    dy: Array,
    x: Array,
    negative_slope: float = 0.01,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def sigmoid(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def sigmoid_backward(
    dy: Array,
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def sigmoid_backward_from_output(
    dy: Array,
    y: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def hard_sigmoid(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def hard_sigmoid_backward(
    dy: Array,
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def tanh(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def tanh_backward(
    dy: Array,
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def tanh_backward_from_output(
    dy: Array,
    y: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def gelu(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def gelu_backward(
    dy: Array,
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def gelu_tanh(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def gelu_tanh_backward(
    dy: Array,
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def silu(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def silu_backward(
    dy: Array,
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def softplus(
    x: Array,
    beta: float = 1,
    threshold: float = 20,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def softplus_backward(
    dy: Array,
    x: Array,
    beta: float = 1,
    threshold: float = 20,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def softmax(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def softmax_backward(
    dy: Array,
    y: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def log_softmax(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def log_softmax_backward(
    dy: Array,
    y: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def softmax_cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0,
    reduction: str = "mean",
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array]: ...
def sigmoid_cross_entropy(
    logits: Array,
    targets: Array,
    *,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    reduction: str = "mean",
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array]: ...
def mse(
    pred: Array,
    target: Array,
    *,
    sample_weight: Array | None = None,
    reduction: str = "mean",
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array]: ...
def mae(
    pred: Array,
    target: Array,
    *,
    sample_weight: Array | None = None,
    reduction: str = "mean",
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array]: ...
def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-05,
    unbiased_running_var: bool = True,
    activation: str | None = None,
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array, Array]: ...
def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    mean: Array,
    rstd: Array,
    *,
    training: bool = True,
    activation: str | None = None,
    y: Array | None = None,
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array, Array]: ...
def layer_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    eps: float = 1e-05,
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array, Array]: ...
def layer_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    mean: Array,
    rstd: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array, Array]: ...
def dropout(
    x: Array,
    p: float,
    *,
    seed: int,
    offset: int = 0,
    out: Array | tuple[Array | None, ...] | None = None,
) -> tuple[Array, Array]: ...
def dropout_backward(
    dy: Array,
    mask: Array,
    p: float,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def sgd_step(
    param: Arrays,
    grad: Arrays,
    velocity: Arrays | None = None,
    *,
    lr: float | Array,
    momentum: float = 0,
    dampening: float = 0,
    nesterov: bool = False,
    weight_decay: float = 0,
    maximize: bool = False,
) -> None: ...
def adagrad_step(
    param: Arrays,
    grad: Arrays,
    sum_sq: Arrays,
    *,
    lr: float | Array,
    eps: float = 1e-10,
    weight_decay: float = 0,
    maximize: bool = False,
) -> None: ...
def rmsprop_step(
    param: Arrays,
    grad: Arrays,
    square_avg: Arrays,
    *,
    lr: float | Array,
    alpha: float = 0.99,
    eps: float = 1e-08,
    momentum: float = 0,
    velocity: Arrays | None = None,
    centered: bool = False,
    grad_avg: Arrays | None = None,
    weight_decay: float = 0,
    eps_in_sqrt: bool = False,
    maximize: bool = False,
) -> None: ...
def adam_step(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_avg_sq: Arrays,
    *,
    step: float | Array,
    lr: float | Array,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-08,
    weight_decay: float = 0,
    decoupled: bool = False,
    amsgrad: bool = False,
    max_exp_avg_sq: Arrays | None = None,
    eps_mode: str = "torch",
    maximize: bool = False,
) -> None: ...
def radam_step(
    param: Arrays,
    grad: Arrays,
    exp_avg: Arrays,
    exp_avg_sq: Arrays,
    *,
    step: float | Array,
    lr: float | Array,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-08,
    weight_decay: float = 0,
    decoupled: bool = False,
    maximize: bool = False,
) -> None: ...
def rescale(
    x: Array,
    *,
    scale: float = 1,
    offset: float = 0,
    dtype: str = "float32",
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def take_rows(
    x: Array,
    index: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def count_correct(
    logits: Array,
    targets: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def count_correct_binary(
    logits: Array,
    targets: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def l2_norm(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def clip_grad_norm(
    grad: Array,
    max_norm: float,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def first_nonfinite(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def probe_fma(
    x: Array,
    rounds: int,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...
def probe_read(
    x: Array,
    *,
    out: Array | tuple[Array | None, ...] | None = None,
) -> Array: ...

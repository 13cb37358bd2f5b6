"""fastnn's kernels inside JAX: under ``jit``, ``grad`` (reverse mode, once) and ``vmap``, on CPUs.

Gradients are those that the kernels know themselves; there are no second derivatives and no forward
mode. Under ``vmap`` ops that work row by row or element by element take the mapped axis as further
rows, others run once per index. The ``_step`` functions return what the ops of that name update in
place, and use the same memory where ``jit`` was given ``donate_argnums``.
`fastnn.jax.optax` has the same steps as optax's transformations.

XLA calls the kernels itself, on its own buffers, where JAX was there when fastnn was built; else
each call goes through Python. ``fastnn.show_config()`` says which it is.
Arrays are float32 or float64, all of one type in one call.
"""

from fastnn.jax._activations import (
    gelu,
    gelu_tanh,
    hard_sigmoid,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from fastnn.jax._linear import linear
from fastnn.jax._losses import mae, mse, sigmoid_cross_entropy, softmax_cross_entropy
from fastnn.jax._norms import batch_norm, layer_norm
from fastnn.jax._steps import adagrad_step, adam_step, rmsprop_step, sgd_step

__all__ = [
    "adagrad_step",
    "adam_step",
    "batch_norm",
    "gelu",
    "gelu_tanh",
    "hard_sigmoid",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mae",
    "mse",
    "relu",
    "rmsprop_step",
    "sgd_step",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "tanh",
]

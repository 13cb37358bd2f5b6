"""Layers with an explicit backward pass, and `Sequential`, which chains them.

``y, backprop = layer.forward(x, training=True)`` computes; ``dx = backprop(dy)`` fills
``layer.grads``. All arithmetic is calls of `fastnn.ops`: a `Trainer` records these calls once and
replays them natively, so a built-in layer looks at shapes and dtypes, never at values.

`Sequential` fuses what `fastnn.ops` does in one pass: a `Linear` with the activation behind it, and
a `BatchNorm` with the `ReLU` behind it. The results are those of the single layers, bit for bit.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnn import initializers, ops
from fastnn.arguments import seed_number
from fastnn.errors import ShapeError
from fastnn.initializers import Initializer
from fastnn.layer import Array, Backprop, Layer, Shape, Snapshot, generator

__all__ = [
    "GELU",
    "BatchNorm",
    "Dropout",
    "Flatten",
    "HardSigmoid",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "ReLU",
    "Rescaling",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class BuiltIn(Layer):
    """A layer that can be rebuilt from its arguments."""

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor: ``type(layer)(**layer.config())`` is such a layer."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        arguments = (
            f"{name}={value!r}"
            for name, value in self.config().items()
            if value != defaults[name].default
        )
        return f"{type(self).__name__}({', '.join(arguments)})"


# ---- layers with parameters ------------------------------------------------------------------


class Linear(BuiltIn):
    """``y = x @ weight + bias`` over the last axis.

    Parameters
    ----------
    in_features, out_features : int
        Lengths of the last axis of input and output.
    bias : bool, default True
        Whether there is a bias.
    weight_init, bias_init : str or callable, optional
        Name from `fastnn.initializers`, or a function ``f(rng, shape, dtype) -> ndarray``. The
        default is PyTorch's: uniform between ``-1 / sqrt(in_features)`` and its negative.

    Attributes
    ----------
    weight : float array, shape (in_features, out_features)
        Read as a read-only copy, assigned in place; PyTorch's is the transpose.
    bias : float array, shape (out_features,)
        Likewise; None without a bias.
    precision : {None, "tf32", "bf16"}
        Of the products, see `fastnn.ops.matmul`; set by a `Trainer`.

    Raises
    ------
    ValueError
        If a size is not a non-negative integer, or an initializer is unknown.
    """

    recordable = True
    weight = Snapshot()
    bias = Snapshot()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        weight_init: str | Initializer | None = None,
        bias_init: str | Initializer | None = None,
    ) -> None:
        super().__init__()
        self.in_features = _size("Linear", "in_features", in_features)
        self.out_features = _size("Linear", "out_features", out_features)
        self.weight_init, self.bias_init = weight_init, bias_init
        self.precision: str | None = None
        bound = 1.0 / math.sqrt(max(self.in_features, 1))
        default = partial(initializers.uniform, a=-bound, b=bound)
        shape = self.in_features, self.out_features
        self.add_parameter("weight", shape, weight_init or default)
        if bias:
            self.add_parameter("bias", shape[1:], bias_init or default)

    def config(self) -> dict[str, Any]:
        # Initializers of one's own are left out: a saved layer comes with its values.
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": "bias" in self._slots,
            "weight_init": self.weight_init if isinstance(self.weight_init, str) else None,
            "bias_init": self.bias_init if isinstance(self.bias_init, str) else None,
        }

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        self.first_use(x)
        return self._product(x), partial(self._backprop, x)

    def forward_fused(
        self, x: Array, training: bool, activation: "_Activation"
    ) -> tuple[Array, Backprop]:
        """``activation(x @ weight + bias)`` in one pass, and its gradient."""
        self.first_use(x)
        keep = training and not activation.from_output
        y = self._product(x, activation=activation.epilogue, return_preactivation=keep)
        saved = y if activation.from_output else None
        if keep:
            y, saved = y

        def backprop(dy: Array, overwrite: bool = False) -> Array | None:
            known = self._product(x) if saved is None else saved
            return self._backprop(x, activation.gradient(dy, known, overwrite))

        return y, backprop

    def _product(self, x: Array, **options: Any) -> Any:
        bias = self.params.get("bias")
        weight = self.params["weight"]
        return ops.matmul(x, weight, bias=bias, precision=self.precision, **options)

    def _backprop(self, x: Array, dy: Array, overwrite: bool = False) -> Array | None:
        rows = x.shape[:-1]
        if dy.shape != (*rows, self.out_features):
            expected = (*rows, self.out_features)
            raise ShapeError(f"Linear: dy must have shape {expected}, got {dy.shape}")
        x, dy = (a.reshape(math.prod(rows), a.shape[-1]) for a in (x, dy))
        weight, grads, dx = self.params["weight"], self.grads, None
        if self.needs_input_grad:  # before the weight's gradient, which an update may follow
            dx = ops.matmul(dy, weight, transpose_b=True, precision=self.precision)
            dx = dx.reshape(*rows, self.in_features)
        grads["weight"] = ops.matmul(
            x, dy, transpose_a=True, precision=self.precision, out=grads.get("weight")
        )
        if "bias" in self.params:
            grads["bias"] = ops.column_sum(dy, out=grads.get("bias"))
        return dx

    def _check_input(self, shape: Shape | None) -> None:
        _check_axis("Linear", shape, -1, self.in_features)


class BatchNorm(BuiltIn):
    """Batch normalisation of each channel (Ioffe & Szegedy 2015).

    In training a channel is normalised by the statistics of the batch, which also move the running
    ones; else by the running ones.

    Parameters
    ----------
    num_features : int
        Channels c of the inputs, float (n, c) or (n, c, ...).
    eps : float, default 1e-5
        Added to the variance.
    momentum : float, default 0.1
        Weight of the batch in the running statistics, 0 to 1.
    affine : bool, default True
        Whether to scale by `weight` (initially 1) and shift by `bias` (0) at the end.
    unbiased_running_var : bool, default True
        The running variance divides by n - 1, as in PyTorch; False: by n, as in Keras.

    Attributes
    ----------
    weight, bias, running_mean, running_var : float array, shape (num_features,)
        Read as read-only copies, assigned in place.

    Raises
    ------
    ValueError
        If an argument is out of range, or a training batch has one value per channel.
    """

    recordable = True
    weight = Snapshot()
    bias = Snapshot()
    running_mean = Snapshot()
    running_var = Snapshot()
    # In training synchronised(x, activation) takes the place of forward_fused, if it is given.
    synchronised: Callable[[Array, str | None], tuple[Array, Backprop]] | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        unbiased_running_var: bool = True,
    ) -> None:
        super().__init__()
        _require(0 < eps < math.inf, f"BatchNorm: eps must be finite and > 0, got {eps}")
        _require(0 <= momentum <= 1, f"BatchNorm: momentum must be in [0, 1], got {momentum}")
        self.num_features = _size("BatchNorm", "num_features", num_features)
        self.eps, self.momentum, self.affine = eps, momentum, affine
        self.unbiased_running_var = unbiased_running_var
        if affine:
            self.add_parameter("weight", (self.num_features,), "ones")
            self.add_parameter("bias", (self.num_features,), "zeros")
        self.add_buffer("running_mean", (self.num_features,), "zeros")
        self.add_buffer("running_var", (self.num_features,), "ones")

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        return self.forward_fused(x, training, None)

    def forward_fused(
        self, x: Array, training: bool, activation: "_Activation | None"
    ) -> tuple[Array, Backprop]:
        """The normalised batch, with a relu if one is given, and its gradient."""
        self.first_use(x)
        name = activation.epilogue if activation else None
        if training and self.synchronised is not None:
            return self.synchronised(x, name)
        gamma = self.params.get("weight")
        y, mean, rstd = ops.batch_norm(
            x,
            gamma,
            self.params.get("bias"),
            self.buffers["running_mean"],
            self.buffers["running_var"],
            training=training,
            momentum=self.momentum,
            eps=self.eps,
            unbiased_running_var=self.unbiased_running_var,
            activation=name,
        )

        def backprop(dy: Array, overwrite: bool = False) -> Array | None:
            gradients = ops.batch_norm_backward(
                dy,
                x,
                gamma,
                mean,
                rstd,
                training=training,
                activation=name,
                y=y if activation else None,
                out=(
                    dy if overwrite else None,
                    self.grads.get("weight"),
                    self.grads.get("bias"),
                ),
            )
            return _keep_affine(self, self.affine, gradients)

        return y, backprop

    def _check_input(self, shape: Shape | None) -> None:
        _check_axis("BatchNorm", shape, 1, self.num_features)


class LayerNorm(BuiltIn):
    """Layer normalisation over the last axis (Ba, Kiros & Hinton 2016).

    Parameters
    ----------
    normalized_shape : int
        Length of the last axis.
    eps : float, default 1e-5
        Added to the variance.
    elementwise_affine : bool, default True
        Whether to scale by `weight` (initially 1) and shift by `bias` (0) at the end.

    Attributes
    ----------
    weight, bias : float array, shape (normalized_shape,)
        Read as read-only copies, assigned in place.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    recordable = True
    weight = Snapshot()
    bias = Snapshot()

    def __init__(
        self, normalized_shape: int, eps: float = 1e-5, elementwise_affine: bool = True
    ) -> None:
        super().__init__()
        _require(0 < eps < math.inf, f"LayerNorm: eps must be finite and > 0, got {eps}")
        self.normalized_shape = _size("LayerNorm", "normalized_shape", normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        if elementwise_affine:
            self.add_parameter("weight", (self.normalized_shape,), "ones")
            self.add_parameter("bias", (self.normalized_shape,), "zeros")

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        self.first_use(x)
        gamma = self.params.get("weight")
        y, mean, rstd = ops.layer_norm(x, gamma, self.params.get("bias"), eps=self.eps)

        def backprop(dy: Array, overwrite: bool = False) -> Array | None:
            out = (None, self.grads.get("weight"), self.grads.get("bias"))
            gradients = ops.layer_norm_backward(dy, x, gamma, mean, rstd, out=out)
            return _keep_affine(self, self.elementwise_affine, gradients)

        return y, backprop

    def _check_input(self, shape: Shape | None) -> None:
        _check_axis("LayerNorm", shape, -1, self.normalized_shape)


# ---- activations -----------------------------------------------------------------------------


class _Activation(BuiltIn):
    """``fastnn.ops.<op>(x, **options())``, with the gradient ``backward``, ``<op>_backward``."""

    op: str
    backward: str = ""
    from_output: bool = False  # the gradient takes y instead of x
    in_place: ClassVar[bool] = True  # dx may replace dy
    recordable = True

    def options(self) -> dict[str, float]:
        """Parameters of the activation, if it has any."""
        return {}

    @property
    def epilogue(self) -> str | None:
        """What `fastnn.ops.matmul` calls this activation; None if it can't apply it."""
        return self.op

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        y = getattr(ops, self.op)(x, **self.options())
        saved = y if self.from_output else x

        def backprop(dy: Array, overwrite: bool = False) -> Array | None:
            return self.gradient(dy, saved, overwrite) if self.needs_input_grad else None

        return y, backprop

    def gradient(self, dy: Array, saved: Array, overwrite: bool) -> Array:
        """Gradient of the input from that of the output and the saved input or output."""
        out = dy if overwrite and self.in_place else None
        backward = getattr(ops, self.backward or self.op + "_backward")
        return backward(dy, saved, **self.options(), out=out)


class ReLU(_Activation):
    """``max(x, 0)``."""

    op = "relu"
    from_output = True  # y > 0 just where x > 0


class LeakyReLU(_Activation):
    """``x`` where x > 0, else ``negative_slope * x``.

    Parameters
    ----------
    negative_slope : float, default 0.01
        Slope left of 0, finite.

    Raises
    ------
    ValueError
        If `negative_slope` is not finite.
    """

    op = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        finite = math.isfinite(negative_slope)
        _require(finite, f"LeakyReLU: negative_slope must be finite, got {negative_slope}")
        self.negative_slope = negative_slope
        self.from_output = negative_slope >= 0  # then y > 0 just where x > 0

    def options(self) -> dict[str, float]:
        return {"negative_slope": self.negative_slope}

    @property
    def epilogue(self) -> str | None:
        return self.op if self.negative_slope == 0.01 else None


class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``."""

    op = "sigmoid"
    backward, from_output = "sigmoid_backward_from_output", True


class HardSigmoid(_Activation):
    """``clip(x/6 + 1/2, 0, 1)``."""

    op = "hard_sigmoid"


class Tanh(_Activation):
    """``tanh(x)``."""

    op = "tanh"
    backward, from_output = "tanh_backward_from_output", True


class GELU(_Activation):
    """``x * Phi(x)`` with the normal distribution function Phi (Hendrycks & Gimpel 2016).

    Parameters
    ----------
    approximate : {"none", "tanh"}
        "tanh": ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))``.

    Raises
    ------
    ValueError
        If `approximate` is neither of the two.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        known = approximate in ("none", "tanh")
        _require(known, f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate
        self.op = "gelu" if approximate == "none" else "gelu_tanh"


class SiLU(_Activation):
    """``x / (1 + exp(-x))``, also called swish."""

    op = "silu"


class Softplus(_Activation):
    """``log(1 + exp(beta x)) / beta``; x itself where ``beta x > threshold``.

    Parameters
    ----------
    beta : float, default 1.0
        Sharpness, positive.
    threshold : float, default 20.0
        Where the curve is taken as straight.

    Raises
    ------
    ValueError
        If `beta` is not positive.
    """

    op = "softplus"

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        _require(0 < beta < math.inf, f"Softplus: beta must be finite and > 0, got {beta}")
        self.beta, self.threshold = beta, threshold

    def options(self) -> dict[str, float]:
        return {"beta": self.beta, "threshold": self.threshold}

    @property
    def epilogue(self) -> str | None:
        return self.op if (self.beta, self.threshold) == (1, 20) else None


class Softmax(_Activation):
    """Softmax over the last axis. To train a classifier use `CrossEntropy` on raw scores."""

    op = "softmax"
    from_output = True
    in_place = False  # a row of dx needs the whole row of dy
    epilogue = None


class LogSoftmax(_Activation):
    """Logarithm of the softmax over the last axis."""

    op = "log_softmax"
    from_output = True
    in_place = False
    epilogue = None


# ---- layers without arithmetic of their own --------------------------------------------------


class Dropout(BuiltIn):
    """Zero elements at random in training, scale the others by ``1 / (1 - p)`` (Srivastava 2014).

    Parameters
    ----------
    p : float
        Probability of zeroing an element, 0 <= p < 1.
    seed : int, optional
        Key of the random bits, 0 <= seed < 2^64; drawn by `build` when not given.

    Attributes
    ----------
    offset : int64 array of shape ()
        Counter: another offset, other bits. Moves on by itself after each use in training, unless
        `shared_counter` is set: then whoever owns the counter does that.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    recordable = True
    shared_counter: bool = False
    rank: int = 0  # of the process, if a Trainer is one of several: each draws other bits

    def __init__(self, p: float = 0.5, seed: int | None = None) -> None:
        super().__init__()
        _require(0 <= p < 1, f"Dropout: p must be in [0, 1), got {p}")
        self.p = p
        self.seed = None if seed is None else seed_number("Dropout", seed)
        self.offset: Array = np.zeros((), np.int64)

    def build(
        self,
        input_shape: Shape | None,
        dtype: npt.DTypeLike,
        rng: np.random.Generator | int | None = None,
        xp: Any = np,
    ) -> None:
        super().build(input_shape, dtype, rng, xp)
        if self.seed is None:
            self.seed = int(generator(rng).integers(1 << 63))

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        if not training:
            return x, _unchanged
        self.first_use(x)
        assert self.seed is not None  # since build
        offset = self.offset if self.shared_counter else int(self.offset)
        seed = (self.seed + self.rank) % (1 << 64)
        y, mask = ops.dropout(x, self.p, seed=seed, offset=offset)
        if not self.shared_counter:
            self.offset += 1

        def backprop(dy: Array, overwrite: bool = False) -> Array | None:
            if not self.needs_input_grad:
                return None
            return ops.dropout_backward(dy, mask, self.p, out=dy if overwrite else None)

        return y, backprop


class Flatten(BuiltIn):
    """All axes but the first made one: (n, ...) to (n, f)."""

    recordable = True

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        shape = x.shape
        if not shape:
            raise ShapeError("Flatten: x must have at least one axis, got shape ()")

        def backprop(dy: Array, overwrite: bool = False) -> Array | None:
            return dy.reshape(shape) if self.needs_input_grad else None

        return x.reshape(shape[0], math.prod(shape[1:])), backprop


class Rescaling(BuiltIn):
    """uint8 images to floating point: ``x * scale + offset``, rounded once.

    The result is float32, or float64 in a model built so. There is no gradient: `backprop` returns
    None.

    Parameters
    ----------
    scale : float
        Factor, for example ``1 / 255``.
    offset : float, default 0.0
        Added.
    """

    recordable = True

    def __init__(self, scale: float, offset: float = 0.0) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    @property
    def dtype(self) -> str:
        """Name of the result's dtype."""
        return "float32" if self._dtype is None else self._dtype.name

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        y = ops.rescale(x, scale=self.scale, offset=self.offset, dtype=self.dtype)
        return y, _no_gradient


# ---- chains ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """One or two layers of a `Sequential` that run as one op."""

    layer: Layer
    activation: _Activation | None = None
    overwrite: bool = False  # the gradient it is given belongs to the chain

    def forward(self, x: Array, training: bool) -> tuple[Array, Backprop]:
        if self.activation is None:
            y, backprop = self.layer.forward(x, training)
        else:
            assert isinstance(self.layer, (Linear, BatchNorm))
            y, backprop = self.layer.forward_fused(x, training, self.activation)
        return y, partial(backprop, overwrite=True) if self.overwrite else backprop


class _ChainBackprop:
    """Gradients through the stages of a `Sequential`, from the last to the first."""

    def __init__(self, steps: list[Backprop]) -> None:
        self.steps = steps

    def __call__(self, dy: Array | None, overwrite: bool = False) -> Array | None:
        for step in reversed(self.steps):
            if dy is None:
                return None
            dy = step(dy)
        return dy

    def finish(self, dy: Array | None) -> None:
        """As a call, which must be the last: what a stage has saved goes as soon as it has run."""
        while self.steps and dy is not None:
            dy = self.steps.pop()(dy)


def finish_backprop(backprop: Backprop, dy: Array) -> None:
    """Call it for the last time, so that later gradients may lie where activations were."""
    (backprop.finish if isinstance(backprop, _ChainBackprop) else backprop)(dy)


class Sequential(BuiltIn):
    """Layers one behind the other.

    Parameters
    ----------
    *layers : Layer
        From input to output; available as the tuple `layers`, and as ``model[i]``.

    Raises
    ------
    TypeError
        If one is no `Layer`.
    ValueError
        If two of their parameters are one array.
    """

    recordable = True

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"Sequential: layer {i} must be a Layer, got {type(layer).__name__}"
                )
        self.layers = layers
        self.recordable = self.recordable and all(layer.recordable for layer in layers)
        self._needs_input_grad = True
        self._stages, self._makes_gradient = _plan(layers)
        self._places()  # refuses shared parameters

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Layer:
        return self.layers[i]

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def children(self) -> Mapping[str, Layer]:
        return {f"layers.{i}": layer for i, layer in enumerate(self.layers)}

    def config(self) -> dict[str, Any]:
        return {"layers": self.layers}

    @property
    def needs_input_grad(self) -> bool:
        """False spares the layers up to the first with parameters their dx."""
        return self._needs_input_grad

    @needs_input_grad.setter
    def needs_input_grad(self, value: bool) -> None:
        self._needs_input_grad = value
        for layer in self.layers:
            layer.needs_input_grad = value
            if layer.has_parameters or not _native(layer):
                break

    def forward(self, x: Array, training: bool = False) -> tuple[Array, Backprop]:
        self.first_use(x)
        steps = []
        for stage in self._stages:
            x, step = stage.forward(x, training)
            steps.append(step)

        return x, _ChainBackprop(steps)

    def _check_input(self, shape: Shape | None) -> None:
        if self.layers:
            self.layers[0]._check_input(shape)


def _plan(layers: tuple[Layer, ...]) -> tuple[list[_Stage], bool]:
    """Layers paired where one op does both, and who may overwrite the gradient it is given.

    That is a built-in layer, if a built-in layer behind it made this gradient: the first gradient
    is the caller's, and one made by a layer of the user's may be kept by it. The second result says
    whether the gradient that leaves the chain was made in it.
    """
    pairs: list[tuple[Layer, _Activation | None]] = []
    for layer in layers:
        if pairs and pairs[-1][1] is None and _fusable(pairs[-1][0], layer):
            assert isinstance(layer, _Activation)
            pairs[-1] = (pairs[-1][0], layer)
        else:
            pairs.append((layer, None))
    stages = []
    owned = False
    for layer, activation in reversed(pairs):
        native = _native(layer)
        stages.append(_Stage(layer, activation, native and owned))
        owned = native and (owned or _makes_gradient(layer))
    return stages[::-1], owned


def _native(layer: Layer) -> bool:
    """Whether the forward pass is one of this module, not a derived class's own."""
    return type(layer).forward.__module__ == __name__


def _fusable(layer: Layer, behind: Layer) -> bool:
    if not (_native(layer) and _native(behind) and isinstance(behind, _Activation)):
        return False
    if isinstance(layer, BatchNorm):
        return behind.epilogue == "relu"
    return isinstance(layer, Linear) and behind.epilogue is not None


def _makes_gradient(layer: Layer) -> bool:
    """Whether dx is always a new array; the others may hand dy through."""
    if isinstance(layer, Sequential):
        return layer._makes_gradient
    return isinstance(layer, (Linear, BatchNorm, LayerNorm, _Activation))


# ---- helpers ---------------------------------------------------------------------------------


def _unchanged(dy: Array, overwrite: bool = False) -> Array:
    return dy


def _no_gradient(dy: Array, overwrite: bool = False) -> None:
    return None


def _keep_affine(layer: Layer, affine: bool, gradients: tuple[Array, Array, Array]) -> Array | None:
    """Store the gradients of weight and bias; return dx if it is wanted."""
    dx, dweight, dbias = gradients
    if affine:
        layer.grads["weight"], layer.grads["bias"] = dweight, dbias
    return dx if layer.needs_input_grad else None


def _size(owner: str, name: str, size: int) -> int:
    integer = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    _require(integer and size >= 0, f"{owner}: {name} must be an integer >= 0, got {size!r}")
    return int(size)


def _check_axis(owner: str, shape: Shape | None, axis: int, length: int) -> None:
    """Refuse inputs whose axis, of at least two, has another length."""
    if shape is not None and (len(shape) < 2 or shape[axis] != length):
        where = "the last axis" if axis < 0 else f"axis {axis}"
        raise ShapeError(f"{owner}: x must have length {length} on {where}, got {shape}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

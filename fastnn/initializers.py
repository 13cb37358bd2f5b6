"""Initial values of parameters.

Every initializer is a function ``f(rng, shape, dtype, **arguments) -> ndarray``. Values are drawn
in float64 and rounded once, so a float32 model starts at the rounded weights of its float64 twin.
The shape of a weight matrix is ``(fan_in, fan_out)``.

A name means what its library means by it: ``kaiming_normal`` and ``xavier_normal`` draw from a
normal distribution as in PyTorch; ``he_normal``, ``glorot_normal`` and ``lecun_normal`` from one
cut off at two standard deviations, and widened to the standard deviation asked for, as in Keras.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "constant",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "trunc_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Initializer: TypeAlias = Callable[..., Array]

# Standard deviation of the standard normal distribution cut off at -2 and 2.
_STD_WITHIN_2 = 0.87962566103423978


def zeros(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """All 0."""
    return np.zeros(shape, dtype)


def ones(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """All 1."""
    return np.ones(shape, dtype)


def constant(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, val: float) -> Array:
    """All `val`; as a layer's initializer: ``functools.partial(constant, val=0.1)``."""
    return np.full(shape, val, dtype)


def uniform(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, a: float = 0.0, b: float = 1.0
) -> Array:
    """Uniform over ``[a, b]``, by default ``[0, 1]``.

    Raises
    ------
    ValueError
        If `a` is greater than `b`.
    """
    if not a <= b:
        raise ValueError(f"uniform: a must be <= b, got a={a}, b={b}")
    return rng.uniform(a, b, shape).astype(dtype)


def normal(
    rng: np.random.Generator,
    shape: Shape,
    dtype: npt.DTypeLike,
    mean: float = 0.0,
    std: float = 1.0,
) -> Array:
    """Normal with mean `mean` (0) and standard deviation `std` (1).

    Raises
    ------
    ValueError
        If `std` is negative.
    """
    if not std >= 0:
        raise ValueError(f"normal: std must be >= 0, got {std}")
    return rng.normal(mean, std, shape).astype(dtype)


def trunc_normal(
    rng: np.random.Generator,
    shape: Shape,
    dtype: npt.DTypeLike,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
) -> Array:
    """Normal with mean `mean` (0) and standard deviation `std` (1), cut off outside ``[a, b]``.

    `a` and `b` (-2, 2) are values, not multiples of `std`, and the result's standard deviation is
    smaller than `std`, both as in PyTorch.

    Raises
    ------
    ValueError
        If `std` is not positive, or ``[a, b]`` holds less than a thousandth of the distribution.
    """
    if not std > 0:
        raise ValueError(f"trunc_normal: std must be > 0, got {std}")
    low, high = (a - mean) / std, (b - mean) / std
    if not math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)) >= 2e-3:
        raise ValueError(f"trunc_normal: [a, b] must reach into the distribution, got [{a}, {b}]")
    z = rng.standard_normal(shape)
    while np.any(outside := (z < low) | (z > high)):
        z[outside] = rng.standard_normal(np.count_nonzero(outside))
    return (mean + std * z).astype(dtype)


def kaiming_uniform(
    rng: np.random.Generator,
    shape: Shape,
    dtype: npt.DTypeLike,
    a: float = 0.0,
    mode: str = "fan_in",
) -> Array:
    """Uniform with variance ``2 / (1 + a^2) / fan`` (He et al. 2015), for ReLU networks.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the values.
    shape : tuple of int
        ``(fan_in, fan_out)``.
    dtype : dtype
        Of the result.
    a : float, default 0.0
        Slope left of 0 of the leaky ReLU that follows.
    mode : {"fan_in", "fan_out"}
        Keep the variance of the outputs, or of the gradients.

    Returns
    -------
    ndarray of `dtype`, shape `shape`

    Raises
    ------
    ValueError
        If `shape` does not have two axes, or `mode` is neither of the two.
    """
    return _uniform(rng, shape, dtype, _kaiming_std("kaiming_uniform", shape, a, mode))


def kaiming_normal(
    rng: np.random.Generator,
    shape: Shape,
    dtype: npt.DTypeLike,
    a: float = 0.0,
    mode: str = "fan_in",
) -> Array:
    """Normal with variance ``2 / (1 + a^2) / fan``; arguments as for `kaiming_uniform`."""
    return normal(rng, shape, dtype, std=_kaiming_std("kaiming_normal", shape, a, mode))


def xavier_uniform(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, gain: float = 1.0
) -> Array:
    """Uniform with variance ``gain^2 * 2 / (fan_in + fan_out)`` (Glorot & Bengio 2010)."""
    return _uniform(rng, shape, dtype, gain * _xavier_std("xavier_uniform", shape))


def xavier_normal(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, gain: float = 1.0
) -> Array:
    """Normal with variance ``gain^2 * 2 / (fan_in + fan_out)`` (Glorot & Bengio 2010)."""
    return normal(rng, shape, dtype, std=gain * _xavier_std("xavier_normal", shape))


def he_uniform(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """Uniform with variance ``2 / fan_in`` (He et al. 2015)."""
    return _uniform(rng, shape, dtype, _kaiming_std("he_uniform", shape))


def he_normal(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """Truncated normal with variance ``2 / fan_in`` (He et al. 2015)."""
    return _truncated(rng, shape, dtype, _kaiming_std("he_normal", shape))


def glorot_uniform(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """Uniform with variance ``2 / (fan_in + fan_out)`` (Glorot & Bengio 2010)."""
    return _uniform(rng, shape, dtype, _xavier_std("glorot_uniform", shape))


def glorot_normal(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """Truncated normal with variance ``2 / (fan_in + fan_out)`` (Glorot & Bengio 2010)."""
    return _truncated(rng, shape, dtype, _xavier_std("glorot_normal", shape))


def lecun_uniform(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """Uniform with variance ``1 / fan_in`` (LeCun et al. 1998)."""
    return _uniform(rng, shape, dtype, _std(1.0, _fans("lecun_uniform", shape)[0]))


def lecun_normal(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """Truncated normal with variance ``1 / fan_in`` (LeCun et al. 1998)."""
    return _truncated(rng, shape, dtype, _std(1.0, _fans("lecun_normal", shape)[0]))


def orthogonal(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, gain: float = 1.0
) -> Array:
    """`gain` (1) times a random matrix with orthonormal columns, or rows if these are fewer.

    Every such matrix is equally likely: the signs of the QR factors are fixed (Mezzadri 2007). Use
    as initial weights: Saxe, McClelland & Ganguli 2014.

    Raises
    ------
    ValueError
        If `shape` does not have two axes.
    """
    rows, columns = _fans("orthogonal", shape)
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= gain * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(q if rows >= columns else q.T, dtype)


def get(initializer: str | Initializer) -> Initializer:
    """The initializer of that name; a callable is returned as it is.

    Raises
    ------
    ValueError
        If there is no initializer of that name.
    """
    if callable(initializer):
        return initializer
    if initializer == "get" or initializer not in __all__:
        names = ", ".join(name for name in __all__ if name != "get")
        raise ValueError(f"initializer must be callable or one of {names}; got {initializer!r}")
    function: Initializer = globals()[initializer]
    return function


def _fans(name: str, shape: Shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{name}: shape must be (fan_in, fan_out), got {tuple(shape)}")
    return shape[0], shape[1]


def _std(variance: float, fan: int) -> float:
    return math.sqrt(variance / fan) if fan else 0.0


def _kaiming_std(name: str, shape: Shape, a: float = 0.0, mode: str = "fan_in") -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return _std(2.0 / (1.0 + a * a), _fans(name, shape)[mode == "fan_out"])


def _xavier_std(name: str, shape: Shape) -> float:
    return _std(2.0, sum(_fans(name, shape)))


def _uniform(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, std: float) -> Array:
    bound = math.sqrt(3.0) * std
    return uniform(rng, shape, dtype, -bound, bound)


def _truncated(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, std: float) -> Array:
    z = trunc_normal(rng, shape, np.float64)
    return (z * (std / _STD_WITHIN_2)).astype(dtype)

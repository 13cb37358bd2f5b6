"""How far a kernel's result may lie from the exact one, op by op.

A bound is a multiple of u (2^-24 for float32, 2^-53 for float64: half the gap above 1) times the
size of the terms that were rounded on the way; it grows with no tuning constant but the multiples
below, which were fixed beforehand and say what users may rely on:

    1 ulp (2u)   tanh
    4u           the other activations and their gradients (these relative to dy); each term of a
                 loss; a moment of an optimizer
    8u           an optimizer's update; a variance; a short sum, relative to its terms
    16u          matmul, relative to |a| |b|; 2^15 u more with precision="tf32", which on a GPU may
                 cut factors off after 11 bits
    32u          a long sum, relative to its terms
    (4 + |z|) u  softmax, z the distance of a score from the largest
"""

from types import SimpleNamespace

import numpy as np
import reference
from cases import OPS, WIDE

UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}


def bounds(op, dtype, arguments, exact):
    """Absolute error allowed for each result; 0 for those that must be exact.

    arguments: the call's, in wide precision and from before the call; exact: the true results.
    """
    a = dict.fromkeys((field.name for field in OPS[op].parameters), None) | arguments
    a, r = SimpleNamespace(**a), SimpleNamespace(**exact)
    u, denormal = WIDE(UNIT[np.dtype(dtype)]), np.finfo(dtype).smallest_subnormal
    a.double = 2.0**-53 / u  # rounding errors of what is computed in double at any dtype
    with np.errstate(all="ignore"):
        allowed = BOUNDS[op](a, r) if op in BOUNDS else {}
        # A denormal as well: below the smallest normal number, rounding is no longer relative.
        return {
            name: u * np.abs(allowed[name]) + denormal if name in allowed else WIDE(0)
            for name in exact
        }


# ---- one function per family: multiples of u ------------------------------------------------


def matmul(a, r):
    left = np.abs(a.a.T if a.transpose_a else a.a)
    if a.precision == "bf16":
        left = np.abs(reference.bfloat16(left))
    terms = left @ np.abs(a.b.T if a.transpose_b else a.b)
    terms = terms if a.bias is None else terms + np.abs(a.bias)
    steepest = 1.13  # slope of gelu
    units = 16 + (2**15 if a.precision == "tf32" else 0)
    return {"y": units * steepest * terms + 4 * np.abs(r.y), "preactivation": units * terms}


def relative(multiple, name="y"):
    return lambda a, r: {name: multiple * np.abs(getattr(r, name))}


def of_gradient(multiple):
    """Relative to dy: near a zero of the derivative, no more than that is known."""
    return lambda a, r: {"dx": multiple * np.abs(a.dy)}


def sum_of(axis):
    return lambda a, r: {"y": 32 * np.abs(a.x).sum(axis=axis)}


def softplus(a, r):
    beta = 1 if a.beta is None else a.beta
    rounded_argument = 0 if beta == 1 else 2 * np.abs(beta * a.x)
    return {"y": (4 + rounded_argument) * np.abs(r.y)}


def distance(x):
    """How far each score lies below its row's largest."""
    return x.max(axis=-1, keepdims=True, initial=-np.inf) - x


def largest(x):
    """max(1, |z|max) of each row."""
    return np.maximum(1, np.abs(x).max(axis=-1, keepdims=True, initial=0))


def softmax(a, r):
    return {"y": (4 + distance(a.x)) * r.y}


def softmax_backward(a, r):
    terms = np.abs(a.dy) + np.abs(a.dy * a.y).sum(axis=-1, keepdims=True)
    return {"dx": 8 * a.y * terms}


def log_softmax(a, r):
    return {"y": 4 * largest(a.x) * np.ones_like(r.y)}


def log_softmax_backward(a, r):
    total = np.abs(a.dy).sum(axis=-1, keepdims=True)
    return {"dx": 8 * (np.abs(a.dy) + np.exp(a.y) * total)}


def mean_of(a, loss, gradient, total, name):
    """Bounds of a loss and its gradient, from those of its terms."""
    loss, gradient = reference.reduce(loss, gradient, total, a.reduction or "mean")
    return {"loss": loss, name: gradient}


def softmax_cross_entropy(a, r):
    n, c = a.logits.shape
    weight = np.ones(c) if a.weight is None else a.weight
    sample_weight = reference.along_first_axis(a.sample_weight, a.logits)
    ignore = -100 if a.ignore_index is None else a.ignore_index
    q, counts = reference.smoothed_targets(
        a.targets, (n, c), a.logits.dtype, ignore, a.label_smoothing or 0
    )
    share = sample_weight * weight * q
    all_shares = share.sum(axis=1, keepdims=True)
    p = reference.softmax(a.logits)
    loss = 4 * (all_shares * largest(a.logits))[:, 0]
    loss = loss + 4 * (share * np.abs(reference.log_softmax(a.logits))).sum(axis=1)
    gradient = all_shares * p * (8 + distance(a.logits)) + 8 * share
    total = sample_weight.sum()
    if a.targets.ndim == 1:
        total = (sample_weight[counts, 0] * weight[a.targets[counts]]).sum()
    loss, gradient = np.where(counts, loss, 0), np.where(counts[:, None], gradient, 0)
    return mean_of(a, loss, gradient, total, "dlogits")


def sigmoid_cross_entropy(a, r):
    w = reference.along_first_axis(a.sample_weight, a.logits)
    w = w * np.maximum(1, 1 if a.pos_weight is None else a.pos_weight)
    total = (reference.along_first_axis(a.sample_weight, a.logits) * np.ones_like(a.logits)).sum()
    loss = 4 * w * (np.maximum(1, np.abs(a.logits)))
    return mean_of(a, 2 * loss, 8 * w * np.ones_like(a.logits), total, "dlogits")


def squared(a, r):
    w = reference.along_first_axis(a.sample_weight, a.pred)
    total = (w * np.ones_like(a.pred)).sum()
    d = np.abs(a.pred - a.target)
    return mean_of(a, 8 * w * d * d, 8 * w * d, total, "dpred")


def absolute(a, r):
    w = reference.along_first_axis(a.sample_weight, a.pred) * np.ones_like(a.pred)
    return mean_of(a, 8 * w * np.abs(a.pred - a.target), 4 * w, w.sum(), "dpred")


def batch_norm(a, r):
    axes, shape = reference.per_channel(a.x)
    count = a.x.size // max(a.x.shape[1], 1)
    training = a.training is not False
    mean, rstd = r.mean.reshape(shape), r.rstd.reshape(shape)
    scale = rstd if a.gamma is None else rstd * np.abs(a.gamma.reshape(shape))
    shift = 0 if a.beta is None else np.abs(a.beta.reshape(shape))
    typical = np.abs(a.x).mean(axis=axes)  # the mean is as exact as a sum of x
    y = scale * (8 * np.abs(a.x - mean) + 4 * typical.reshape(shape)) + 4 * shift
    found = {"y": y, "mean": 4 * typical, "rstd": 6 * r.rstd}
    if not training:
        return found | {"mean": 0}
    variance = a.x.var(axis=axes) * count / max(count - 1, 1)
    if a.running_mean is not None:
        found["running_mean"] = 4 * (np.abs(a.running_mean) + typical)
    if a.running_var is not None:
        found["running_var"] = 8 * (np.abs(a.running_var) + variance)
    return found


def batch_norm_backward(a, r):
    axes, shape = reference.per_channel(a.x)
    rstd, mean = a.rstd.reshape(shape), a.mean.reshape(shape)
    xhat = rstd * (np.abs(a.x) + np.abs(mean))
    dy = np.abs(a.dy)
    dbeta, dgamma = dy.sum(axis=axes), (dy * xhat).sum(axis=axes)
    count = a.x.size // max(a.x.shape[1], 1)
    dx = dy + (dbeta.reshape(shape) + xhat * dgamma.reshape(shape)) / count
    scale = rstd if a.gamma is None else rstd * np.abs(a.gamma.reshape(shape))
    return {"dx": 32 * scale * dx, "dgamma": 32 * dgamma, "dbeta": 32 * dbeta}


def layer_norm(a, r):
    mean, rstd = np.asarray(r.mean)[..., None], np.asarray(r.rstd)[..., None]
    scale = rstd if a.gamma is None else rstd * np.abs(a.gamma)
    shift = 0 if a.beta is None else np.abs(a.beta)
    typical = np.abs(a.x).mean(axis=-1)
    y = scale * (8 * np.abs(a.x - mean) + 4 * typical[..., None]) + 4 * shift
    return {"y": y, "mean": 4 * typical, "rstd": 6 * r.rstd}


def layer_norm_backward(a, r):
    rstd, mean = a.rstd[..., None], a.mean[..., None]
    xhat, rows = rstd * (np.abs(a.x) + np.abs(mean)), tuple(range(a.x.ndim - 1))
    dy = np.abs(a.dy)
    d = dy if a.gamma is None else dy * np.abs(a.gamma)
    dx = d + d.mean(axis=-1, keepdims=True) + xhat * (d * xhat).mean(axis=-1, keepdims=True)
    return {
        "dx": 32 * rstd * dx,
        "dgamma": 32 * (dy * xhat).sum(axis=rows),
        "dbeta": 32 * dy.sum(axis=rows),
    }


def descent(a, weight_decay):
    return np.abs(a.grad) + (weight_decay or 0) * np.abs(a.param)


def sgd_step(a, r):
    g = descent(a, a.weight_decay)
    found, update = {}, g
    if a.velocity is not None:
        found["velocity"] = 4 * (a.momentum * np.abs(a.velocity) + g)
        update = found["velocity"] / 4 + g
    return found | {"param": np.abs(r.param) + 8 * a.lr * update}


def adagrad_step(a, r):
    g = descent(a, a.weight_decay)
    sum_sq = a.sum_sq + g * g
    update = a.lr * g / (np.sqrt(r.sum_sq) + (a.eps or 0)) * sum_sq / r.sum_sq
    return {"param": np.abs(r.param) + 8 * update, "sum_sq": 4 * sum_sq}


def rmsprop_step(a, r):
    g, alpha, eps = descent(a, a.weight_decay), a.alpha or 0.99, a.eps or 1e-8
    square = alpha * a.square_avg + (1 - alpha) * g * g
    found, variance = {"square_avg": 4 * square}, r.square_avg
    if a.centered:
        found["grad_avg"] = 4 * (alpha * np.abs(a.grad_avg) + (1 - alpha) * g)
        variance = variance - r.grad_avg**2
    root = np.sqrt(variance + eps) if a.eps_in_sqrt else np.sqrt(variance) + eps
    update = g / root * square / variance
    if a.velocity is not None:
        update = a.momentum * np.abs(a.velocity) + update
        found["velocity"] = 8 * update
    return found | {"param": np.abs(r.param) + 8 * a.lr * update}


def adam_moments(a):
    g = descent(a, 0 if a.decoupled else a.weight_decay)
    beta1 = 0.9 if a.beta1 is None else a.beta1
    beta2 = 0.999 if a.beta2 is None else a.beta2
    m = beta1 * np.abs(a.exp_avg) + (1 - beta1) * g
    return m, beta2 * a.exp_avg_sq + (1 - beta2) * g * g, WIDE(beta1), WIDE(beta2)


def bias_correction(a, beta):
    """Relative error of 1 - beta^step, a difference of doubles."""
    return a.double / (1 - beta**a.step)


def adam_step(a, r):
    m, v, beta1, beta2 = adam_moments(a)
    found = {"exp_avg": 4 * m, "exp_avg_sq": 4 * v}
    power = r.exp_avg_sq
    if a.amsgrad:
        power, found["max_exp_avg_sq"] = r.max_exp_avg_sq, 4 * v
    correction = np.sqrt(1 - beta2**a.step)
    root = np.sqrt(power) / (1 if a.eps_mode == "hat" else correction)
    factor = correction if a.eps_mode == "hat" else 1
    update = a.lr / (1 - beta1**a.step) * factor * m / (root + (a.eps or 1e-8)) * v / r.exp_avg_sq
    update *= 8 + bias_correction(a, beta1) + bias_correction(a, beta2)
    decay = 2 * a.lr * (a.weight_decay or 0) if a.decoupled else 0
    return found | {"param": (1 + decay) * (np.abs(r.param) + np.abs(a.param)) + update}


def radam_step(a, r):
    m, v, beta1, beta2 = adam_moments(a)
    root = np.sqrt(r.exp_avg_sq)
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * a.step * beta2**a.step / (1 - beta2**a.step)
    update = a.lr / (1 - beta1**a.step) * m
    if length > 5:
        update = update / root * v / r.exp_avg_sq * np.sqrt(1 - beta2**a.step)
        length_error = longest * bias_correction(a, beta2)
        update *= 1 + length_error / (length - 4) / 8
    update *= 8 + bias_correction(a, beta1) + bias_correction(a, beta2)
    return {
        "param": 2 * (np.abs(r.param) + np.abs(a.param)) + update,
        "exp_avg": 4 * m,
        "exp_avg_sq": 4 * v,
    }


def rescale(a, r):
    scale, offset = a.scale or 1, a.offset or 0
    return {"y": np.abs(r.y) + np.abs(a.x * scale) + np.abs(offset)}


def clip_grad_norm(a, r):
    return {"grad": 8 * np.abs(r.grad), "norm": 8 * r.norm}


def probe_fma(a, r):
    return {"y": 2 * np.maximum(1, np.abs(a.x))}


# Ops that are not here must be exact.
BOUNDS = {
    "matmul": matmul,
    "column_sum": sum_of(0),
    "leaky_relu": relative(2),
    "leaky_relu_backward": relative(2, "dx"),
    "sigmoid": relative(4),
    "sigmoid_backward": of_gradient(2),
    "sigmoid_backward_from_output": relative(2, "dx"),
    "hard_sigmoid": lambda a, r: {"y": 2 * (np.abs(a.x) / 6 + 0.5)},
    "hard_sigmoid_backward": of_gradient(2),
    "tanh": relative(2),
    "tanh_backward": of_gradient(4),
    "tanh_backward_from_output": relative(2, "dx"),
    "gelu": relative(4),
    "gelu_backward": of_gradient(4),
    "gelu_tanh": relative(4),
    "gelu_tanh_backward": of_gradient(4),
    "silu": relative(4),
    "silu_backward": of_gradient(4),
    "softplus": softplus,
    "softplus_backward": of_gradient(4),
    "softmax": softmax,
    "softmax_backward": softmax_backward,
    "log_softmax": log_softmax,
    "log_softmax_backward": log_softmax_backward,
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "mse": squared,
    "mae": absolute,
    "batch_norm": batch_norm,
    "batch_norm_backward": batch_norm_backward,
    "layer_norm": layer_norm,
    "layer_norm_backward": layer_norm_backward,
    "dropout": relative(2),
    "dropout_backward": relative(2, "dx"),
    "sgd_step": sgd_step,
    "adagrad_step": adagrad_step,
    "rmsprop_step": rmsprop_step,
    "adam_step": adam_step,
    "radam_step": radam_step,
    "rescale": rescale,
    "l2_norm": relative(8, "norm"),
    "clip_grad_norm": clip_grad_norm,
    "probe_fma": probe_fma,
    "probe_read": sum_of(1),
}


def assert_close(got, exact, allowed, dtype):
    """Each element within its bound; NaN where NaN is due, infinite where it overflows."""
    got, exact = np.asarray(got), np.asarray(exact)
    assert got.shape == exact.shape
    with np.errstate(over="ignore"):
        due = exact.astype(dtype) if exact.dtype.kind == "f" else exact
    finite = np.isfinite(due)
    np.testing.assert_array_equal(np.where(finite, 0, got), np.where(finite, 0, due))
    error = np.abs(np.where(finite, got, 0).astype(WIDE) - np.where(finite, exact, 0))
    excess = np.where(finite, error - allowed, 0)
    if not (excess <= 0).all():
        at = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape)
        allowed = np.broadcast_to(allowed, excess.shape)[at]
        raise AssertionError(
            f"at {tuple(map(int, at))}: got {got[at]!r}, exact {exact[at]!r}, off by"
            f" {float(error[at]):.3g} where {float(allowed):.3g} is allowed"
        )

"""What every op means, in plain NumPy: the one statement that all kernels are tested against.

Each function has the name, the arguments and the results of its op and is written from the
definition, without regard to speed. It computes in the precision of its arrays (float64, or long
double where float64 results are judged) and updates in place what the op updates.
"""

import numpy as np

# ---- products ------------------------------------------------------------------------------


def bfloat16(x):
    """x rounded to the nearest bfloat16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(x), rounded.view(np.float32).astype(x.dtype), x)


def matmul(
    a,
    b,
    *,
    transpose_a=False,
    transpose_b=False,
    bias=None,
    activation=None,
    return_preactivation=False,
    precision=None,
):
    if precision == "bf16":
        a, b = bfloat16(a), bfloat16(b)
    preactivation = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    if bias is not None:
        preactivation = preactivation + bias
    y = preactivation if activation is None else globals()[activation](preactivation)
    return (y, preactivation) if return_preactivation else y


def column_sum(x):
    return x.sum(axis=0)


# ---- activations ---------------------------------------------------------------------------


PI = 4 * np.arctan(np.longdouble(1))


def bell(x):
    """exp(-x^2 / 2); x^2 is split, since its rounding would show far from 0."""
    x = np.clip(x, -200, 200)
    near = x.astype(np.float32).astype(x.dtype)
    return np.exp(-near * near / 2) * np.exp(-(x - near) * (x + near) / 2)


def normal_cdf(x):
    """Phi: a power series (DLMF 7.6.2) near 0, a continued fraction (7.9.3) in the tails."""
    a = np.abs(x) / np.sqrt(x.dtype.type(2))
    term = series = np.minimum(a, 1.5)
    for n in range(60):
        term = term * 2 * a * a / (2 * n + 3)
        series = series + term
    start = fraction = np.clip(a, 1.5, 150)
    for k in range(150, 0, -1):
        fraction = start + k / fraction / 2
    root = np.sqrt(PI).astype(x.dtype)
    tail = np.where(a < 1.5, 0.5 - bell(x) * series / root, bell(x) / (2 * root * fraction))
    return np.where(x < 0, tail, 1 - tail)


def normal_pdf(x):
    return bell(x) / np.sqrt(2 * PI).astype(x.dtype)


def relu(x):
    return np.maximum(x, 0)


def relu_backward(dy, x):
    return np.where(x > 0, dy, 0)


def leaky_relu(x, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


def leaky_relu_backward(dy, x, negative_slope=0.01):
    return np.where(x > 0, dy, negative_slope * dy)


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def sigmoid_backward(dy, x):
    return dy * sigmoid(x) * sigmoid(-x)


def sigmoid_backward_from_output(dy, y):
    return dy * y * (1 - y)


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


def hard_sigmoid_backward(dy, x):
    return np.where((x > -3) & (x < 3), dy / 6, 0)


def tanh(x):
    return np.tanh(x)


def tanh_backward(dy, x):
    return dy * 4 * sigmoid(2 * x) * sigmoid(-2 * x)


def tanh_backward_from_output(dy, y):
    return dy * (1 - y) * (1 + y)


def gelu(x):
    return x * normal_cdf(x)


def gelu_backward(dy, x):
    return dy * (normal_cdf(x) + x * normal_pdf(x))


def gelu_tanh(x):
    root, cubic = np.sqrt(2 / PI).astype(x.dtype), x.dtype.type("0.044715")
    return x * sigmoid(2 * root * (x + cubic * x**3))


def gelu_tanh_backward(dy, x):
    root, cubic = np.sqrt(2 / PI).astype(x.dtype), x.dtype.type("0.044715")
    inner = root * (x + cubic * x**3)
    slope = root * (1 + 3 * cubic * x**2)
    return dy * (sigmoid(2 * inner) + 2 * x * slope * sigmoid(2 * inner) * sigmoid(-2 * inner))


def silu(x):
    return x * sigmoid(x)


def silu_backward(dy, x):
    return dy * (sigmoid(x) + x * sigmoid(x) * sigmoid(-x))


def softplus(x, beta=1.0, threshold=20.0):
    return np.where(beta * x > threshold, x, np.log1p(np.exp(beta * x)) / beta)


def softplus_backward(dy, x, beta=1.0, threshold=20.0):
    return np.where(beta * x > threshold, dy, dy * sigmoid(beta * x))


# ---- softmax -------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(dy, y):
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def log_softmax(x):
    shifted = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_softmax_backward(dy, y):
    return dy - np.exp(y) * dy.sum(axis=-1, keepdims=True)


# ---- losses --------------------------------------------------------------------------------


def reduce(loss, gradient, total, reduction):
    """Loss and gradient as reduction asks; the mean divides by total, and over nothing it is 0."""
    if reduction == "none":
        return loss, gradient
    if reduction == "sum":
        return loss.sum(), gradient
    if total == 0:
        return loss.sum() * 0, gradient * 0
    return loss.sum() / total, gradient / total


def along_first_axis(weight, x):
    """Weights of the examples, shaped to multiply x; 1 if None."""
    if weight is None:
        return np.ones((len(x),) + (1,) * (x.ndim - 1), x.dtype)
    return weight.reshape((len(x),) + (1,) * (x.ndim - 1))


def smoothed_targets(targets, shape, dtype, ignore_index, label_smoothing):
    """Target probabilities (n, c) and which rows contribute."""
    n, c = shape
    if targets.ndim == 2:
        counts, q = np.ones(n, bool), targets.astype(dtype)
    else:
        counts, q = targets != ignore_index, np.zeros(shape, dtype)
        q[np.flatnonzero(counts), targets[counts]] = 1
    return (1 - label_smoothing) * q + dtype.type(label_smoothing) / max(c, 1), counts


def softmax_cross_entropy(
    logits,
    targets,
    *,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
):
    c = logits.shape[1]
    weight = np.ones(c, logits.dtype) if weight is None else weight
    sample_weight = along_first_axis(sample_weight, logits)
    q, counts = smoothed_targets(targets, logits.shape, logits.dtype, ignore_index, label_smoothing)
    share = sample_weight * weight * q
    terms = np.where(share == 0, 0, -share * log_softmax(logits))
    gradient = softmax(logits) * share.sum(axis=1, keepdims=True) - share
    loss = np.where(counts, terms.sum(axis=1), 0)
    gradient = np.where(counts[:, None], gradient, 0)
    total = sample_weight.sum()
    if targets.ndim == 1:
        total = (sample_weight[counts, 0] * weight[targets[counts]]).sum()
    return reduce(loss, gradient, total, reduction)


def sigmoid_cross_entropy(
    logits, targets, *, pos_weight=None, sample_weight=None, reduction="mean"
):
    x, w = logits, along_first_axis(sample_weight, logits)
    positive = 1 if pos_weight is None else pos_weight
    softplus_minus = np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)  # -log sigmoid(x)
    loss = w * ((1 - targets) * (x + softplus_minus) + positive * targets * softplus_minus)
    gradient = w * ((1 - targets) * sigmoid(x) - positive * targets * sigmoid(-x))
    return reduce(loss, gradient, (w * np.ones_like(x)).sum(), reduction)


def mse(pred, target, *, sample_weight=None, reduction="mean"):
    w = along_first_axis(sample_weight, pred)
    difference = pred - target
    total = (w * np.ones_like(pred)).sum()
    return reduce(w * difference**2, 2 * w * difference, total, reduction)


def mae(pred, target, *, sample_weight=None, reduction="mean"):
    w = along_first_axis(sample_weight, pred)
    difference = pred - target
    total = (w * np.ones_like(pred)).sum()
    return reduce(w * np.abs(difference), w * np.sign(difference), total, reduction)


# ---- normalisation -------------------------------------------------------------------------


def per_channel(x):
    """The axes that batch norm reduces, and the shape that brings (c,) alongside x."""
    axes = tuple(i for i in range(x.ndim) if i != 1)
    return axes, (1, -1) + (1,) * (x.ndim - 2)


def batch_norm(
    x,
    gamma=None,
    beta=None,
    running_mean=None,
    running_var=None,
    *,
    training=True,
    momentum=0.1,
    eps=1e-5,
    unbiased_running_var=True,
    activation=None,
):
    axes, shape = per_channel(x)
    count = x.size // max(x.shape[1], 1)
    if training:
        mean, variance = x.mean(axis=axes), x.var(axis=axes)
        if running_mean is not None:
            running_mean += momentum * (mean - running_mean)
        if running_var is not None:
            correction = count / (count - 1) if unbiased_running_var else 1
            running_var += momentum * (variance * correction - running_var)
    else:
        mean, variance = running_mean.copy(), running_var
    rstd = 1 / np.sqrt(variance + eps)
    y = (x - mean.reshape(shape)) * rstd.reshape(shape)
    y = y if gamma is None else y * gamma.reshape(shape)
    y = y if beta is None else y + beta.reshape(shape)
    return (relu(y) if activation == "relu" else y), mean, rstd


def batch_norm_backward(dy, x, gamma, mean, rstd, *, training=True, activation=None, y=None):
    axes, shape = per_channel(x)
    if activation == "relu":
        dy = np.where(y > 0, dy, 0)
    xhat = (x - mean.reshape(shape)) * rstd.reshape(shape)
    dgamma, dbeta = (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
    dx = dy
    if training:
        count = max(x.size // max(x.shape[1], 1), 1)
        dx = dy - (dbeta.reshape(shape) + xhat * dgamma.reshape(shape)) / count
    scale = rstd if gamma is None else rstd * gamma
    return dx * scale.reshape(shape), dgamma, dbeta


def layer_norm(x, gamma=None, beta=None, *, eps=1e-5):
    mean = x.mean(axis=-1)
    rstd = 1 / np.sqrt(x.var(axis=-1) + eps)
    y = (x - mean[..., None]) * rstd[..., None]
    y = y if gamma is None else y * gamma
    return (y if beta is None else y + beta), mean, rstd


def layer_norm_backward(dy, x, gamma, mean, rstd):
    xhat = (x - mean[..., None]) * rstd[..., None]
    rows = tuple(range(x.ndim - 1))
    dgamma, dbeta = (dy * xhat).sum(axis=rows), dy.sum(axis=rows)
    d = dy if gamma is None else dy * gamma
    d = d - d.mean(axis=-1, keepdims=True) - xhat * (d * xhat).mean(axis=-1, keepdims=True)
    return d * rstd[..., None], dgamma, dbeta


# ---- dropout -------------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011): four words per counter, all held in uint64 arrays."""
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            product1 >> np.uint64(32) ^ c1 ^ np.uint64(k0),
            product1 & low,
            product0 >> np.uint64(32) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def random_words(n, seed, offset):
    """One 32-bit word per element: key = seed, counter = (element / 4, offset)."""
    group = np.arange((n + 3) // 4, dtype=np.uint64)
    split = [word * np.ones_like(group) for word in map(np.uint64, (offset % 2**32, offset >> 32))]
    counter = (group & np.uint64(0xFFFFFFFF), group >> np.uint64(32), *split)
    return np.stack(philox(counter, (seed % 2**32, seed >> 32)), axis=1).ravel()[:n]


def dropout(x, p, *, seed, offset=0):
    mask = random_words(x.size, seed, offset).reshape(x.shape) >= np.uint64(round(p * 2**32))
    return dropout_backward(x, mask, p), mask


def dropout_backward(dy, mask, p):
    return np.where(mask, dy / (1 - dy.dtype.type(p)), 0)


# ---- optimizers ----------------------------------------------------------------------------


def descent(param, grad, weight_decay, maximize):
    """The gradient to descend along, an L2 penalty included."""
    return (-grad if maximize else grad) + weight_decay * param


def sgd_step(
    param,
    grad,
    velocity=None,
    *,
    lr,
    momentum=0.0,
    dampening=0.0,
    nesterov=False,
    weight_decay=0.0,
    maximize=False,
):
    g = descent(param, grad, weight_decay, maximize)
    if momentum != 0:
        velocity[...] = momentum * velocity + (1 - dampening) * g
        g = g + momentum * velocity if nesterov else velocity
    param -= lr * g


def adagrad_step(param, grad, sum_sq, *, lr, eps=1e-10, weight_decay=0.0, maximize=False):
    g = descent(param, grad, weight_decay, maximize)
    sum_sq += g * g
    param -= lr * g / (np.sqrt(sum_sq) + eps)


def rmsprop_step(
    param,
    grad,
    square_avg,
    *,
    lr,
    alpha=0.99,
    eps=1e-8,
    momentum=0.0,
    velocity=None,
    centered=False,
    grad_avg=None,
    weight_decay=0.0,
    eps_in_sqrt=False,
    maximize=False,
):
    g = descent(param, grad, weight_decay, maximize)
    square_avg[...] = alpha * square_avg + (1 - alpha) * g * g
    variance = square_avg
    if centered:
        grad_avg[...] = alpha * grad_avg + (1 - alpha) * g
        variance = square_avg - grad_avg**2
    g = g / (np.sqrt(variance + eps) if eps_in_sqrt else np.sqrt(variance) + eps)
    if momentum != 0:
        velocity[...] = momentum * velocity + g
        g = velocity
    param -= lr * g


def moments(param, grad, exp_avg, exp_avg_sq, lr, beta1, beta2, weight_decay, decoupled, maximize):
    """Adam's weight decay and its two running moments."""
    g = descent(param, grad, 0 if decoupled else weight_decay, maximize)
    if decoupled:
        param *= 1 - lr * weight_decay
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * g * g


def adam_step(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    *,
    step,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    decoupled=False,
    amsgrad=False,
    max_exp_avg_sq=None,
    eps_mode="torch",
    maximize=False,
):
    moments(param, grad, exp_avg, exp_avg_sq, lr, beta1, beta2, weight_decay, decoupled, maximize)
    v = exp_avg_sq
    if amsgrad:
        max_exp_avg_sq[...] = np.maximum(max_exp_avg_sq, exp_avg_sq)
        v = max_exp_avg_sq
    correction = np.sqrt(1 - param.dtype.type(beta2) ** step)
    rate = lr / (1 - param.dtype.type(beta1) ** step)
    if eps_mode == "hat":
        param -= rate * correction * exp_avg / (np.sqrt(v) + eps)
    else:
        param -= rate * exp_avg / (np.sqrt(v) / correction + eps)


def radam_step(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    *,
    step,
    lr,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    decoupled=False,
    maximize=False,
):
    moments(param, grad, exp_avg, exp_avg_sq, lr, beta1, beta2, weight_decay, decoupled, maximize)
    power = param.dtype.type(beta2) ** step
    longest = 2 / (1 - param.dtype.type(beta2)) - 1
    length = longest - 2 * step * power / (1 - power)
    update = exp_avg / (1 - param.dtype.type(beta1) ** step)
    if length > 5:
        rectified = (length - 4) * (length - 2) * longest
        rectified /= (longest - 4) * (longest - 2) * length
        update = update * np.sqrt(rectified * (1 - power)) / (np.sqrt(exp_avg_sq) + eps)
    param -= lr * update


# ---- what a training step needs besides ----------------------------------------------------


def rescale(x, *, scale=1.0, offset=0.0):
    return x.astype(np.longdouble) * scale + offset


def take_rows(x, index):
    return x[index]


def count_correct(logits, targets):
    labels = targets.argmax(axis=1) if targets.ndim == 2 else targets
    return np.int64((logits.argmax(axis=1) == labels).sum())


def count_correct_binary(logits, targets):
    return np.int64(((logits > 0) == (targets > 0.5)).sum())


def l2_norm(x):
    return np.sqrt((x * x).sum())


def clip_grad_norm(grad, max_norm):
    norm = l2_norm(grad)
    grad *= min(1, max_norm / (norm + 1e-6))
    return norm


def first_nonfinite(x):
    bad = np.flatnonzero(~np.isfinite(x))
    return np.int64(bad[0] if bad.size else -1)


# ---- what the machine can do ---------------------------------------------------------------


def probe_fma(x, rounds):
    for _ in range(rounds):
        x = x / 2 + 0.5
    return x


def probe_read(x):
    return x.sum(axis=1)

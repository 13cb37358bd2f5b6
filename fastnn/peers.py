"""The same training step in other libraries, to be timed beside fastnn's own.

Each function takes the initial weights and one batch and returns a call that makes one update on
it (softmax cross-entropy, Adam) and returns the loss from before the update, which a GPU may still
be at work on: PyTorch with its fused
Adam, JAX compiled with donated buffers, scikit-learn's ``partial_fit``, each as its users would
write it for speed. A library is imported when its step is first made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PEERS", "Peer", "Setup", "Step"]

Step = Callable[[], float]
Array = NDArray[Any]

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # Adam's, the same in every library
_BN_MOMENTUM, _BN_EPS = 0.1, 1e-5


class Setup(NamedTuple):
    """What a step starts from; ``weights`` holds each Linear's (weight, bias).

    ``device`` is 'cpu' or 'cuda'; ``compiler`` are arguments of torch.compile.
    """

    weights: Sequence[tuple[Array, Array]]
    batch_norm: bool
    x: Array
    y: Array
    lr: float
    threads: int
    device: str = "cpu"
    compiler: Mapping[str, Any] = {}


class Peer(NamedTuple):
    """A library to compare with: its package, whether it has batch norm, what makes its update."""

    package: str
    batch_norm: bool
    update: Callable[[Setup], Callable[[], Any]]

    def step(self, setup: Setup) -> Step:
        """Return a call that makes an update and waits for its loss."""
        update = self.update(setup)
        return lambda: float(update())

    def version(self) -> str:
        """Return the installed version."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            raise ImportError(
                f"peers: {self.package} is not installed; use pip install {self.package}"
            ) from None


def _torch(setup: Setup, compiled: bool = False) -> Callable[[], Any]:
    torch: Any = import_module("torch")
    torch.set_num_threads(setup.threads)
    model = torch.nn.Sequential()
    for weight, bias in setup.weights:
        if len(model):
            width = weight.shape[0]
            model.extend([torch.nn.BatchNorm1d(width)] if setup.batch_norm else [])
            model.append(torch.nn.ReLU())
        linear = torch.nn.Linear(*weight.shape)
        linear.load_state_dict(
            {"weight": torch.tensor(weight.T.copy()), "bias": torch.tensor(bias)}
        )
        model.append(linear)
    model.to(setup.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=setup.lr, fused=True)
    x, y = (torch.tensor(array, device=setup.device) for array in (setup.x, setup.y))

    def forward(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(x), y)

    if compiled:
        torch.compiler.reset()  # else the shapes of earlier steps count against a limit
        forward = torch.compile(forward, dynamic=False, **setup.compiler)

    def update() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return update


def _jax(setup: Setup) -> Callable[[], Any]:
    os.environ["NPROC"] = str(setup.threads)  # the size of its thread pool, read at import
    if setup.device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax: Any = import_module("jax")
    jnp: Any = jax.numpy

    def batch_norm(x: Any, norm: Any, running: Any) -> tuple[Any, Any]:
        mean, var = x.mean(0), x.var(0)
        unbiased = var * (len(x) / (len(x) - 1))
        new = [
            (1 - _BN_MOMENTUM) * old + _BN_MOMENTUM * now
            for old, now in zip(running, (mean, unbiased), strict=True)
        ]
        return (x - mean) * jax.lax.rsqrt(var + _BN_EPS) * norm[0] + norm[1], new

    def loss_of(params: Any, running: Any, x: Any, y: Any) -> tuple[Any, Any]:
        last = len(params["linear"]) - 1
        updated = []
        for i, (weight, bias) in enumerate(params["linear"]):
            x = x @ weight + bias
            if i < last and setup.batch_norm:
                x, new = batch_norm(x, params["norm"][i], running[i])
                updated.append(new)
            if i < last:
                x = jax.nn.relu(x)
        rows = jnp.arange(len(y))
        return -jax.nn.log_softmax(x)[rows, y].mean(), updated

    @partial(jax.jit, donate_argnums=0)
    def update(state: Any, x: Any, y: Any) -> Any:
        params, m, v, t, running = state
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, running), grads = gradient(params, running, x, y)
        t += 1
        m = jax.tree.map(lambda m, g: _BETA1 * m + (1 - _BETA1) * g, m, grads)
        v = jax.tree.map(lambda v, g: _BETA2 * v + (1 - _BETA2) * g * g, v, grads)
        rate, root = setup.lr / (1 - _BETA1**t), jnp.sqrt(1 - _BETA2**t)
        params = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + _EPS), params, m, v
        )
        return loss, (params, m, v, t, running)

    linear = [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in setup.weights]
    widths = [len(bias) for _, bias in linear[:-1]] if setup.batch_norm else []
    norm = [(jnp.ones(width), jnp.zeros(width)) for width in widths]
    params = {"linear": linear, "norm": norm}
    m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    running = [[jnp.zeros(width), jnp.ones(width)] for width in widths]
    state = (params, m, v, jnp.zeros(()), running)
    x, y = jnp.asarray(setup.x), jnp.asarray(setup.y)

    def waited() -> Any:
        nonlocal state
        loss, state = jax.block_until_ready(update(state, x, y))
        return loss

    return waited


def _sklearn(setup: Setup) -> Step:
    network: Any = import_module("sklearn.neural_network")
    import_module("threadpoolctl").threadpool_limits(setup.threads)
    classifier = network.MLPClassifier(
        hidden_layer_sizes=[len(bias) for _, bias in setup.weights[:-1]],
        batch_size=len(setup.x),
        learning_rate_init=setup.lr,
        alpha=0.0,
        shuffle=False,
    )
    classes = np.arange(len(setup.weights[-1][1]))
    # Its weights exist only after a first update: make one, then put those given in their place.
    classifier.partial_fit(setup.x, setup.y, classes=classes)
    classifier.coefs_ = [weight.copy() for weight, _ in setup.weights]
    classifier.intercepts_ = [bias.copy() for _, bias in setup.weights]

    def step() -> float:
        classifier.partial_fit(setup.x, setup.y)
        return float(classifier.loss_)

    return step


PEERS = {
    "torch": Peer("torch", True, _torch),
    "torch-compile": Peer("torch", True, partial(_torch, compiled=True)),
    "jax": Peer("jax", True, _jax),
    "sklearn": Peer("scikit-learn", False, _sklearn),
}

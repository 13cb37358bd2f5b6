"""Training steps that users of small networks take, and whole epochs, prediction and evaluation."""

import numpy as np
import pytest
from calls import installed

import fastnn as fnn
from fastnn import curve

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)

SMALL = (20, 64, 64, 3)


def samples(n, features, classes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.random((n, features)).astype(dtype), rng.integers(0, classes, n)


@pytest.mark.parametrize("batch", [2, 32, 256, 4096])
@pytest.mark.parametrize("library", installed("torch", "jax"))
def test_small_network_with_batch_norm(timed, library, batch):
    peers = [library] if library != "fastnn" else []
    _, steps = curve.make_steps(SMALL, True, *samples(batch, SMALL[0], SMALL[-1]), peers)
    timed(steps[library], f"update, 20-64-64-3, batch norm, batch {batch}", library)


def test_loss_and_grad_float64(timed):
    """24-8(tanh, dropout 0.2)-2 on 200 samples, as in the SimpleChains.jl paper's first figure."""
    model = fnn.Sequential(fnn.Linear(24, 8), fnn.Tanh(), fnn.Dropout(0.2), fnn.Linear(8, 2))
    trainer = fnn.Trainer(
        model, loss=fnn.CrossEntropy(), optimizer=fnn.Adam(lr=1e-3), precision="float64"
    )
    x, y = samples(200, 24, 2, np.float64)
    timed(lambda: trainer.loss_and_grad(x, y), "loss and gradient, 24-8-2, float64", "fastnn")


@pytest.mark.parametrize("batch", [200, 10_000])
def test_steps_of_a_tiny_network(timed, batch):
    """4-32-16-4, tanh, squared loss, Adam: ten updates in one native call."""
    model = fnn.Sequential(
        fnn.Linear(4, 32), fnn.Tanh(), fnn.Linear(32, 16), fnn.Tanh(), fnn.Linear(16, 4)
    )
    trainer = fnn.Trainer(model, loss=fnn.MSE(), optimizer=fnn.Adam(lr=1e-3))
    x = samples(batch, 4, 1)[0]
    call = lambda: trainer.steps(x, x**2, batch_size=batch, n=10)  # noqa: E731
    timed(call, f"ten updates, 4-32-16-4, batch {batch}", "fastnn")

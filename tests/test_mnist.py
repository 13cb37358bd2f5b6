"""Training on real MNIST, next to PyTorch. Needs FASTNN_DATA."""

import os

import numpy as np
import pytest

import fastnn as fnn
from fastnn.datasets import mnist

pytestmark = pytest.mark.skipif(
    not os.environ.get("FASTNN_DATA"), reason="FASTNN_DATA names no folder with MNIST"
)

BATCH = 128


@pytest.fixture(scope="module")
def data():
    return mnist()


def network(first):
    def hidden(n):
        return fnn.Linear(n, 512), fnn.BatchNorm(512), fnn.ReLU()

    return fnn.Sequential(*first, *hidden(784), *hidden(512), fnn.Linear(512, 10))


def trainer(seed, first=()):
    return fnn.Trainer(
        network(first), loss=fnn.CrossEntropy(), optimizer=fnn.Adam(lr=1e-3), seed=seed
    )


def test_five_epochs_reach_the_accuracy_of_pytorch(data):
    ours = trainer(0, first=[fnn.Rescaling(1 / 255)])
    ours.fit(data.x_train, data.y_train, epochs=5, batch_size=BATCH)
    result = ours.evaluate(data.x_test, data.y_test)
    assert result["accuracy"] >= 0.965


# ---- the same weights, the same batches ---------------------------------------------------------
# A rectifier whose input lies within rounding of zero is on in one library and off in the other;
# Adam makes a full step of the difference. PyTorch with a batch's rows in another order differs
# from itself by as much, so how far two runs are apart depends on the seed.


def batches(data, seed, updates):
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    for i in range(updates):
        rows = order[i * BATCH : (i + 1) * BATCH]
        yield data.x_train[rows] / np.float32(255), data.y_train[rows]


def torch_losses(torch, model, steps):
    modules = []
    for layer in model.layers:
        if isinstance(layer, fnn.Linear):
            module = torch.nn.Linear(layer.in_features, layer.out_features)
            module.weight.data = torch.tensor(layer.weight.T.copy())
            module.bias.data = torch.tensor(layer.bias)
        elif isinstance(layer, fnn.BatchNorm):
            module = torch.nn.BatchNorm1d(layer.num_features)
        else:
            module = torch.nn.ReLU()
        modules.append(module)
    twin = torch.nn.Sequential(*modules)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    losses = []
    for x, y in steps:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def losses_of(data, seed, updates):
    """Ours, PyTorch's, and PyTorch's with the rows of each batch reversed."""
    torch = pytest.importorskip("torch")
    ours = trainer(seed)
    theirs = torch_losses(torch, ours.model, batches(data, seed, updates))
    turned = ((x[::-1].copy(), y[::-1].copy()) for x, y in batches(data, seed, updates))
    reversed_ = torch_losses(torch, ours.model, turned)
    return np.array([ours.step(x, y) for x, y in batches(data, seed, updates)]), theirs, reversed_


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_updates_agree_with_pytorch(data, seed):
    ours, theirs, _ = losses_of(data, seed, 10)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_hundred_updates_stay_as_close_as_pytorch_to_itself(data):
    ours, theirs, reversed_ = losses_of(data, 2, 100)  # no rectifier at its kink so far
    own = np.max(np.abs(reversed_ - theirs) / theirs)
    assert np.max(np.abs(ours - theirs) / theirs) <= max(own, 1e-5)

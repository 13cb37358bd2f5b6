"""Small networks, data and Trainers for several test files, and a hash of all that one holds."""

import hashlib

import numpy as np

import fastnn as fnn

FEATURES, CLASSES = 20, 5


def data(n=203, dtype="float32", seed=0):
    """Samples, and classes that a network can learn from them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, FEATURES))
    y = (x @ rng.standard_normal((FEATURES, CLASSES))).argmax(1)
    return x.astype(dtype), y


def network(*, batch_norm=True, dropout=0.0, hidden=32, kind=fnn.Sequential):
    layers = [fnn.Linear(FEATURES, hidden)]
    layers += [fnn.BatchNorm(hidden)] * batch_norm + [fnn.ReLU()]
    layers += [fnn.Dropout(dropout)] * bool(dropout)
    return kind(*layers, fnn.Linear(hidden, hidden), fnn.Tanh(), fnn.Linear(hidden, CLASSES))


class Plain(fnn.Sequential):
    """A chain that no plan may record: it defines its own forward pass."""

    def forward(self, x, training=False):
        return super().forward(x, training)


def trainer(model=None, **options):
    defaults = {"loss": fnn.CrossEntropy(), "optimizer": fnn.Adam(lr=1e-2), "seed": 3}
    return fnn.Trainer(network() if model is None else model, **defaults | options)


def arrays(trainer):
    """Everything that training changes, by name."""
    state = {f"state.{name}": array for name, array in trainer._state.items()}
    return dict(trainer.model.state_dict()) | state


def fingerprint(trainer):
    """A hash of the bits of weights, running statistics and optimizer state, and of the clock."""
    digest = hashlib.sha256(f"{trainer.updates} {trainer.epochs}".encode())
    for name, array in arrays(trainer).items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()

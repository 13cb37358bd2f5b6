"""What the processes of tests/test_distributed.py run: ``several.py FOLDER JOB ...``.

Each job leaves rank R's arrays in FOLDER/JOB-R.npz.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from trainers import Plain, arrays, data, fingerprint, network

import fastnn as fnn
from fastnn.schedules import Cosine

X, Y = data(n=203)  # 11 batches of 18 and 5 rows, fewer than two for each of 3 ranks
WEIGHT = np.random.default_rng(1).uniform(0, 2, len(X)).astype(np.float32)
CLASS_WEIGHT = np.linspace(0.5, 2, 5, dtype=np.float32)


def trainer(ranks, model=None, **options):
    defaults = {"loss": fnn.CrossEntropy(), "optimizer": fnn.Adam(lr=1e-2), "seed": 3}
    model = network(batch_norm=False) if model is None else model
    return fnn.Trainer(model, distributed=ranks, **defaults | options)


def outcome(made, history):
    """All that a training has led to."""
    found = {f"array.{name}": array for name, array in arrays(made).items()}
    found |= {f"epochs.{n}": history.epochs[n] for n in ("loss", "accuracy", "val_loss")}
    found |= {f"updates.{n}": history.updates[n] for n in ("loss", "grad_norm")}
    return found | {"pred": made.predict(X.astype(made.dtype)), "hash": fingerprint(made)}


def fitted(ranks, model=None, weight=None, epochs=3, batch_size=16, **options):
    made = trainer(ranks, model, **options)
    x, weight = (None if a is None else a.astype(made.dtype) for a in (X, weight))
    history = made.fit(
        *(x, Y),
        epochs=epochs,
        batch_size=batch_size,
        sample_weight=weight,
        validation_data=(x, Y),
        early_stopping=2,
        progress=False,
    )
    return outcome(made, history)


def plain(ranks):
    return fitted(ranks)


def double(ranks):
    return fitted(ranks, precision="float64")


def weighted(ranks):
    return fitted(ranks, weight=WEIGHT, loss=fnn.CrossEntropy(weight=CLASS_WEIGHT))


def summed(ranks):
    return fitted(ranks, loss=fnn.CrossEntropy(reduction="sum"), clip_grad_norm=1.0)


def squared(ranks):
    made = trainer(ranks, loss=fnn.MSE(), check_finite=True, schedule=Cosine(20))
    y = np.eye(5, dtype=np.float32)[Y]
    history = made.fit(X, y, epochs=2, sample_weight=WEIGHT, batch_size=30, progress=False)
    return {"losses": history.updates["loss"], **arrays(made)}


def some_ignored(ranks):
    y = np.where(np.arange(len(Y)) % 16 < 9, -100, Y)  # all of rank 0's, in some batches
    made = trainer(ranks)
    history = made.fit(X, y, epochs=2, batch_size=16, shuffle=False, progress=False)
    return {"losses": history.updates["loss"], **arrays(made)}


def of_ones_own(ranks):
    return fitted(ranks, network(batch_norm=False, kind=Plain))


def batch_norm(ranks):
    return fitted(ranks, network(), precision="float64", batch_size=18)


def own_batch_norm(ranks):
    ranks = fnn.MPI(sync_batch_norm=False) if ranks else None
    return fitted(ranks, network(), batch_size=18)


def dropout(ranks):
    return fitted(ranks, network(batch_norm=False, dropout=0.5))


def gradients(ranks):
    made = trainer(ranks, network(), precision="float64")
    loss, found = made.loss_and_grad(X.astype(np.float64), Y)
    return {"loss": loss, **found, "hash": fingerprint(made)}


def alone_again(ranks):
    """Rank 1 goes on by itself with a model that was trained by all."""
    made = trainer(ranks, network(dropout=0.1))
    made.step(X, Y)
    if ranks.rank == 1:
        return {"loss": trainer(None, made.model).step(X, Y)}
    return {}


def single_steps(ranks):
    made = trainer(ranks)
    losses = [made.step(X[:37], Y[:37], WEIGHT[:37]), *made.steps(X, Y, batch_size=50, n=6)]
    return {"losses": losses, **arrays(made)}


def not_finite(ranks):
    """The gradient of one rank is not finite; no rank changes anything."""
    made = trainer(ranks, network(), check_finite=True)
    x = X[:20].copy()
    x[19] = np.nan
    before = fingerprint(made)
    try:
        made.step(x, Y[:20])
    except FloatingPointError as error:
        return {"message": str(error), "same": fingerprint(made) == before}


def too_small(ranks):
    try:
        trainer(ranks).step(X[:1], Y[:1])
    except ValueError as error:
        return {"message": str(error)}


def unsaved(ranks):
    """Rank 0 alone writes; all learn that it can't."""
    try:
        trainer(ranks).save(FOLDER / "no folder" / "m.safetensors")
    except OSError as error:
        return {"message": str(error)}


def stops(ranks):
    """One rank's callback ends the training of all."""
    history = trainer(ranks).fit(
        X, Y, epochs=5, callbacks=[lambda _: ranks.rank == 1], progress=False
    )
    return {"epochs": len(history.epochs["loss"])}


def interrupted(ranks, end=None):
    """Saved after every epoch; `end` is called after the second, on rank 1."""
    file = FOLDER / "interrupted.safetensors"

    def after(history):
        made.save(file)
        if end and ranks.rank == 1 and len(history.epochs["loss"]) == 2:
            end()

    made = trainer(ranks, network(dropout=0.2))
    history = made.fit(X, Y, epochs=4, batch_size=16, callbacks=[after], progress=False)
    return outcome(made, history)


def killed(ranks):
    return interrupted(ranks, lambda: os.kill(os.getpid(), signal.SIGKILL))


def raises(ranks):
    return interrupted(ranks, lambda: 1 / 0)


def resumed(ranks):
    made = fnn.Trainer.load(FOLDER / "interrupted.safetensors", distributed=ranks)
    history = made.fit(X, Y, epochs=4 - made.epochs, batch_size=16, progress=False)
    return outcome(made, history)


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    RANKS = fnn.MPI()
    for name in sys.argv[2:]:
        np.savez(FOLDER / f"{name}-{RANKS.rank}.npz", **globals()[name](RANKS))

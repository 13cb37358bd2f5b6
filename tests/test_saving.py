"""What a checkpoint of a Trainer holds: a resumed run has the bits of an unbroken one."""

import signal

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support import threads
from trainers import CLASSES, FEATURES, Plain, arrays, data, fingerprint, network, trainer

import fastnn as fnn
from fastnn import checkpoint
from fastnn.schedules import Cosine, Warmup

OPTIMIZERS = [
    fnn.SGD(lr=0.1),
    fnn.SGD(lr=0.1, momentum=0.9),
    fnn.Adagrad(),
    fnn.RMSProp(momentum=0.5, centered=True),
    fnn.Adam(amsgrad=True),
    fnn.AdamW(),
    fnn.RAdam(),
]
X, Y = data(203)


def eventful(**options):
    """Everything that a run depends on at once."""
    defaults = {"schedule": Warmup(5, Cosine(60)), "clip_grad_norm": 1.0}
    return trainer(network(dropout=0.2), **defaults | options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.safetensors"


def reloaded(ours, path, **options):
    ours.save(path)
    return fnn.Trainer.load(path, **options)


# ---- what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_every_bit_comes_back(path, optimizer, precision):
    ours = eventful(optimizer=optimizer, precision=precision, check_finite=True)
    x = X.astype(ours.dtype)
    ours.fit(x, Y, batch_size=32)
    other = reloaded(ours, path)
    assert fingerprint(other) == fingerprint(ours)
    assert other.optimizer == ours.optimizer
    assert other.schedule == ours.schedule
    assert (other.precision, other.seed) == (precision, 3)
    assert (other.clip_grad_norm, other.check_finite) == (1.0, True)
    assert_array_equal(other.predict(x), ours.predict(x))
    assert other.evaluate(x, Y) == ours.evaluate(x, Y)
    for one in (ours, other):
        one.fit(x, Y, epochs=2, batch_size=32)
        one.step(x[:9], Y[:9])
    assert fingerprint(other) == fingerprint(ours)


def test_a_trainer_that_has_not_trained_yet(path):
    ours = eventful()
    other = reloaded(ours, path)
    assert fingerprint(other) == fingerprint(ours)
    assert ours.step(X, Y) == other.step(X, Y)


def test_losses_with_arrays_come_back(path):
    weight = np.linspace(0.5, 2, CLASSES, dtype=np.float32)
    ours = trainer(loss=fnn.CrossEntropy(weight, 0.1, ignore_index=3))
    other = reloaded(ours, path)
    assert_array_equal(other.loss.weight, weight)
    assert ours.step(X, Y) == other.step(X, Y)


def test_equal_trainers_are_equal_files(tmp_path):
    for name in "ab":
        ours = eventful()
        ours.fit(X, Y)
        ours.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_saving_changes_nothing(path):
    ours = eventful()
    ours.fit(X, Y)
    before = fingerprint(ours)
    ours.save(path)
    assert fingerprint(ours) == before


def test_saving_onto_the_file_just_loaded(path):
    ours = eventful()
    ours.fit(X, Y)
    other = reloaded(ours, path)
    other.save(path)
    assert fingerprint(fnn.Trainer.load(path)) == fingerprint(ours)


# ---- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_resumed_between_epochs(path, n):
    unbroken = eventful()
    unbroken.fit(X, Y, epochs=4, batch_size=32)
    ours = eventful()
    for _ in range(4):
        ours.fit(X, Y, batch_size=32)
        with threads(n):
            ours = reloaded(ours, path)
    assert ours.epochs == 4
    assert fingerprint(ours) == fingerprint(unbroken)


def test_resumed_at_every_step(path):
    """Twenty updates, another process's worth of state between any two of them."""
    unbroken, ours = eventful(), eventful()
    unbroken.steps(X, Y, batch_size=10, n=20)
    for first in range(0, 200, 10):
        with threads(1 + first // 10 % 3):
            ours.step(X[first : first + 10], Y[first : first + 10])
            ours = reloaded(ours, path)
    assert fingerprint(ours) == fingerprint(unbroken)


class Interrupting(Plain):
    """Interrupts the forward pass of one training step."""

    at = -1

    def forward(self, x, training=False):
        y, backprop = super().forward(x, training)
        if training:
            self.at -= 1
        if training and self.at == 0:
            raise KeyboardInterrupt
        return y, backprop


@pytest.mark.parametrize("step", range(1, 22))
def test_resumed_inside_an_epoch_after_any_step(path, step):
    """Three epochs of seven steps, interrupted in one of them; the rest is recorded natively."""
    unbroken = eventful()
    unbroken.fit(X, Y, epochs=3, batch_size=32)
    model = Interrupting(*network(dropout=0.2).layers)
    model.at = step
    broken = trainer(model, schedule=Warmup(5, Cosine(60)), clip_grad_norm=1.0)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(X, Y, epochs=3, batch_size=32)
    assert broken.updates == step - 1
    assert broken.epochs == (step - 1) // 7
    with threads(2):
        ours = reloaded(broken, path, model=network(dropout=0.2))
        assert (ours.updates, ours.epochs) == (broken.updates, broken.epochs)
        history = ours.fit(X, Y, epochs=3 - ours.epochs, batch_size=32)
    assert len(history.updates["loss"]) == 22 - step
    assert fingerprint(ours) == fingerprint(unbroken)
    model.at = -1
    broken.fit(X, Y, epochs=3 - broken.epochs, batch_size=32)  # and so does going on in place
    assert fingerprint(broken) == fingerprint(unbroken)


def interrupted_fit(ours, x, y, seconds, epochs):
    """fit, with a KeyboardInterrupt after a while; whether it came in time."""
    armed = [True]

    def handler(number, frame):
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        ours.fit(x, y, epochs=epochs, batch_size=64)
        armed.clear()
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return False


@pytest.mark.parametrize("kind", [fnn.Sequential, Plain])
@pytest.mark.parametrize("n", [1, 2])
def test_resumed_after_signals_at_any_time(path, n, kind):
    def fresh():
        return trainer(network(hidden=192, dropout=0.1, kind=kind))

    x, y = data(4000)
    unbroken, ours = fresh(), fresh()
    unbroken.fit(x, y, epochs=6, batch_size=64)
    interruptions = 0
    for seconds in [0.001, *np.random.default_rng(n).uniform(0.002, 0.08, 200)]:
        with threads(n):
            interruptions += interrupted_fit(ours, x, y, seconds, 6 - ours.epochs)
        if ours.epochs == 6:
            break
        if interruptions % 2:
            model = None if kind is fnn.Sequential else network(hidden=192, dropout=0.1, kind=kind)
            ours = reloaded(ours, path, model=model)
    if ours.epochs < 6:  # on a machine too busy to get on between the signals
        ours.fit(x, y, epochs=6 - ours.epochs, batch_size=64)
    assert interruptions
    assert fingerprint(ours) == fingerprint(unbroken)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 50},
        {"batch_size": 203},
        {"shuffle": False, "batch_size": 7},
    ],
)
def test_the_rest_of_an_epoch_may_be_cut_differently(change):
    model = Interrupting(*network().layers)
    model.at = 4
    ours = trainer(model)
    with pytest.raises(KeyboardInterrupt):
        ours.fit(X, Y, batch_size=32)
    history = ours.fit(X, Y, **change)
    assert ours.epochs == 1
    rest, size = 203 - 96, change["batch_size"]
    expected = -(-rest // size) - (rest % size == 1)
    assert len(history.updates["loss"]) == expected


def test_other_data_begin_another_epoch():
    model = Interrupting(*network().layers)
    model.at = 4
    ours = trainer(model)
    with pytest.raises(KeyboardInterrupt):
        ours.fit(X, Y, batch_size=32)
    history = ours.fit(X[:64], Y[:64], batch_size=32)
    assert len(history.updates["loss"]) == 2


def test_single_steps_after_an_interruption_leave_the_place_in_the_epoch():
    model = Interrupting(*network().layers)
    model.at = 4
    ours = trainer(model)
    with pytest.raises(KeyboardInterrupt):
        ours.fit(X, Y, batch_size=32)
    ours.steps(X, Y, batch_size=20, n=9)
    history = ours.fit(X, Y, batch_size=32)
    assert len(history.updates["loss"]) == 4


# ---- classes of one's own --------------------------------------------------------------------


def test_a_layer_of_ones_own_must_be_given(path):
    ours = trainer(network(kind=Plain))
    ours.fit(X, Y)
    ours.save(path)
    with pytest.raises(fnn.CheckpointError, match=r"model is of a class of one's own.*model="):
        fnn.Trainer.load(path)
    other = fnn.Trainer.load(path, network(kind=Plain))
    assert fingerprint(other) == fingerprint(ours)


def test_a_schedule_of_ones_own_must_be_given(path):
    ours = trainer()
    ours.schedule = lambda t: 1 / (1 + t)
    ours.save(path)
    with pytest.raises(fnn.CheckpointError, match=r"schedule is of a class of one's own"):
        fnn.Trainer.load(path)
    other = fnn.Trainer.load(path, schedule=ours.schedule)
    assert fingerprint(other) == fingerprint(ours)


def test_a_loss_of_ones_own_must_be_given(path):
    class Own(fnn.MSE):
        pass

    ours = trainer(loss=Own())
    ours.save(path)
    with pytest.raises(fnn.CheckpointError, match=r"loss is of a class of one's own"):
        fnn.Trainer.load(path)
    assert isinstance(fnn.Trainer.load(path, loss=Own()).loss, Own)


# ---- wrong files -----------------------------------------------------------------------------


def linear(out=CLASSES, bias=True):
    return fnn.Sequential(fnn.Linear(FEATURES, 8), fnn.ReLU(), fnn.Linear(8, out, bias=bias))


@pytest.mark.parametrize(
    ("saved", "given", "match"),
    [
        (linear(), linear(7), r"'layers\.2\.weight' is float32 \(8, 5\) in the file"),
        (linear(), linear(bias=False), r"has an unknown array 'layers\.2\.bias'"),
        (linear(bias=False), linear(), r"lacks array 'layers\.2\.bias'"),
    ],
    ids=["shape", "unknown", "missing"],
)
def test_a_wrong_model_names_the_first_difference(path, saved, given, match):
    trainer(saved).save(path)
    trainer(given, seed=9)  # has values that must stay
    before = {name: array.copy() for name, array in given.state_dict().items()}
    with pytest.raises(fnn.CheckpointError, match=match):
        fnn.Trainer.load(path, given)
    for name, array in given.state_dict().items():
        assert_array_equal(array, before[name])


def test_a_wrong_optimizer_or_precision_is_refused(path):
    trainer(linear(), optimizer=fnn.SGD(0.1)).save(path)
    with pytest.raises(fnn.CheckpointError, match=r"lacks array 'optimizer\.exp_avg"):
        fnn.Trainer.load(path, optimizer=fnn.Adam())
    held, notes = checkpoint.load(path)
    checkpoint.save(path, held, notes | {"precision": "float64"})
    with pytest.raises(fnn.CheckpointError, match=r"'layers\.0\.weight' is float32"):
        fnn.Trainer.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"updates": None},
        {"updates": -1},
        {"updates": 1.5},
        {"epoch": -1},
        {"row": "0"},
        {"row": 5, "end": 3},
        {"end": True},
        {"updates": 2**63},
        {"precision": "float16"},
        {"seed": "x"},
        {"seed": -1},
        {"model": {"class": "Linear"}},
        {"model": {"class": "os.system"}},
        {"loss": []},
        {"optimizer": {"class": "Adam", "lr": -1}},
        {"schedule": {"class": "Constant", "what": 1}},
    ],
    ids=str,
)
def test_metadata_that_make_no_sense_are_refused(path, change):
    trainer(linear()).save(path)
    held, notes = checkpoint.load(path)
    checkpoint.save(path, held, notes | change)
    with pytest.raises(fnn.CheckpointError, match=str(path)):
        fnn.Trainer.load(path)


@pytest.mark.parametrize("missing", ["updates", "row", "precision", "seed", "optimizer"])
def test_metadata_that_are_missing_are_refused(path, missing):
    trainer(linear()).save(path)
    held, notes = checkpoint.load(path)
    del notes[missing]
    checkpoint.save(path, held, notes)
    with pytest.raises(fnn.CheckpointError, match=str(path)):
        fnn.Trainer.load(path)


def test_files_of_others_are_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        fnn.Trainer.load(path)
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(fnn.CheckpointError, match="pickle refused"):
        fnn.Trainer.load(path)
    checkpoint.save(path, {"a": np.zeros(3)}, {})
    with pytest.raises(fnn.CheckpointError, match=str(path)):
        fnn.Trainer.load(path)
    ours = trainer(linear())
    with pytest.raises(OSError, match="missing"):
        ours.save(tmp_path / "missing" / "m")
    assert arrays(ours).keys() == arrays(trainer(linear())).keys()

"""What a Trainer does with a model, data and a loss, and what it refuses."""

import dataclasses
import gc
import io
import itertools
import resource
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support import available_isas, forced_isa, threads
from trainers import CLASSES, FEATURES, Plain, arrays, data, fingerprint, network, trainer

import fastnn as fnn
from fastnn import _core, ops

OPTIMIZERS = {
    "sgd": fnn.SGD(lr=0.1),
    "momentum": fnn.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adagrad": fnn.Adagrad(),
    "rmsprop": fnn.RMSProp(lr=1e-3, momentum=0.8, centered=True),
    "adam": fnn.Adam(lr=1e-2),
    "amsgrad": fnn.Adam(lr=1e-2, amsgrad=True, weight_decay=1e-3),
    "adamw": fnn.AdamW(lr=1e-2),
    "radam": fnn.RAdam(lr=1e-2),
}
TORCH = {
    "sgd": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "adagrad": ("Adagrad", {}),
    "rmsprop": ("RMSprop", {"lr": 1e-3, "momentum": 0.8, "centered": True}),
    "adam": ("Adam", {"lr": 1e-2}),
    "amsgrad": ("Adam", {"lr": 1e-2, "amsgrad": True, "weight_decay": 1e-3}),
    "adamw": ("AdamW", {"lr": 1e-2}),
    "radam": ("RAdam", {"lr": 1e-2}),
}


def schedule(t):
    return 1 / (1 + t)


# ---- steps -----------------------------------------------------------------------------------


def test_a_step_returns_the_loss_before_the_update():
    x, y = data(50)
    ours = trainer()
    before = ours.loss_and_grad(x, y)[0]
    assert ours.step(x, y) == before
    assert ours.updates == 1
    assert isinstance(ours.step(x, y), float)
    assert ours.updates == 2


def test_loss_and_grad_are_those_of_the_layers():
    x, y = data(50)
    ours, model = trainer(), network()
    model.build(None, "float32")
    model.load_state_dict(ours.model.state_dict())
    pred, backprop = model.forward(x, training=True)
    expected, dpred = fnn.CrossEntropy()(pred, y)
    backprop(dpred)
    loss, gradients = ours.loss_and_grad(x, y)
    assert loss == expected
    assert list(gradients) == [name for name, _ in ours.model.named_parameters()]
    for prefix, layer in model.named_layers():
        for name, gradient in layer.grads.items():
            assert_array_equal(gradients[prefix + name], gradient)


@pytest.mark.parametrize("kind", [fnn.Sequential, Plain])
def test_loss_and_grad_change_nothing(kind):
    x, y = data(50)
    ours = trainer(network(dropout=0.3, kind=kind), clip_grad_norm=1e-3)
    ours.step(x, y)
    before = fingerprint(ours)
    loss, gradients = ours.loss_and_grad(x, y)
    again, same = ours.loss_and_grad(x, y)
    assert loss == again
    assert all((gradients[name] == same[name]).all() for name in gradients)
    assert np.sqrt(sum((g**2).sum() for g in gradients.values())) > 1e-2  # not clipped
    assert fingerprint(ours) == before
    assert ours.step(x, y) == loss  # the same bits of dropout


def test_steps_are_single_steps_over_the_batches_in_turn():
    x, y = data(50)
    native, single = trainer(), trainer()
    losses = native.steps(x, y, batch_size=16, n=7)
    expected = [single.step(x[i : i + 16], y[i : i + 16]) for i in (0, 16, 32, 0, 16, 32, 0)]
    assert losses.dtype == np.float32
    assert losses.tolist() == expected
    assert fingerprint(native) == fingerprint(single)


WEIGHT = np.linspace(0.5, 2, 40, dtype=np.float32)
VARIANTS = {
    "copies": lambda x, y: (x.copy(), y.copy()),
    "int32": lambda x, y: (x, y.astype(np.int32)),
    "uint64": lambda x, y: (x, y.astype(np.uint64)),
    "int8": lambda x, y: (x, y.astype(np.int8)),
    "longlong": lambda x, y: (x, y.astype(np.longlong)),
    "columns": lambda x, y: (np.asfortranarray(x), np.stack([y, y], 1)[:, 0]),
    "reversed": lambda x, y: (x[::-1][::-1], y[::-1].copy()[::-1]),
    "unaligned": lambda x, y: (unaligned(x), unaligned(y)),
    "read-only": lambda x, y: (read_only(x), read_only(y)),
    "subclass": lambda x, y: (x.view(np.recarray), y.view(np.recarray)),
    "one-hot": lambda x, y: (x, np.eye(CLASSES, dtype=np.float32)[y]),
    "shorter": lambda x, y: (x[:13], y[:13]),
    "weights": lambda x, y: (x, y, WEIGHT),
    "weights-columns": lambda x, y: (x, y, np.stack([WEIGHT, WEIGHT], 1)[:, 0]),
}


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    moved = raw[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kind", [fnn.Sequential, Plain])
def test_every_step_looks_at_its_own_arrays(variant, kind):
    x, y = data(40)
    used, fresh = [trainer(network(kind=kind, dropout=0.2), schedule=schedule) for _ in range(2)]
    batches = [(x, y), (x, y), variant(x, y), variant(x + 1, y), (x, y)]
    losses = [used.step(*batch) for batch in batches]
    for batch, loss in zip(batches, losses, strict=True):
        fresh._programs = type(fresh._programs)()  # nothing is known of the steps before
        assert fresh.loss_and_grad(*batch)[0] == loss
        assert used.loss_and_grad(*batch)[0] != loss  # it has gone on
        fresh._programs = type(fresh._programs)()
        assert fresh.step(*batch) == loss
    assert fingerprint(used) == fingerprint(fresh)


def test_a_step_copies_the_labels_it_checked():
    x, y = data(40)
    ours, expected = trainer(), trainer()
    ours.step(x, y)
    labels = y.copy()
    ours.step(x, labels)
    labels[:] = 10**9
    ours.steps(x, y, batch_size=40, n=1)
    expected.steps(x, y, batch_size=40, n=3)
    assert fingerprint(ours) == fingerprint(expected)


def test_gradients_are_copies_of_ones_own():
    x, y = data(40)
    ours = trainer()
    gradients = ours.loss_and_grad(x, y)[1]
    before = {name: gradient.copy() for name, gradient in gradients.items()}
    ours.step(x, y)
    later = ours.loss_and_grad(x, y)[1]
    for name, gradient in gradients.items():
        assert_array_equal(gradient, before[name])
        assert gradient.flags.c_contiguous
        assert gradient.flags.writeable
        gradient[...] = np.nan
    assert all(np.isfinite(gradient).all() for gradient in later.values())
    assert np.isfinite(ours.step(x, y))


@pytest.mark.parametrize("method", ["step", "loss_and_grad"])
def test_a_step_notices_that_arrays_of_the_model_were_replaced(method):
    x, y = data(40)
    ours = trainer()
    call = getattr(ours, method)
    call(x, y)
    params = ours.model.layers[0].params
    weight, params["weight"] = params["weight"], params["weight"].copy()
    with pytest.raises(RuntimeError, match="arrays were replaced"):
        call(x, y)
    del params["weight"]
    with pytest.raises(RuntimeError, match="arrays were replaced"):
        call(x, y)
    params["weight"] = weight
    call(x, y)
    ours.model.layers[0].params = {}
    with pytest.raises(RuntimeError, match="arrays were replaced"):
        call(x, y)


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_is_steps_over_the_permuted_rows(shuffle):
    x, y = data(203)
    native, single = trainer(), trainer()
    native.fit(x, y, epochs=2, batch_size=32, shuffle=shuffle)
    for epoch in range(2):
        order = _core.permutation(203, 3, epoch) if shuffle else np.arange(203)
        for first in range(0, 203, 32):
            rows = order[first : first + 32]
            single.step(x[rows], y[rows])
    assert native.epochs == 2
    assert arrays(native).keys() == arrays(single).keys()
    for name, array in arrays(native).items():
        assert_array_equal(array, arrays(single)[name])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_every_epoch_visits_every_row_in_another_order(n):
    orders = [_core.permutation(n, seed, epoch) for seed in (0, 1) for epoch in range(3)]
    for order in orders:
        assert_array_equal(np.sort(order), np.arange(n))
    if n >= 16:
        assert len({order.tobytes() for order in orders}) == 6


def test_a_permutation_is_a_fair_shuffle():
    places = np.stack([_core.permutation(100, 7, epoch) for epoch in range(2000)])
    average = places.mean(0)  # 49.5 +- 0.65
    assert np.abs(average - 49.5).max() < 4
    neighbours = np.abs(np.diff(places, axis=1)).mean()  # 33.7 for random ones
    assert 33 < neighbours < 34


class Rows(Plain):
    """Notes the first feature of the samples it sees in training."""

    def forward(self, x, training=False):
        if training:
            self.seen.append(x[:, 0].astype(int).tolist())
        return super().forward(x, training)


def rows_seen(n, batch_norm=False, **options):
    model = Rows(*network(batch_norm=batch_norm).layers)
    model.seen = []
    x, y = data(n)
    x[:, 0] = np.arange(n)
    trainer(model).fit(x, y, shuffle=False, **options)
    return model.seen


@pytest.mark.parametrize(
    ("n", "batch", "batch_norm", "drop_last", "sizes"),
    [
        (10, 4, False, False, [4, 4, 2]),
        (10, 4, False, True, [4, 4]),
        (9, 4, False, False, [4, 4, 1]),
        (9, 4, True, False, [4, 5]),  # batch norm can't take one sample
        (9, 4, True, True, [4, 4]),
        (9, 8, True, False, [9]),
        (8, 4, True, False, [4, 4]),
        (3, 8, True, False, [3]),
        (1, 8, False, False, [1]),
        (3, 1, False, False, [1, 1, 1]),
    ],
)
def test_how_an_epoch_is_cut(n, batch, batch_norm, drop_last, sizes):
    seen = rows_seen(n, batch_norm, batch_size=batch, drop_last=drop_last)
    assert [len(rows) for rows in seen] == sizes
    assert list(itertools.chain(*seen)) == list(range(sum(sizes)))


def test_a_last_batch_of_one_trains_under_batch_norm():
    x, y = data(33)
    native, single = trainer(), trainer()
    native.fit(x, y, batch_size=16, shuffle=False)
    single.step(x[:16], y[:16])
    single.step(x[16:], y[16:])
    assert (
        arrays(native)["layers.0.weight"].tobytes() == arrays(single)["layers.0.weight"].tobytes()
    )
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        trainer().fit(x[:1], y[:1])


# ---- the plan, and the same in Python --------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.5, "check_finite": True}])
def test_a_plan_gives_the_bits_of_the_calls_it_records(optimizer, options):
    x, y = data()
    weight = np.linspace(0.5, 2, len(x), dtype=np.float32)
    prints, histories = [], []
    for kind in (fnn.Sequential, Plain):
        ours = trainer(network(dropout=0.2, kind=kind), optimizer=optimizer, **options)
        ours.schedule = schedule
        history = ours.fit(x, y, epochs=2, batch_size=32, sample_weight=weight)
        ours.step(x[:7], y[:7], weight[:7])
        ours.steps(x, y, batch_size=50, n=5)
        prints.append(fingerprint(ours))
        histories.append(history)
    assert prints[0] == prints[1]
    assert histories[0].epochs["loss"] == histories[1].epochs["loss"]
    assert histories[0].epochs["accuracy"] == histories[1].epochs["accuracy"]
    for name, numbers in histories[0].updates.items():
        assert_array_equal(numbers, histories[1].updates[name])


def test_an_optimizer_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Own(fnn.SGD):
        def update(self, param, grad, state, *, step, lr):
            assert float(step) == 1 + len(steps)
            steps.append(float(lr))
            super().update(param, grad, state, step=step, lr=lr)

    steps = []
    x, y = data(40)
    ours, own = trainer(optimizer=fnn.SGD(0.1)), trainer(optimizer=Own(0.1))
    ours.schedule = own.schedule = schedule
    ours.fit(x, y, batch_size=10)
    own.fit(x, y, batch_size=10)
    assert_allclose(steps, [0.1, 0.05, 0.1 / 3, 0.025])
    assert fingerprint(ours) == fingerprint(own)


def test_a_loss_of_ones_own():
    class Own(fnn.losses.Loss):
        def __call__(self, pred, target, sample_weight=None):
            difference = pred - target
            return np.float32((difference**2).mean()), 2 / pred.size * difference

    x, _ = data(40)
    y = x[:, :CLASSES].copy()
    ours, own = trainer(loss=fnn.MSE()), trainer(loss=Own())
    for _ in range(5):
        assert_allclose(own.step(x, y), ours.step(x, y), rtol=1e-5)
    assert_allclose(own.evaluate(x, y)["loss"], ours.evaluate(x, y)["loss"], rtol=1e-5)


class Scale(fnn.Layer):
    """One factor for everything, in plain NumPy; stores its gradient as a new array."""

    def __init__(self, shape=(1,)):
        super().__init__()
        self.add_parameter("factor", (1,), "ones")
        self.shape = shape

    def forward(self, x, training=False):
        self.first_use(x)
        factor = self.params["factor"]

        def backprop(dy):
            self.grads["factor"] = np.full(self.shape, (dy * x).sum())
            return dy * factor

        return x * factor, backprop


def test_a_layer_of_ones_own_may_store_its_gradient():
    x, y = data(40)
    model = fnn.Sequential(fnn.Linear(FEATURES, CLASSES), Scale())
    ours = trainer(model, optimizer=fnn.SGD(lr=0.1))
    slope = ours.loss_and_grad(x, y)[1]["layers.1.factor"][0]
    assert slope != 0
    ours.step(x, y)
    assert_allclose(model[1].params["factor"], 1 - 0.1 * slope, rtol=1e-6)
    losses = [ours.step(x, y) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_a_gradient_of_a_wrong_shape_is_refused():
    x, y = data(40)
    ours = trainer(fnn.Sequential(fnn.Linear(FEATURES, CLASSES), Scale((2,))))
    before = fingerprint(ours)
    with pytest.raises(fnn.ShapeError, match=r"layers\.1\.factor must be \(1,\), got \(2,\)"):
        ours.step(x, y)
    assert fingerprint(ours) == before


def test_a_recordable_layer_must_write_its_gradient_in_place():
    class Careless(fnn.Linear):
        recordable = True

        def forward(self, x, training=False):
            def backprop(dy):
                self.grads["weight"] = ops.matmul(x, dy, transpose_a=True)

            return ops.matmul(x, self.params["weight"]), backprop

    ours = trainer(Careless(FEATURES, CLASSES, bias=False))
    with pytest.raises(ValueError, match=r"gradient of weight .* out="):
        ours.step(*data(10))


def test_a_parameter_without_a_gradient_stays():
    class Idle(Plain):
        def forward(self, x, training=False):
            y, backprop = self[0].forward(x, training)
            return y, lambda dy: backprop(dy) if next(turns) else None

    turns = iter([True, False])
    ours = trainer(Idle(fnn.Linear(FEATURES, CLASSES)), optimizer=fnn.SGD(lr=0.1))
    x, y = data(10)
    ours.step(x, y)
    before = arrays(ours)
    ours.step(x, y)
    assert_array_equal(arrays(ours)["layers.0.weight"], before["layers.0.weight"])


# ---- against PyTorch -------------------------------------------------------------------------


def twin_of(torch, model):
    """The same network with the same weights in PyTorch."""
    modules = []
    for layer in model.layers:
        if isinstance(layer, fnn.Linear):
            module = torch.nn.Linear(layer.in_features, layer.out_features)
            module.weight.data = torch.tensor(layer.weight.T.copy())
            module.bias.data = torch.tensor(layer.bias)
        elif isinstance(layer, fnn.BatchNorm):
            module = torch.nn.BatchNorm1d(layer.num_features)
        else:
            module = getattr(torch.nn, type(layer).__name__)()
        modules.append(module)
    return torch.nn.Sequential(*modules)


def torch_losses(torch, twin, optimizer, batches, clip=None):
    losses, norms = [], []
    for x, y in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        if clip:
            norms.append(float(torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)))
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_updates_agree_with_torch(name, batch_norm):
    torch = pytest.importorskip("torch")
    x, y = data(320)
    ours = trainer(network(batch_norm=batch_norm), optimizer=OPTIMIZERS[name])
    twin = twin_of(torch, ours.model)
    kind, options = TORCH[name]
    optimizer = getattr(torch.optim, kind)(twin.parameters(), **options)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 320, 32)]
    expected, _ = torch_losses(torch, twin, optimizer, batches)
    assert_allclose(ours.steps(x, y, batch_size=32, n=10), expected, rtol=1e-4)
    if batch_norm:  # a bias in front has no gradient but rounding errors, which Adam blows up
        variance = twin[1].running_var.numpy()
        assert_allclose(ours.model[1].running_var, variance, rtol=1e-3)
    else:
        logits = twin(torch.tensor(x)).detach().numpy()
        assert_allclose(ours.predict(x), logits, rtol=1e-3, atol=1e-3)


def test_clipping_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x, y = data(320)
    ours = trainer(optimizer=fnn.SGD(lr=0.5), clip_grad_norm=0.3)
    twin = twin_of(torch, ours.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 320, 32)]
    losses, norms = torch_losses(torch, twin, optimizer, batches, clip=0.3)
    history = ours.fit(x, y, batch_size=32, shuffle=False)
    assert min(norms) > 0.3
    assert_allclose(history.updates["loss"], losses, rtol=1e-4)
    assert_allclose(history.updates["grad_norm"], norms, rtol=1e-3)  # before clipping


# ---- determinism -----------------------------------------------------------------------------


def large_run(precision="float32", **options):
    """Long enough for four threads in most ops."""
    x, y = data(600, "float64" if precision == "float64" else "float32")
    model = network(dropout=0.2, hidden=256)
    ours = trainer(model, precision=precision, clip_grad_norm=1.0, **options)
    ours.fit(x, y, epochs=2, batch_size=128, validation_split=0.1)
    return fingerprint(ours)


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_a_run_has_one_hash(precision):
    prints = set()
    for isa in available_isas():
        with forced_isa(isa):
            for n in (1, 2, 3, 4) if isa == available_isas()[0] else (1, 4):
                with threads(n):
                    prints.add(large_run(precision))
    with threads(2):
        prints.add(large_run(precision, check_finite=True))
    assert len(prints) == 1


def test_another_seed_is_another_run():
    assert large_run(seed=4) != large_run(seed=5)


def test_tf32_is_float32_on_a_cpu():
    assert large_run("tf32") == large_run("float32")


def test_bf16_rounds_the_factors():
    x, y = data(100)
    exact, rounded = trainer(), trainer(precision="bf16")
    assert [layer.precision for layer in rounded.model.layers[::3]] == ["bf16", "bf16"]
    assert_array_equal(exact.model[0].weight, rounded.model[0].weight)
    a, b = exact.predict(x), rounded.predict(x)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.03
    losses = rounded.steps(x, y, batch_size=100, n=50)
    assert losses[-1] < 0.5 * losses[0]


def test_progress_and_the_number_of_native_calls_make_no_difference(capsys):
    x, y = data(400)
    silent, shown = trainer(), trainer()
    first = silent.fit(x, y, epochs=2, batch_size=4, progress=False)
    assert capsys.readouterr().err == ""
    second = shown.fit(x, y, epochs=2, batch_size=4, progress=True)
    assert "samples" in capsys.readouterr().err
    assert fingerprint(silent) == fingerprint(shown)
    assert first.epochs["loss"] == second.epochs["loss"]


def test_concurrent_trainers_have_the_bits_of_serial_ones():
    x, y = data(400)
    results = [None] * 12

    def run(i):
        ours = trainer(network(hidden=128), seed=i % 3)
        ours.fit(x, y, epochs=2, batch_size=64)
        results[i] = fingerprint(ours), ours.predict(x).tobytes()

    workers = [threading.Thread(target=run, args=(i,)) for i in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    together = list(results)
    for i in range(3):
        run(i)
    assert together == [results[i % 3] for i in range(12)]


def test_one_trainer_predicts_on_many_threads():
    x, y = data(400)
    ours = trainer()
    ours.fit(x, y)
    expected = [ours.predict(x, batch_size=64 + i).tobytes() for i in range(2)]
    failures = []

    def run(i):
        for _ in range(20):
            if ours.predict(x, batch_size=64 + i % 2).tobytes() != expected[i % 2]:
                failures.append(i)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


# ---- what is not finite ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [fnn.Sequential, Plain])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_check_finite_stops_before_anything_is_changed(kind, value):
    x, y = data(60)
    x[45, 7] = value
    ours = trainer(network(kind=kind), check_finite=True)
    for _ in range(3):
        ours.step(x[:20], y[:20])
    before = fingerprint(ours)
    with pytest.raises(FloatingPointError, match=r"layers\.0\.weight .* \(update 4\)") as caught:
        ours.step(x[40:], y[40:])
    index = int(str(caught.value).partition("element ")[2].split()[0])
    with np.errstate(invalid="ignore"):
        loss, gradients = ours.loss_and_grad(x[40:], y[40:])
    assert not np.isfinite(loss)
    assert index == np.flatnonzero(~np.isfinite(gradients["layers.0.weight"]))[0]
    assert fingerprint(ours) == before
    # In a run of many updates those before it are done, and it can be gone on from there.
    with pytest.raises(FloatingPointError, match="update 6"):
        ours.fit(x, y, batch_size=20, shuffle=False)
    other = trainer(network(kind=kind))
    other.steps(x[:20], y[:20], batch_size=20, n=3)
    other.steps(x[:40], y[:40], batch_size=20, n=2)
    assert fingerprint(ours) == fingerprint(other)
    assert np.isfinite(ours.step(x[:20], y[:20]))


@pytest.mark.parametrize("kind", [fnn.Sequential, Plain])
def test_nan_propagates_by_default(kind):
    x, y = data(40)
    x[3, 5] = np.nan
    ours = trainer(network(kind=kind))
    assert np.isnan(ours.step(x, y))
    assert ours.updates == 1
    assert np.isnan(arrays(ours)["layers.0.weight"]).any()
    assert np.isnan(ours.predict(x[:1])).all()


def test_nan_in_one_row_of_a_prediction_stays_in_that_row():
    x, y = data(40)
    ours = trainer()
    ours.fit(x, y)
    expected = ours.predict(x)
    x[3, 5] = np.nan
    found = ours.predict(x)
    assert np.isnan(found[3]).any()
    rest = np.arange(40) != 3
    assert_array_equal(found[rest], expected[rest])


# ---- fit -------------------------------------------------------------------------------------


def test_history_has_every_epoch_and_every_update():
    x, y = data(203)
    ours = trainer()
    ours.schedule = schedule
    history = ours.fit(x, y, epochs=3, batch_size=32, validation_data=(x[:50], y[:50]))
    names = ["loss", "accuracy", "val_loss", "val_accuracy", "seconds", "samples_per_second"]
    assert list(history.epochs) == names
    assert all(len(values) == 3 for values in history.epochs.values())
    assert all(isinstance(v, float) for values in history.epochs.values() for v in values)
    assert list(history.updates) == ["loss", "lr", "grad_norm"]
    assert all(len(values) == 21 for values in history.updates.values())
    assert_allclose(history.updates["lr"], [1e-2 * schedule(t) for t in range(21)])
    assert (history.updates["grad_norm"] > 0).all()
    sizes = np.array([32] * 6 + [11])
    epochs = history.updates["loss"].reshape(3, 7) @ sizes / 203
    assert_allclose(history.epochs["loss"], epochs, rtol=1e-6)
    result = ours.evaluate(x[:50], y[:50])
    assert result == {name: history.epochs[f"val_{name}"][-1] for name in ("loss", "accuracy")}
    assert min(history.epochs["samples_per_second"]) > 0


def test_history_without_accuracy_and_validation():
    x, _ = data(50)
    history = trainer(loss=fnn.MSE()).fit(x, x[:, :CLASSES].copy(), epochs=2)
    assert history.epochs["accuracy"] == history.epochs["val_loss"] == []
    assert len(history.epochs["loss"]) == 2


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_accuracy_counts_the_rows_that_were_used(drop_last, shuffle):
    x, y = data(100)
    y[::2] = -100
    ours = trainer(optimizer=fnn.SGD(lr=0.0))
    history = ours.fit(x, y, batch_size=30, drop_last=drop_last, shuffle=shuffle)
    order = _core.permutation(100, 3, 0) if shuffle else np.arange(100)
    used = order[: 90 if drop_last else 100]
    right = answers = 0
    for first in range(0, len(used), 30):
        rows = used[first : first + 30]
        pred = ours.model.forward(x[rows], training=True)[0]
        right += (pred.argmax(1) == y[rows]).sum()
        answers += (y[rows] >= 0).sum()
    assert history.epochs["accuracy"] == [right / answers]


def test_the_curve_is_drawn():
    pytest.importorskip("matplotlib")
    x, y = data(50)
    for history in (
        trainer().fit(x, y, epochs=2, validation_split=0.2),
        trainer(loss=fnn.MSE()).fit(x, x[:, :CLASSES].copy()),
        fnn.History(),
    ):
        file = io.BytesIO()
        history.plot().savefig(file, format="png")
        assert file.getvalue().startswith(b"\x89PNG")
        assert len(file.getvalue()) > 10_000


def test_training_learns():
    x, y = data(1000)
    ours = trainer(loss=fnn.CrossEntropy(label_smoothing=0.01))
    history = ours.fit(x, y, epochs=15, batch_size=50, validation_split=0.2)
    assert history.epochs["loss"][-1] < 0.3 * history.epochs["loss"][0]
    assert history.epochs["accuracy"][-1] > 0.9
    assert history.epochs["val_accuracy"][-1] > 0.8
    assert ours.updates == 15 * 16
    assert ours.epochs == 15


def test_a_split_validates_on_the_last_rows():
    x, y = data(100)
    split, given = trainer(), trainer()
    first = split.fit(x, y, epochs=2, validation_split=0.25)
    second = given.fit(x[:75], y[:75], epochs=2, validation_data=(x[75:], y[75:]))
    assert fingerprint(split) == fingerprint(given)
    assert first.epochs["val_loss"] == second.epochs["val_loss"]


def test_callbacks_see_every_epoch_and_can_stop():
    x, y = data(50)
    seen = []

    def watch(history):
        seen.append(len(history.epochs["loss"]))

    def stop(history):
        return len(history.epochs["loss"]) == 3

    history = trainer().fit(x, y, epochs=9, callbacks=[watch, stop])
    assert seen == [1, 2, 3]
    assert len(history.epochs["loss"]) == 3


def test_an_error_in_a_callback_leaves_a_trainer_to_go_on_with():
    def fail(history):
        raise KeyError("mine")

    x, y = data(50)
    ours, unbroken = trainer(), trainer()
    with pytest.raises(KeyError, match="mine"):
        ours.fit(x, y, epochs=2, callbacks=[fail])
    ours.fit(x, y)
    unbroken.fit(x, y, epochs=2)
    assert fingerprint(ours) == fingerprint(unbroken)


def test_early_stopping_goes_back_to_the_best_weights():
    x, y = data(60)
    xv, yv = data(40, seed=9)  # labelled by another rule: soon gets worse
    ours = trainer(optimizer=fnn.Adam(lr=0.05))
    best = {}

    def watch(history):
        values = history.epochs["val_loss"]
        if values[-1] == min(values):
            best.update(ours.model.state_dict())

    rule = fnn.EarlyStopping("val_loss", patience=3)
    history = ours.fit(
        x, y, epochs=50, validation_data=(xv, yv), early_stopping=rule, callbacks=[watch]
    )
    values = history.epochs["val_loss"]
    assert len(values) == int(np.argmin(values)) + 1 + 3 < 50
    for name, array in ours.model.state_dict().items():
        assert_array_equal(array, best[name])
    assert ours.evaluate(xv, yv)["loss"] == min(values)


def test_early_stopping_may_keep_the_last_weights():
    x, y = data(60)
    ours, plain = trainer(), trainer()
    rule = fnn.EarlyStopping("accuracy", patience=1, min_delta=1.0, restore_best=False)
    history = ours.fit(x, y, epochs=9, early_stopping=rule)
    assert len(history.epochs["loss"]) == 2
    plain.fit(x, y, epochs=2)
    assert fingerprint(ours) == fingerprint(plain)


def test_a_number_is_the_patience():
    x, y = data(60)
    history = trainer(optimizer=fnn.SGD(lr=0.0), model=network(batch_norm=False)).fit(
        x, y, epochs=9, validation_split=0.5, early_stopping=2
    )
    assert len(history.epochs["loss"]) == 3


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: fnn.EarlyStopping("val_los"), "monitor must be one of"),
        (lambda: fnn.EarlyStopping(patience=0), "patience must be an integer >= 1"),
        (lambda: fnn.EarlyStopping(patience=1.5), "patience must be an integer >= 1"),
        (lambda: fnn.EarlyStopping(min_delta=-1), "min_delta must be >= 0"),
        (lambda: fnn.EarlyStopping(min_delta=np.nan), "min_delta must be >= 0"),
    ],
)
def test_early_stopping_refuses_wrong_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_dropout_draws_other_bits_each_update_and_other_bits_each_layer():
    x = np.ones((64, 8), np.float32)
    layers = [fnn.Dropout(0.5), fnn.Dropout(0.5), fnn.Linear(8, 8, weight_init="ones")]
    ours = trainer(Seeing(*layers), loss=fnn.MSE(), optimizer=fnn.SGD(lr=0.0))
    ours.fit(x, x, epochs=3)
    masks = ours.model.seen
    assert len(masks) == 3
    assert len({m.tobytes() for m in masks}) == 3
    assert layers[0].seed != layers[1].seed
    share = np.mean([m != 0 for m in masks])
    assert 0.2 < share < 0.3  # two of a half each
    assert_array_equal(ours.predict(x), ours.predict(x))


class Seeing(Plain):
    """Keeps what comes out of the second layer in training."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.seen = []

    def forward(self, x, training=False):
        if not training:
            return super().forward(x)
        for layer in self.layers[:2]:
            x = layer.forward(x, True)[0]
        self.seen.append(x)
        return self.layers[2].forward(x, True)


def test_dropout_keeps_a_seed_of_its_own():
    layer = fnn.Dropout(0.5, seed=77)
    trainer(fnn.Sequential(fnn.Linear(FEATURES, CLASSES), layer))
    assert layer.seed == 77


# ---- evaluate and predict --------------------------------------------------------------------


def test_predict_gives_raw_outputs_whatever_the_batch():
    x, y = data(103)
    ours = trainer()
    ours.fit(x, y)
    expected = ours.model.forward(x)[0]
    for batch in (1, 7, 103, 1000):
        assert_array_equal(ours.predict(x, batch_size=batch), expected)
    assert ours.predict(x[:0]).shape == (0, CLASSES)
    assert ours.predict(x[:1]).dtype == np.float32
    assert not np.shares_memory(ours.predict(x), ours.predict(x))


LOSSES = {
    "plain": (fnn.CrossEntropy(), None),
    "smoothed": (fnn.CrossEntropy(label_smoothing=0.2), None),
    "class-weights": (fnn.CrossEntropy(np.linspace(0.1, 3, CLASSES, dtype=np.float32)), None),
    "sample-weights": (fnn.CrossEntropy(), "weights"),
    "both": (fnn.CrossEntropy(np.linspace(0.1, 3, CLASSES, dtype=np.float32)), "weights"),
}


@pytest.mark.parametrize(("loss", "weights"), LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("ignored", [0, 60])
def test_evaluate_averages_over_samples_whatever_the_batch(loss, weights, ignored):
    x, y = data(103)
    y[40 : 40 + ignored] = -100  # a whole batch without a contribution among them
    weights = None if weights is None else np.linspace(0, 2, 103, dtype=np.float32)
    ours = trainer(loss=loss)
    pred = ours.predict(x)
    expected = float(loss(pred, y, weights)[0])
    accuracy = (pred.argmax(1) == y).sum() / (y >= 0).sum()
    for batch in (7, 50, 1024):
        result = ours.evaluate(x, y, batch_size=batch, sample_weight=weights)
        assert_allclose(result["loss"], expected, rtol=1e-5)
        assert result["accuracy"] == accuracy


def test_evaluate_of_a_sum_is_the_average_sum():
    x, y = data(103)
    ours = trainer(loss=fnn.CrossEntropy(reduction="sum"))
    expected = float(fnn.CrossEntropy()(ours.predict(x), y)[0])
    assert_allclose(ours.evaluate(x, y, batch_size=20)["loss"], expected, rtol=1e-5)


def test_evaluate_without_a_contributing_row_is_zero():
    x, y = data(10)
    result = trainer().evaluate(x, np.full_like(y, -100))
    assert result == {"loss": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize("loss", [fnn.MSE(), fnn.MAE(), fnn.BinaryCrossEntropy()])
def test_evaluate_other_losses(loss):
    x, _ = data(103)
    y = (x[:, :CLASSES] > 0).astype(np.float32)
    ours = trainer(loss=loss)
    pred = ours.predict(x)
    result = ours.evaluate(x, y, batch_size=20)
    assert_allclose(result["loss"], float(loss(pred, y)[0]), rtol=1e-5)
    if isinstance(loss, fnn.BinaryCrossEntropy):
        assert result["accuracy"] == ((pred > 0) == (y > 0.5)).mean()
    else:
        assert list(result) == ["loss"]


def test_evaluation_changes_nothing():
    x, y = data(50)
    ours = trainer(network(dropout=0.3))
    ours.fit(x, y)
    before = fingerprint(ours)
    first = ours.evaluate(x, y)
    ours.predict(x)
    assert ours.evaluate(x, y) == first
    assert fingerprint(ours) == before


# ---- kinds of data ---------------------------------------------------------------------------


def test_bytes_behind_a_rescaling():
    x = np.random.default_rng(0).integers(0, 256, (60, FEATURES), dtype=np.uint8)
    y = x[:, 0] % CLASSES
    native, plain = (
        trainer(kind(fnn.Rescaling(1 / 255, -0.5), fnn.Linear(FEATURES, CLASSES)))
        for kind in (fnn.Sequential, Plain)
    )
    native.fit(x, y, epochs=2, batch_size=16)
    plain.fit(x, y, epochs=2, batch_size=16)
    assert native.predict(x).tobytes() == plain.predict(x).tobytes()
    scaled = x.astype(np.float32) / 255 - np.float32(0.5)
    weight, bias = native.model[1].weight, native.model[1].bias
    assert_allclose(native.predict(x), scaled @ weight + bias, rtol=1e-4, atol=1e-5)
    with pytest.raises(fnn.DTypeError, match="uint8"):
        trainer().step(x, y)


def test_images_of_several_axes():
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 5), dtype=np.uint8)
    y = x[:, 0, 0] % CLASSES
    scale = 1 / 255
    images = trainer(fnn.Sequential(fnn.Rescaling(scale), fnn.Flatten(), fnn.Linear(20, CLASSES)))
    rows = trainer(fnn.Sequential(fnn.Rescaling(scale), fnn.Linear(20, CLASSES)))
    images.fit(x, y)
    assert images.predict(x).shape == (60, CLASSES)
    with pytest.raises(fnn.ShapeError):
        rows.step(x, y)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", "int64"])
def test_labels_of_any_integer_type(dtype):
    x, y = data(50)
    expected, ours = trainer(), trainer()
    expected.step(x, y)
    ours.step(x, y.astype(dtype))
    assert fingerprint(ours) == fingerprint(expected)


def test_probabilities_as_targets():
    x, y = data(50)
    hot = np.eye(CLASSES, dtype=np.float32)[y]
    ours, plain = trainer(), trainer()
    history = ours.fit(x, hot, batch_size=16)
    expected = plain.fit(x, y, batch_size=16)
    assert_allclose(history.updates["loss"], expected.updates["loss"], rtol=1e-5)
    assert history.epochs["accuracy"] == expected.epochs["accuracy"]


def test_float64_throughout():
    x, y = data(50, "float64")
    ours = trainer(precision="float64")
    gradients = ours.loss_and_grad(x, y)[1]
    assert all(array.dtype == np.float64 for array in gradients.values())
    weight = ours.model[0].weight.copy()
    losses = []
    for step in (-1e-6, 1e-6):
        weight[2, 3] += step
        ours.model[0].weight = weight
        losses.append(ours.loss_and_grad(x, y)[0])
        weight[2, 3] -= step
    slope = (losses[1] - losses[0]) / 2e-6
    assert_allclose(slope, gradients["layers.0.weight"][2, 3], rtol=1e-5, atol=1e-9)
    assert ours.predict(x).dtype == np.float64
    assert ours.steps(x, y, batch_size=10, n=2).dtype == np.float64


def test_views_and_arrays_of_other_libraries():
    torch = pytest.importorskip("torch")
    x, y = data(50)
    expected = trainer()
    expected.step(x, y)
    wide = np.zeros((50, 2 * FEATURES), np.float32)
    wide[:, ::2] = x
    for xs, ys in (
        (np.asfortranarray(x), y),
        (wide[:, ::2], y),
        (x[::-1][::-1], np.repeat(y, 2)[::2]),
        (torch.from_numpy(x), torch.from_numpy(y)),
    ):
        ours = trainer()
        ours.step(xs, ys)
        assert fingerprint(ours) == fingerprint(expected)


def test_data_may_change_between_calls():
    x, y = data(50)
    x2, y2 = data(50, seed=1)
    ours, expected = trainer(), trainer()
    ours.step(x, y)
    x[...], y[...] = x2, y2
    ours.step(x, y)
    x1, y1 = data(50)
    expected.step(x1, y1)
    expected.step(x2, y2)
    assert fingerprint(ours) == fingerprint(expected)


def test_weights_set_from_outside_are_used():
    x, y = data(50)
    ours, other = trainer(), trainer(seed=8)
    ours.fit(x, y)
    other.step(x, y)
    other.model.load_state_dict(ours.model.state_dict())
    assert_array_equal(ours.predict(x), other.predict(x))
    ours.model[0].weight = np.zeros((FEATURES, 32), np.float32)
    assert not np.array_equal(ours.predict(x), other.predict(x))


def test_weights_set_before_are_kept():
    model = fnn.Sequential(fnn.Linear(FEATURES, 8), fnn.ReLU(), fnn.Linear(8, CLASSES))
    mine = np.full((FEATURES, 8), 0.25, np.float32)
    model[0].weight = mine
    ours = trainer(model)
    assert_array_equal(ours.model[0].weight, mine)


def test_a_model_serves_one_trainer_at_a_time():
    x, y = data(50)
    model = network()
    first = trainer(model)
    first.fit(x, y)
    second = trainer(model)
    with pytest.raises(RuntimeError, match="later Trainer of this model"):
        first.fit(x, y)
    assert_array_equal(second.predict(x), model.forward(x)[0])


def test_many_batch_sizes_do_not_pile_up():
    x, y = data(200)
    ours = trainer()
    for n in range(2, 60):
        ours.step(x[:n], y[:n])
    assert len(ours._programs.kept) <= 16


def test_a_plan_uses_the_memory_of_gradients_again():
    x, y = data(256)
    deep = [layer for _ in range(10) for layer in (fnn.Linear(64, 64), fnn.Tanh())]
    model = fnn.Sequential(fnn.Linear(FEATURES, 64), *deep, fnn.Linear(64, CLASSES))
    ours = trainer(model)
    ours.step(x, y)
    activation = 256 * 64 * 4
    used = ours._programs.arena.bytes
    assert used < (10 + 5) * activation  # one a layer for the way back, not four
    for n in (255, 256, 200, 160):  # other plans take little besides
        ours.steps(x, y, batch_size=n, n=1)
        ours.evaluate(x, y, batch_size=n)
    assert ours._programs.arena.bytes < used + 10 * activation


def test_gradients_lie_where_activations_were():
    rows, width, depth = 4096, 64, 4
    pairs = [(fnn.Linear(width, width), fnn.BatchNorm(width)) for _ in range(depth)]
    x = np.ones((rows, width), np.float32)
    ours = trainer(fnn.Sequential(*itertools.chain(*pairs)), loss=fnn.MSE())
    ours.step(x, x)
    kept = 2 + 2 * depth  # a batch and its targets; what each layer saves or hands on
    assert ours._programs.arena.bytes < (kept + 2.5) * x.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_dropped_trainer_gives_its_memory_back():
    x, y = data(4000)

    def held():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def use(kind):
        ours = trainer(network(hidden=256, kind=kind))
        ours.fit(x, y, batch_size=4000)
        ours.predict(x, batch_size=4000)

    for kind in (fnn.Sequential, Plain):
        use(kind)
        before = held()
        for _ in range(20):  # 20 MB and more each
            use(kind)
        assert held() - before < 150e6  # what the heap keeps varies with the tests before


# ---- refusals --------------------------------------------------------------------------------


def bad_label(value):
    x, y = data(40)
    y[7] = value
    return x, y


X, Y = data(40)
REFUSED_DATA = {
    "label-large": (*bad_label(5), fnn.LabelError, "label 5 at row 7; valid 0..4"),
    "label-negative": (*bad_label(-1), fnn.LabelError, "label -1 at row 7"),
    "label-min": (*bad_label(-(2**63)), fnn.LabelError, "at row 7"),
    "label-max": (
        X,
        np.where(np.arange(40) == 7, np.uint64(2**64 - 1), np.uint64(0)),
        fnn.LabelError,
        "label 18446744073709551615 at row 7",
    ),
    "labels-float": (X, Y.astype(np.float32), fnn.DTypeError, "y must be integers"),
    "labels-bool": (X, Y > 2, fnn.DTypeError, "y must be integers of shape .*, got bool"),
    "labels-big-endian": (X, Y.astype(">i4"), fnn.DTypeError, r"y is '>i4'; use \.astype\('<i4'\)"),
    "labels-short": (X, Y[:-1], fnn.ShapeError, "y must have one row for each of the 40 samples"),
    "labels-list": (X, Y.tolist(), TypeError, "y must be an array, got list"),
    "probabilities": (X, np.ones((40, 4), np.float32), fnn.ShapeError, "probabilities"),
    "probabilities-f64": (X, np.ones((40, 5)), fnn.DTypeError, "y must be float32, got float64"),
    "x-f64": (X.astype("f8"), Y, fnn.DTypeError, r"x must be float32 .*, got float64 \(40, 20\)"),
    "x-big-endian": (X.astype(">f4"), Y, fnn.DTypeError, "'>f4'"),
    "x-int": (X.astype("i8"), Y, fnn.DTypeError, "x must be float32 or uint8, got int64"),
    "x-narrow": (X[:, 1:].copy(), Y, fnn.ShapeError, "19"),
    "x-flat": (X[0], Y[:20], fnn.ShapeError, "a must be 2-D"),
    "x-scalar": (X[0, 0], Y, TypeError, "x must be an array, got float32"),
    "x-empty": (X[:0], Y[:0], fnn.ShapeError, "x must have at least one row"),
    "x-list": (X.tolist(), Y, TypeError, "x must be an array, got list; use numpy.asarray"),
    "x-masked": (np.ma.masked_array(X), Y, fnn.DTypeError, "mask would be lost"),
    "x-none": (None, Y, TypeError, "x must be an array, got NoneType"),
}


@pytest.mark.parametrize(("x", "y", "error", "match"), REFUSED_DATA.values(), ids=REFUSED_DATA)
@pytest.mark.parametrize("kind", [fnn.Sequential, Plain])
@pytest.mark.parametrize("method", ["step", "steps", "fit", "evaluate", "loss_and_grad"])
def test_refused_data_leave_everything_unchanged(x, y, error, match, kind, method):
    ours = trainer(network(kind=kind))
    ours.step(X, Y)
    before = fingerprint(ours)
    options = {"steps": {"batch_size": 20, "n": 3}, "fit": {"batch_size": 20}}.get(method, {})
    with pytest.raises(error, match=match) as caught:
        getattr(ours, method)(x, y, **options)
    assert type(caught.value) is error
    assert fingerprint(ours) == before
    expected = trainer(network(kind=kind))
    expected.step(X, Y)
    assert ours.step(X, Y) == expected.step(X, Y)


def test_refused_weights_and_torch_tensors():
    ours = trainer()
    with pytest.raises(fnn.DTypeError, match="sample_weight must be float32, got float64"):
        ours.step(X, Y, np.ones(40))
    with pytest.raises(fnn.ShapeError, match="sample_weight must have one row"):
        ours.step(X, Y, np.ones(39, np.float32))
    with pytest.raises(fnn.ShapeError, match="sample_weight"):
        ours.step(X, Y, np.ones((40, 1), np.float32))
    with pytest.raises(fnn.DTypeError, match="x must be float32 or uint8"):
        ours.predict(X.astype("f8"))
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"x requires grad.*detach"):
        ours.step(torch.tensor(X, requires_grad=True), Y)
    with pytest.raises(fnn.DTypeError, match="x"):
        ours.step(torch.tensor(X).bfloat16(), Y)
    assert fingerprint(ours) == fingerprint(trainer())


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, True, "8", None, 10.0**6])
@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_refuses_epochs_and_batch_sizes_that_are_no_positive_integers(name, value):
    ours = trainer()
    calls = [lambda: ours.fit(X, Y, **{name: value})]
    if name == "batch_size":
        calls += [
            lambda: ours.steps(X, Y, batch_size=value, n=1),
            lambda: ours.steps(X, Y, batch_size=1, n=value),
            lambda: ours.evaluate(X, Y, batch_size=value),
            lambda: ours.predict(X, batch_size=value),
        ]
    for call in calls:
        with pytest.raises(ValueError, match="must be an integer >= 1, got"):
            call()
    assert fingerprint(ours) == fingerprint(trainer())
    ours.fit(X, Y, batch_size=np.int64(8), epochs=np.uint8(1))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"validation_split": 1.0}, r"validation_split must be in \[0, 1\)"),
        ({"validation_split": -0.1}, r"validation_split must be in \[0, 1\)"),
        ({"validation_split": np.nan}, r"validation_split must be in \[0, 1\)"),
        ({"validation_split": 0.001}, "leaves no samples"),
        ({"validation_split": 0.1, "validation_data": (X, Y)}, "not both"),
        ({"early_stopping": 3}, "give validation_data or validation_split"),
        ({"early_stopping": 0, "validation_split": 0.1}, "early_stopping must be an integer"),
        ({"drop_last": True, "batch_size": 41}, "drop_last leaves no batch"),
    ],
)
def test_fit_refuses(options, match):
    ours = trainer()
    with pytest.raises(ValueError, match=match):
        ours.fit(X, Y, **options)
    assert fingerprint(ours) == fingerprint(trainer())


def test_fit_refuses_to_monitor_what_is_not_measured():
    ours, rule = trainer(loss=fnn.MSE()), fnn.EarlyStopping("accuracy")
    with pytest.raises(ValueError, match="monitors accuracy"):
        ours.fit(X, X[:, :CLASSES].copy(), early_stopping=rule)


def test_steps_refuse_less_than_a_batch():
    with pytest.raises(ValueError, match="batch_size must be at most 40 samples, got 41"):
        trainer().steps(X, Y, batch_size=41, n=1)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"device": "cuda:63"}, fnn.DeviceError, "^Trainer: device 'cuda:63': "),
        (
            {"device": "cuda:x"},
            ValueError,
            "device must be 'cpu', 'cuda' or 'cuda:N', got 'cuda:x'",
        ),
        ({"device": "tpu"}, ValueError, "device must be 'cpu', 'cuda' or"),
        ({"precision": "float16"}, ValueError, "precision must be one of"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"seed": 0.5}, ValueError, "seed"),
        ({"seed": None}, ValueError, "seed"),
        ({"clip_grad_norm": 0}, ValueError, "clip_grad_norm must be > 0"),
        ({"clip_grad_norm": np.nan}, ValueError, "clip_grad_norm must be > 0"),
        ({"loss": fnn.MSE("none")}, ValueError, "reduction 'mean' or 'sum'"),
        ({"model": fnn.Sequential(fnn.ReLU())}, ValueError, "no parameters"),
    ],
)
def test_the_constructor_refuses(options, error, match):
    with pytest.raises(error, match=match):
        trainer(**options)


def test_the_largest_seed():
    x, y = data(50)
    prints = set()
    for seed in (2**64 - 1, 2**63, 2**63 - 1):
        ours = trainer(network(dropout=0.1), seed=seed)
        ours.fit(x, y)
        prints.add(fingerprint(ours))
    assert len(prints) == 3


def test_one_array_as_two_parameters_is_refused_by_name():
    class Tied(Plain):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.params["extra"] = np.zeros((FEATURES, CLASSES), np.float32)
            self.layers[0].params["weight"] = self.params["extra"]

    with pytest.raises(ValueError, match=r"extra.*layers\.0\.weight"):
        trainer(Tied(fnn.Linear(FEATURES, CLASSES)))


@pytest.mark.parametrize("factor", [-1.0, np.nan, np.inf])
def test_a_wrong_schedule_is_refused_before_the_update(factor):
    ours = trainer()
    ours.schedule = lambda t: factor if t else 1.0
    ours.step(X, Y)
    before = fingerprint(ours)
    with pytest.raises(ValueError, match="schedule must give finite factors >= 0"):
        ours.steps(X, Y, batch_size=20, n=2)
    assert fingerprint(ours) == before


def test_an_error_in_a_schedule_or_layer_is_handed_on():
    def broken(t):
        raise ZeroDivisionError("mine")

    ours = trainer()
    ours.schedule = broken
    with pytest.raises(ZeroDivisionError, match="mine"):
        ours.fit(X, Y)

    class Failing(Plain):
        def forward(self, x, training=False):
            y, backprop = super().forward(x, training)
            if training and next(calls) == 3:
                raise KeyError("layer")
            return y, backprop

    calls = itertools.count()
    ours = trainer(Failing(*network().layers))
    expected = trainer(Plain(*network().layers))
    with pytest.raises(KeyError, match="layer"):
        ours.fit(X, Y, batch_size=10, shuffle=False)
    expected.steps(X[:30], Y[:30], batch_size=10, n=3)
    assert fingerprint(ours) == fingerprint(expected)  # running statistics, too


def test_a_trainer_is_not_used_by_two_threads_at_once():
    x, y = data(2000)
    ours = trainer(network(hidden=256))
    errors = []

    def train(n):
        try:
            ours.steps(x, y, batch_size=1000, n=n)
        except RuntimeError as error:  # whoever comes second
            errors.append(str(error))

    worker = threading.Thread(target=train, args=(60,))
    worker.start()
    while worker.is_alive() and not errors:
        train(1)
    worker.join()
    assert errors
    assert "busy" in errors[0]
    ours.step(x, y)

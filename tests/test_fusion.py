"""What a plan fuses: chosen by shape, and with the bits of the separate ops."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support import available_isas, forced_isa, threads
from trainers import Plain, data, fingerprint, network, trainer

import fastnn as fnn
from fastnn import ops
from fastnn.engine import Native

OPTIMIZERS = {
    "sgd": fnn.SGD(lr=0.1),
    "momentum": fnn.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adagrad": fnn.Adagrad(lr=0.1),
    "rmsprop": fnn.RMSProp(lr=0.01, momentum=0.5, centered=True),
    "adam": fnn.Adam(lr=0.01),
    "amsgrad": fnn.Adam(lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": fnn.AdamW(lr=0.01),
    "radam": fnn.RAdam(lr=0.01),
}


def recording(made):
    """A Native that leaves each plan in a list."""

    class Recorded(Native):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    return Recorded


@pytest.fixture
def fused(monkeypatch):
    """Names of the stages with an update, of the plans made since it was last called."""
    made = []

    def names():
        found = [stage for plan in made for stage in plan.stages]
        made.clear()
        return [stage for stage in found if stage.startswith("matmul") and "_step" in stage]

    monkeypatch.setattr("fastnn.trainer.Native", recording(made))
    return names


def wide(optimizer=None, hidden=160, **options):
    return trainer(network(hidden=hidden), optimizer=optimizer or fnn.Adam(lr=0.01), **options)


def keeping_gradients(optimizer=None, **options):
    """The same training without fusion: the check for finite gradients reads them."""
    return wide(optimizer, check_finite=True, **options)


# ---- updates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_bits_are_those_of_the_separate_ops(optimizer, precision, fused):
    x, y = data(333, "float64" if precision == "float64" else "float32")
    # bfloat16 factors are packed again for every few rows: only few terms are fused.
    sizes = (16, 7, 15) if precision == "bf16" else (100, 37, 64)
    results, stages = [], []
    for make in (wide, keeping_gradients):
        ours = make(optimizer, precision=precision)
        losses = [ours.step(x[: sizes[0]], y[: sizes[0]])]
        losses += list(ours.steps(x, y, batch_size=sizes[1], n=9))
        stages.append(fused())
        history = ours.fit(x, y, epochs=2, batch_size=sizes[2], drop_last=True)
        stages.append(fused())
        results.append((ours, losses, history))
    (a, losses, history), (b, expected, unfused) = results
    stage = f"matmul + {type_name(optimizer)}_step"
    assert stages == [[stage] * 2, [stage], [], []]
    assert fingerprint(a) == fingerprint(b)
    assert_array_equal(losses, expected)
    assert_array_equal(history.updates["loss"], unfused.updates["loss"])
    # The norm is summed in other pieces.
    assert_allclose(history.updates["grad_norm"], unfused.updates["grad_norm"], rtol=5e-7)


def type_name(optimizer):
    return "adam" if isinstance(optimizer, fnn.AdamW) else type(optimizer).__name__.lower()


def test_threads_and_levels_make_no_difference(fused):
    x, y = data(600)
    prints, norms = set(), set()
    for isa in available_isas():
        for n in (1, 2, 3, 4):
            with forced_isa(isa), threads(n):
                ours = wide(hidden=300)
                norms.add(ours.fit(x, y, batch_size=128).updates["grad_norm"].tobytes())
                assert fused()
                prints.add(fingerprint(ours))
    assert len(prints) == len(norms) == 1


def test_what_else_reads_the_gradients_keeps_them(fused):
    x, y = data(64)
    for options in ({"clip_grad_norm": 1.0}, {"check_finite": True}):
        wide(**options).step(x, y)
        assert not fused()


def test_small_gradients_and_large_batches_are_not_fused(fused):
    x, y = data(3000)
    wide(hidden=80).step(x[:64], y[:64])
    assert not fused()
    wide().step(x, y)
    assert not fused()
    wide(precision="bf16").step(x[:64], y[:64])
    assert not fused()
    wide().step(x[:64], y[:64])
    assert len(fused()) == 1


def test_a_gradient_asked_for_is_there_and_changes_nothing():
    x, y = data(64)
    ours, other = wide(), wide()
    ours.step(x, y)
    other.step(x, y)
    before = fingerprint(ours)
    _, gradients = ours.loss_and_grad(x, y)
    assert fingerprint(ours) == before
    assert all(np.any(gradient) for gradient in gradients.values())
    assert ours.step(x, y) == other.step(x, y)
    assert fingerprint(ours) == fingerprint(other)


# ---- epilogues -------------------------------------------------------------------------------


def plain(kind, hidden):
    return trainer(network(batch_norm=False, hidden=hidden, kind=kind), optimizer=fnn.SGD(lr=0.1))


@pytest.mark.parametrize("batch", [1, 5, 64, 300, 700])
@pytest.mark.parametrize("hidden", [33, 96, 300])
def test_gradients_of_relu_and_bias_come_with_the_products(batch, hidden, monkeypatch):
    x, y = data(batch)
    made = []
    monkeypatch.setattr("fastnn.trainer.Native", recording(made))
    ours, separate = plain(fnn.Sequential, hidden), plain(Plain, hidden)
    (_, together), (_, alone) = ours.loss_and_grad(x, y), separate.loss_and_grad(x, y)
    for name, gradient in alone.items():
        assert_array_equal(together[name], gradient, name)
    for _ in range(3):
        assert ours.step(x, y) == separate.step(x, y)
    assert fingerprint(ours) == fingerprint(separate)
    stages = [stage for plan in made for stage in plan.stages]
    assert "matmul + relu_backward" in stages
    assert ("matmul + column_sum" in stages) == (hidden >= 128)


def test_epilogues_have_the_same_bits_for_any_threads_and_level():
    x, y = data(700)
    found = set()
    for isa in available_isas():
        for n in (1, 2, 3, 4):
            with forced_isa(isa), threads(n):
                _, gradients = plain(fnn.Sequential, 300).loss_and_grad(x, y)
                found.add(b"".join(g.tobytes() for g in gradients.values()))
    assert len(found) == 1


# ---- bytes -----------------------------------------------------------------------------------


def of_bytes(kind=fnn.Sequential, hidden=33, precision="float32", first=None):
    layers = [fnn.Rescaling(1 / 255, -0.3)] + ([] if first is None else [first])
    layers += [fnn.Linear(20, hidden), fnn.ReLU(), fnn.Linear(hidden, 5)]
    return trainer(kind(*layers), precision=precision)


def images(n):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 20), np.uint8), rng.integers(0, 5, n)


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
@pytest.mark.parametrize("hidden", [2, 33, 500])
@pytest.mark.parametrize("batch", [1, 5, 64, 300, 1000])
def test_bytes_are_rescaled_in_the_products(batch, hidden, precision, monkeypatch):
    x, y = images(batch)
    made = []
    monkeypatch.setattr("fastnn.trainer.Native", recording(made))
    ours = of_bytes(hidden=hidden, precision=precision)
    separate = of_bytes(Plain, hidden, precision)
    assert_array_equal(ours.predict(x), separate.predict(x))
    made.clear()
    losses = [separate.step(x, y) for _ in range(3)]
    made.clear()
    assert_array_equal(ours.steps(x, y, batch_size=batch, n=3), losses)
    assert fingerprint(ours) == fingerprint(separate)
    assert "rescale" not in made[-1].stages
    assert sum(stage.startswith("rescale + matmul") for stage in made[-1].stages) == 2


def test_bytes_for_another_layer_are_rescaled_before(monkeypatch):
    x, y = images(64)
    made = []
    monkeypatch.setattr("fastnn.trainer.Native", recording(made))
    ours, separate = of_bytes(first=fnn.BatchNorm(20)), of_bytes(Plain, first=fnn.BatchNorm(20))
    losses = [separate.step(x, y), separate.step(x, y)]
    made.clear()
    assert [ours.step(x, y), ours.step(x, y)] == losses
    assert fingerprint(ours) == fingerprint(separate)
    assert "rescale" in made[-1].stages


class Tied(fnn.Layer):
    """x @ w @ w, so that the weight is read again after a part of its gradient is known."""

    recordable = True

    def __init__(self, size):
        super().__init__()
        self.add_parameter("weight", (size, size), "xavier_uniform")

    def forward(self, x, training=False):
        self.first_use(x)
        weight = self.params["weight"]
        h = ops.matmul(x, weight)

        def backprop(dy, overwrite=False):
            self.grads["weight"] = ops.matmul(h, dy, transpose_a=True, out=self.grads["weight"])
            return ops.matmul(dy, weight, transpose_b=True)

        return ops.matmul(h, weight), backprop


def test_a_weight_that_is_read_again_is_not_updated_early(fused):
    x, y = data(64)
    runs = []
    for options in ({}, {"check_finite": True}):
        model = fnn.Sequential(fnn.Linear(20, 128), Tied(128), fnn.Linear(128, 5))
        ours = trainer(model, **options)
        ours.steps(x, y, batch_size=64, n=5)
        assert not fused()
        runs.append(fingerprint(ours))
    assert runs[0] == runs[1]


# ---- blocks of rows --------------------------------------------------------------------------

SMALL = {
    "tanh": lambda: [fnn.Linear(20, 24), fnn.Tanh(), fnn.Linear(24, 10), fnn.Tanh()],
    "sigmoid, no bias": lambda: [fnn.Linear(20, 33, bias=False), fnn.Sigmoid()],
    "dropout between": lambda: [fnn.Linear(20, 24), fnn.ReLU(), fnn.Dropout(0.3)],
    "batch norm between": lambda: [fnn.Linear(20, 24), fnn.ReLU(), fnn.BatchNorm(24), fnn.GELU()],
    "one after the other": lambda: [fnn.GELU(), fnn.Linear(20, 9), fnn.GELU(), fnn.SiLU()],
}


def small(name, kind=fnn.Sequential, **options):
    layers = SMALL[name]()
    width = next(layer.out_features for layer in layers[::-1] if isinstance(layer, fnn.Linear))
    return trainer(kind(*layers, fnn.Linear(width, 12), fnn.ReLU(), fnn.Linear(12, 5)), **options)


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
@pytest.mark.parametrize("batch", [2304, 4999])
@pytest.mark.parametrize("name", SMALL)
def test_small_layers_go_through_blocks_of_rows(name, batch, precision, monkeypatch):
    x, y = data(batch, dtype="float64" if precision == "float64" else "float32")
    made = []
    monkeypatch.setattr("fastnn.trainer.Native", recording(made))
    separate = small(name, Plain, precision=precision)
    losses = [separate.step(x, y) for _ in range(3)]
    _, gradients = separate.loss_and_grad(x, y)
    for count in (1, 3):
        with threads(count):
            made.clear()
            ours = small(name, precision=precision)
            assert_array_equal(ours.steps(x, y, batch_size=batch, n=3), losses)
            assert fingerprint(ours) == fingerprint(separate)
            for key, gradient in ours.loss_and_grad(x, y)[1].items():
                assert_array_equal(gradient, gradients[key], key)
            blocks = [stage for stage in made[-1].stages if stage.startswith("blocks: ")]
            assert len(blocks) >= 2
            assert all("; " in stage for stage in blocks)


def test_blocks_are_for_many_rows_and_small_layers(monkeypatch):
    x, y = data(4000)
    made = []
    monkeypatch.setattr("fastnn.trainer.Native", recording(made))
    small("tanh").step(x[:1000], y[:1000])
    wide(hidden=300).step(x, y)
    assert not [stage for plan in made for stage in plan.stages if stage.startswith("blocks: ")]


def test_blocks_of_bytes(monkeypatch):
    x, y = images(3000)
    made = []
    monkeypatch.setattr("fastnn.trainer.Native", recording(made))
    ours, separate = of_bytes(hidden=16), of_bytes(Plain, hidden=16)
    losses = [separate.step(x, y) for _ in range(3)]
    made.clear()
    assert_array_equal(ours.steps(x, y, batch_size=3000, n=3), losses)
    assert fingerprint(ours) == fingerprint(separate)
    assert any(stage.startswith("blocks: ") for stage in made[-1].stages)

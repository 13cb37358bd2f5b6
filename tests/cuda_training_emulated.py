"""Training on an emulated GPU, beside the same training on the CPU.

test_cuda.py runs this file in a process of its own, which the emulator ends when a kernel errs:
    FASTNN_SIMT_BUILD_DIR=build/simt pytest -s tests/cuda_training_emulated.py
"""

import copy
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from device_array import emulator, exported, to_device
from numpy.testing import assert_allclose, assert_array_equal
from trainers import CLASSES, FEATURES, Plain, arrays, data, fingerprint, trainer

import fastnn as fnn
from fastnn import _core, curve
from fastnn.__main__ import main
from fastnn.curve_report import table_line

_core.use_cuda(emulator.capsule)
GIB = 1 << 30
X, Y = data(61)
# A bias in front of batch norm has no gradient but for rounding, of which Adam makes steps.
OPTIMIZERS = {
    "sgd": fnn.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adagrad": fnn.Adagrad(lr=0.1),
    "rmsprop": fnn.RMSProp(lr=0.01, momentum=0.5, centered=True),
    "adam": fnn.Adam(lr=0.01),
    "amsgrad": fnn.Adam(lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": fnn.AdamW(lr=0.01),
    "radam": fnn.RAdam(lr=0.01),
}


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """Every block of device memory is given back."""
    before = emulator.used()
    yield
    gc.collect()
    assert emulator.used() == before
    assert not exported


def network(outputs=CLASSES, hidden=16, dropout=0.25):
    return fnn.Sequential(
        fnn.Linear(FEATURES, hidden, bias=False),
        fnn.BatchNorm(hidden),
        fnn.ReLU(),
        fnn.Dropout(dropout),
        fnn.Linear(hidden, hidden),
        fnn.Tanh(),
        fnn.Linear(hidden, outputs),
    )


def make(device="cuda", model=None, **options):
    return trainer(model or network(), device=device, **options)


def fit(made, x=X, y=Y, **options):
    return made.fit(x, y, **{"epochs": 2, "batch_size": 16, "progress": False} | options)


def assert_alike(device, host, rtol=1e-3, atol=1e-4):
    """All that training has changed is the same but for rounding."""
    assert device.updates == host.updates
    values, expected = arrays(device), arrays(host)
    assert set(values) == set(expected)
    for name, value in values.items():
        assert_allclose(value, expected[name], rtol=rtol, atol=atol, err_msg=name)


def both(**options):
    return make(**options), make("cpu", **options)


# ---- the same training ------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_fit_agrees_with_the_cpu(optimizer):
    device, host = both(optimizer=optimizer)
    ours, expected = fit(device), fit(host)
    for name in ("loss", "lr", "grad_norm"):
        assert_allclose(ours.updates[name], expected.updates[name], rtol=1e-3)
    assert ours.epochs["accuracy"] == expected.epochs["accuracy"]
    assert_alike(device, host)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (fnn.CrossEntropy(np.linspace(1, 2, CLASSES).astype(np.float32), 0.1), "labels"),
        (fnn.BinaryCrossEntropy(), "yes or no"),
        (fnn.MSE(), "numbers"),
        (fnn.MAE(reduction="sum"), "numbers"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, fnn.losses.Loss) else value,
)
def test_every_loss(loss, target):
    numbers = X[:, :3] + X[:, 3:6]
    y = {"labels": Y, "numbers": numbers, "yes or no": (numbers > 0).astype(np.float32)}[target]
    outputs = CLASSES if target == "labels" else 3
    weight = np.linspace(0.5, 1.5, len(X), dtype=np.float32)
    device, host = (make(at, network(outputs), loss=loss) for at in ("cuda", "cpu"))
    fit(device, y=y, sample_weight=weight)
    fit(host, y=y, sample_weight=weight)
    assert_alike(device, host)
    ours, expected = (t.evaluate(X, y, batch_size=40) for t in (device, host))
    assert ours == pytest.approx(expected, rel=1e-4)


def test_float64_agrees_closely():
    device, host = both(precision="float64")
    x = X.astype(np.float64)
    losses = fit(device, x).updates["loss"], fit(host, x).updates["loss"]
    assert_allclose(*losses, rtol=1e-12)
    assert_alike(device, host, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("precision", "rtol"), [("tf32", 5e-3), ("bf16", 5e-2)])
def test_coarser_products(precision, rtol):
    device, host = (
        make(model=network(hidden=40), precision=precision),
        make("cpu", network(hidden=40)),
    )
    losses = [fit(made, batch_size=40).updates["loss"] for made in (device, host)]
    assert_allclose(*losses, rtol=rtol)
    assert not np.array_equal(*losses)


def test_uint8_images():
    images = np.random.default_rng(0).integers(0, 256, (61, 4, 5), dtype=np.uint8)
    made = [
        make(at, fnn.Sequential(fnn.Rescaling(1 / 255), fnn.Flatten(), *network().layers))
        for at in ("cuda", "cpu")
    ]
    for t in made:
        fit(t, images)
    assert_alike(*made)
    assert_allclose(made[0].predict(images), made[1].predict(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_fused_calls(precision):
    """A rescale behind another layer, relu's gradient and column sums go along with products."""
    images = np.random.default_rng(0).integers(0, 256, (20, 130), dtype=np.uint8)
    widths = (130, 136, 132, CLASSES)
    made = []
    for at in ("cuda", "cpu"):
        layers = [fnn.Flatten(), fnn.Rescaling(1 / 255, -0.5)]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [fnn.Linear(inputs, outputs), fnn.ReLU()]
        made.append(make(at, fnn.Sequential(*layers[:-1]), precision=precision))
        fit(made[-1], images, Y[:20], batch_size=10)
    assert_alike(*made, rtol=1e-2)


def test_single_steps():
    device, host = both()
    for rows in (slice(0, 9), slice(9, 18), slice(3, 61)):
        expected = host.step(X[rows], Y[rows])
        assert device.step(X[rows], Y[rows]) == pytest.approx(expected, rel=1e-4)
    assert_allclose(
        device.steps(X, Y, batch_size=20, n=7), host.steps(X, Y, batch_size=20, n=7), rtol=1e-3
    )
    assert_alike(device, host)


def test_loss_and_gradient_change_nothing():
    device, host = both()
    fit(device)
    fit(host)
    before = fingerprint(device)
    loss, gradients = device.loss_and_grad(X[:20], Y[:20])
    expected, exact = host.loss_and_grad(X[:20], Y[:20])
    assert loss == pytest.approx(expected, rel=1e-3)
    for name, gradient in gradients.items():
        assert_allclose(gradient, exact[name], rtol=1e-2, atol=1e-3)
    assert fingerprint(device) == before


def test_the_order_of_the_samples_is_the_cpus():
    """With no learning, the losses of single samples tell which was taken."""
    options = {"optimizer": fnn.SGD(lr=0.0), "model": fnn.Sequential(fnn.Linear(FEATURES, CLASSES))}
    for shuffle in (True, False):
        losses = [
            fit(make(at, **options), batch_size=1, shuffle=shuffle).updates["loss"]
            for at in ("cuda", "cpu")
        ]
        assert_allclose(*losses, rtol=1e-6)


def test_dropout_has_the_cpus_bits():
    model = fnn.Sequential(fnn.Dropout(0.5), fnn.Linear(FEATURES, 1, bias=False))
    ones = np.ones((4, FEATURES), np.float32)
    gradients = [
        make(at, model, loss=fnn.MAE(reduction="sum"), optimizer=fnn.SGD(lr=0.1)).loss_and_grad(
            ones, np.full((4, 1), 100, np.float32)
        )[1]["layers.1.weight"]
        for at in ("cuda", "cpu")
    ]
    assert_array_equal(*gradients)  # how many of the four were kept
    assert len(np.unique(gradients[0])) > 2


# ---- graphs ------------------------------------------------------------------------------------


def test_a_step_is_one_graph():
    made = make()
    fit(made, epochs=1, batch_size=20)  # 3 steps of 20 and one sample, which joins the last
    before = emulator.replays()
    fit(made, epochs=3, batch_size=20)
    assert emulator.replays() - before == 9


def test_a_profile_has_the_devices_time():
    made, usual = make(), make()
    (stage,) = made.profile(X, Y, batch_size=16, n=5)
    usual.steps(X, Y, batch_size=16, n=5)
    assert fingerprint(made) == fingerprint(usual)
    assert stage.name == "step as a graph"
    assert stage.flops > 2 * 3 * 16 * 16 * 16
    assert 0 < stage.seconds < 60


def test_runs_repeat_to_the_bit():
    prints = []
    for _ in range(2):
        made = make(clip_grad_norm=0.5)
        fit(made)
        prints.append(fingerprint(made))
    assert prints[0] == prints[1]


@pytest.mark.parametrize("check_finite", [False, True])
def test_clipping(check_finite):
    device, host = both(clip_grad_norm=0.3, check_finite=check_finite)
    assert_allclose(fit(device).updates["grad_norm"], fit(host).updates["grad_norm"], rtol=1e-3)
    assert_alike(device, host)


def test_a_gradient_that_is_not_finite_changes_nothing():
    made = make(check_finite=True)
    fit(made)
    before = fingerprint(made)
    x = X.copy()
    x[30] = np.inf
    message = r"gradient of layers\.0\.weight is not finite at element 0 \(update 9\)"
    with pytest.raises(FloatingPointError, match=message):
        made.step(x, Y)
    assert fingerprint(made) == before
    made.step(X, Y)
    assert made.updates == 9


# ---- the model on the host ----------------------------------------------------------------------


def test_weights_are_read_and_assigned():
    device, host = both(optimizer=fnn.SGD(lr=0.1))
    for made in (device, host):
        fit(made)
        weight = made.model[4].weight
        made.model[4].weight = weight * 0.5
        assert_array_equal(dict(made.model.named_parameters())["layers.4.weight"], weight * 0.5)
        fit(made)
    assert_alike(device, host)
    assert_allclose(device.model.forward(X)[0], device.predict(X), rtol=1e-4, atol=1e-5)


def test_copies_of_a_model_are_up_to_date():
    made = make()
    fit(made)
    copied = copy.deepcopy(made.model)
    assert copied[4].settle is None
    weights = made.model.state_dict()
    fit(made)
    for name, value in copied.state_dict().items():
        assert_array_equal(value, weights[name])


def test_a_later_trainer_takes_the_model_over():
    model = network()
    first = make(model=model)
    fit(first)
    expected = model.state_dict()
    second = make("cpu", model)
    for name, value in model.state_dict().items():
        assert_array_equal(value, expected[name])
    fit(second)
    with pytest.raises(RuntimeError, match="arrays were replaced"):
        first.step(X, Y)


@pytest.mark.parametrize("route", [("cpu", "cuda", "cpu"), ("cuda", "cpu", "cuda")])
def test_checkpoints_move_between_devices(tmp_path, route):
    path = tmp_path / "model.safetensors"
    unbroken = make("cpu")
    made = make(route[0])
    for device in route[1:]:
        fit(made, epochs=1)
        made.save(path)
        before = fingerprint(made)
        made = fnn.Trainer.load(path, device=device)
        assert made.device == device
        assert fingerprint(made) == before
    fit(made, epochs=1)
    fit(unbroken, epochs=3)
    assert_alike(made, unbroken)


def test_early_stopping_goes_back_to_the_best():
    made = make(optimizer=fnn.SGD(lr=3.0))
    stopping = fnn.EarlyStopping(monitor="val_loss", patience=2, restore_best=True)
    history = fit(made, epochs=8, validation_data=(X, Y), early_stopping=stopping)
    best = min(history.epochs["val_loss"])
    assert made.evaluate(X, Y)["loss"] == pytest.approx(best, rel=1e-6)


def test_an_interruption_comes_between_updates():
    unbroken, made = make(), make()
    fit(unbroken, epochs=1, batch_size=2)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(made, epochs=1000, batch_size=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert made.updates > 0
    if made.epochs == 0:
        fit(made, epochs=1, batch_size=2)
        assert fingerprint(made) == fingerprint(unbroken)


def test_threads_evaluate_at_the_same_time():
    made = make()
    fit(made)
    expected, found = made.predict(X), []
    workers = [threading.Thread(target=lambda: found.append(made.predict(X))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 3
    for prediction in found:
        assert_array_equal(prediction, expected)


# ---- data ----------------------------------------------------------------------------------------


def test_data_may_lie_on_the_gpu():
    usual, made = make(), make()
    fit(usual, sample_weight=np.ones(len(X), np.float32))
    x = to_device(X)
    fit(made, x, to_device(Y), sample_weight=to_device(np.ones(len(X), np.float32)))
    assert fingerprint(made) == fingerprint(usual)
    assert made.evaluate(x, to_device(Y)) == usual.evaluate(X, Y)
    assert_array_equal(made.predict(x), usual.predict(X))


def test_strided_data_on_the_gpu():
    wide = to_device(np.repeat(X, 2, axis=1)[:, ::2])
    made, usual = make(), make()
    fit(made, wide, validation_split=0.25)
    fit(usual, validation_split=0.25)
    assert fingerprint(made) == fingerprint(usual)


def test_bad_arguments_are_refused_before_anything_changes():
    made = make()
    fit(made)
    before = fingerprint(made)
    bad = Y.copy()
    bad[7] = CLASSES
    for y in (bad, to_device(bad)):
        with pytest.raises(fnn.LabelError, match="label 5 at row 7"):
            fit(made, y=y)
    with pytest.raises(fnn.DTypeError, match="x must be float32 or uint8, got float64"):
        made.predict(to_device(X.astype(np.float64)))
    with pytest.raises(fnn.DeviceError, match="x is on cuda:1, the Trainer on cuda:0"):
        made.predict(to_device(X, 1))
    with pytest.raises(fnn.ShapeError, match="at least one row"):
        made.step(to_device(X[:0]), Y[:0])
    assert fingerprint(made) == before


def test_a_cpu_trainer_refuses_arrays_of_a_gpu():
    with pytest.raises(fnn.DeviceError, match="x is not in the CPU's memory"):
        make("cpu").predict(to_device(X))


def test_what_cannot_be_recorded_is_refused():
    with pytest.raises(TypeError, match="on a GPU every layer, the loss and the optimizer must"):
        make(model=Plain(fnn.Linear(FEATURES, CLASSES)))


# ---- the command line ----------------------------------------------------------------------------


def test_the_batch_size_curve(monkeypatch):
    monkeypatch.setattr(curve, "SIZES", (FEATURES, 8, 8, CLASSES))
    measured = list(
        curve.measure(
            X,
            Y,
            variant="batch-norm",
            batches=(1, 8, 61),
            peers=(),
            floor=None,
            effort=curve.Effort(update_seconds=0.01, epoch_seconds=60),
            device="cuda",
        )
    )
    assert [row.batch for (row,) in measured] == [8, 61]
    for rows in measured:
        assert rows[0].update > 0
        assert rows[0].epoch_samples
        assert np.isnan(rows[0].floor)
        assert "nan" not in table_line(rows, ())


def test_training_from_the_shell(tmp_path, capsys):
    saved = tmp_path / "digits.safetensors"
    common = ["train", "--dataset", "digits", "--epochs", "1", "--batch-size", "500"]
    common += ["--hidden", "8", "--out", str(tmp_path)]
    assert main([*common, "--device", "cuda", "--save", str(saved)]) == 0
    assert main([*common, "--resume", str(saved)]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert fnn.Trainer.load(saved, device="cuda").epochs == 1
    assert main(["curve", "--device", "cuda", "--peers", "torch", "--out", str(tmp_path)]) == 1
    assert "measure the CPU; see benchmarks/gpu.py" in capsys.readouterr().err


# ---- devices that won't do -----------------------------------------------------------------------


def test_out_of_memory_leaves_everything_usable():
    usual, made = make(), make()
    fit(usual)
    fit(usual)
    fit(made)
    before, used = fingerprint(made), emulator.used()
    for pages in range(40):
        emulator.set_limit(used + 4096 * pages)
        try:
            made.step(X, Y)  # a batch size of its own: a new graph
            break
        except fnn.OutOfMemoryError as error:
            assert "not enough memory on cuda:0" in str(error)
            emulator.set_limit(GIB)
            assert fingerprint(made) == before
        finally:
            emulator.set_limit(GIB)
    else:
        pytest.fail("never enough memory")
    assert pages > 3
    assert made.updates == 9


def test_no_memory_for_the_model():
    emulator.set_limit(emulator.used() + 4096)
    try:
        with pytest.raises(fnn.OutOfMemoryError, match="Trainer: not enough memory on cuda:0: "):
            make()
    finally:
        emulator.set_limit(GIB)


def test_a_failed_launch_is_told():
    made = make()
    fit(made)
    emulator.set_error(700)
    try:
        with pytest.raises(fnn.DeviceError, match="the CUDA context is lost; restart the process"):
            made.step(X, Y)
    finally:
        emulator.set_error(0)


def test_a_machine_without_a_driver():
    code = """
import device_array, fastnn, trainers
device_array.emulator.set_machine(0, 0, 90)
fastnn._core.use_cuda(device_array.emulator.capsule)
try:
    trainers.trainer(device="cuda")
except fastnn.DeviceError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == "Trainer: device 'cuda:0': there is no NVIDIA driver"


def test_the_second_gpu():
    made = make("cuda:1")
    fit(made)
    assert emulator.current_device() == 0
    usual = make()
    fit(usual)
    assert fingerprint(made) == fingerprint(usual)


# ---- scikit-learn's estimators ----------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_estimators_agree_with_the_cpu(solver, batch_norm):
    """Their penalty has another strength in the last batch, which is smaller."""
    estimators = pytest.importorskip("fastnn.sklearn")
    fitted = {}
    for device in ("cuda", "cpu"):
        estimator = estimators.MLPClassifier(
            *((16,), "tanh"),
            solver=solver,
            alpha=1.0,
            batch_size=16,
            max_iter=3,
            random_state=0,
            batch_norm=batch_norm,
            device=device,
        )
        with pytest.warns(estimators.ConvergenceWarning):
            estimator.fit(X, Y)
        if solver != "lbfgs":
            estimator = pickle.loads(pickle.dumps(estimator)).partial_fit(X, Y)
        fitted[device] = estimator
    assert_allclose(fitted["cuda"].loss_, fitted["cpu"].loss_, rtol=1e-3)
    assert_allclose(fitted["cuda"].predict_proba(X), fitted["cpu"].predict_proba(X), atol=1e-3)
    assert_allclose(fitted["cuda"].coefs_[0], fitted["cpu"].coefs_[0], rtol=1e-3, atol=1e-3)

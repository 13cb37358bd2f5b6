"""What benchmarks/cpu.py measures: jobs with their goals, each section a generator of rows."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from calls import (
    bound,
    call_of,
    check,
    copies,
    floor_seconds,
    flops,
    installed,
    kernel_call,
    moved,
    suitable,
)
from cases import GIVEN, case

import fastnn as fnn
from fastnn import curve, datasets
from fastnn.floor import Probe, measure_floor, take_turns

Samples = dict[str, list[float]]
Calls = Mapping[str, Callable[[], object]]

M = 1 << 20
SMALL = (20, 64, 64, 3)
SMALL_GOALS = {2: 8.0, 32: 8.0, 4096: 2.5}
TINY = (
    case("matmul", m=4, n=4, k=4),
    case("relu", n=(16,)),
    case("softmax_cross_entropy", n=4, c=4),
    case("adam_step", n=(16,)),
)
LOOP = 100  # tiny calls between two looks at the clock


class Goal(NamedTuple):
    """At least `value` of the unit, or at most."""

    value: float
    unit: str
    most: bool = False

    def __str__(self) -> str:
        return f"{'at most' if self.most else 'at least'} {self.value:g} {self.unit}"

    def met(self, measured: float) -> bool:
        """Whether a figure is good enough."""
        return measured <= self.value if self.most else measured >= self.value


@dataclass
class Row:
    """One job: seconds of every call by library, and the figure that its goal is about, if any."""

    name: str
    samples: Samples
    measured: float | None
    unit: str
    goal: Goal | None = None
    floor: float = 0.0  # seconds; 0 where it is not known
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a figure."""
        if self.goal is None or self.measured is None:
            return None
        return self.goal.met(self.measured)


@dataclass(frozen=True)
class Bench:
    """How to measure: the machine's rates, and whether at small sizes."""

    probe: Probe
    quick: bool = False

    def time(self, calls: Calls, seconds: float = 0.25) -> Samples:
        """Time the libraries in turns, so many seconds each."""
        if self.quick:
            return take_turns(calls, 0.003, 9, pause=0.0)
        return take_turns(calls, seconds, curve.MOST_UPDATES)


def against_peers(name: str, samples: Samples, goal: float | None, floor: float = 0.0) -> Row:
    """A row that tells how many times longer the best other library takes."""
    peers = [median(taken) for library, taken in samples.items() if library != "fastnn"]
    ratio = min(peers) / median(samples["fastnn"]) if peers else None
    unit = "x best peer"
    return Row(name, samples, ratio, unit, Goal(goal, unit) if goal else None, floor)


# ---- ops ----------------------------------------------------------------------------------------


class Op(NamedTuple):
    """Cases that are called one after the other, and the goal against the best peer."""

    cases: tuple[Any, ...]
    goal: float | None = None
    dtype: type = np.float32

    def __str__(self) -> str:
        names, lengths = " + ".join(each.op for each in self.cases), dict(self.cases[0].dims)
        order = ("m", "k", "n") if "m" in lengths else tuple(lengths)
        shape = "x".join(str(n) for name in order for n in np.atleast_1d(lengths[name]) if n)
        options = dict(self.cases[0].options)
        flipped = "".join(f" {name}.T" for name in "ab" if options.get(f"transpose_{name}"))
        wide = "" if self.dtype is np.float32 else ", float64"
        return f"{names} {shape}{flipped}{wide}"


def product(m: int, k: int, n: int, goal: float | None = None, **options: Any) -> Op:
    """A matmul of m x k by k x n."""
    return Op((case("matmul", m=m, n=n, k=k, **options),), goal)


def step_products(batches: Sequence[int]) -> list[Op]:
    """y, dW and dX of every layer of the network, as a step computes them."""
    goals = {(1, 784, 512): 1.0, (1000, 512, 10): 2.0}
    found = []
    for batch in batches:
        for inputs, outputs in ((784, 512), (512, 512), (512, 10)):
            goal = goals.get((batch, inputs, outputs))
            found.append(product(batch, inputs, outputs, goal))
            found.append(product(inputs, batch, outputs, transpose_a=True))
            if inputs != 784:  # nobody asks for the gradient of the samples
                found.append(product(batch, outputs, inputs, transpose_b=True))
    return found


def transposes(n: int) -> list[Op]:
    """All four ways to lay out two factors."""
    ways = ((False, False), (True, False), (False, True), (True, True))
    return [product(n, n, n, transpose_a=a, transpose_b=b) for a, b in ways[1:]]


def batch_norms(n: int, goal: float | None = None, dtype: type = np.float32) -> Op:
    """Forward and backward."""
    given = dict.fromkeys(("gamma", "beta", "running_mean", "running_var"), GIVEN)
    forward = case("batch_norm", n=n, c=512, s=(), **given)
    return Op((forward, case("batch_norm_backward", n=n, c=512, s=(), gamma=GIVEN)), goal, dtype)


def single(op: str, goal: float | None = None, dtype: type = np.float32, **given: Any) -> Op:
    """One call of an op."""
    return Op((case(op, **given),), goal, dtype)


def all_ops() -> list[Op]:
    """The table of ops."""
    return [
        *(product(n, n, n, 1.0 if n == 1024 else None) for n in (64, 128, 256, 512, 1024, 2048)),
        product(4096, 4096, 4096),
        *step_products((1, 128, 1000)),
        *transposes(1024),
        *(product(n, n, n) for n in (127, 129)),
        product(1_000_003, 3, 3),
        product(10_000, 512, 10),
        single("softmax_cross_entropy", 20.0, n=60_000, c=10),
        single("softmax_cross_entropy", 2.0, n=4096, c=1000),
        single("softmax_cross_entropy", 8.0, n=1024, c=32_000),
        single("tanh", 15.0, n=(M,)),
        single("sigmoid", 3.0, n=(M,)),
        batch_norms(1000, 2.0),
        batch_norms(10_000, 2.0),
        single("rmsprop_step", 10.0, n=(16 * M,)),
        single("adam_step", 1.0, n=(16 * M,)),
        Op(product(1024, 1024, 1024).cases, dtype=np.float64),
        Op(product(1000, 512, 10).cases, dtype=np.float64),
        single("softmax_cross_entropy", dtype=np.float64, n=60_000, c=10),
        single("tanh", dtype=np.float64, n=(M,)),
        batch_norms(1000, dtype=np.float64),
        single("adam_step", dtype=np.float64, n=(4 * M,)),
    ]


def few_ops() -> list[Op]:
    """One of each kind, small."""
    return [
        product(64, 64, 64, 1.0),
        *step_products((1,)),
        *transposes(32),
        single("softmax_cross_entropy", n=64, c=10),
        single("tanh", n=(1000,)),
        batch_norms(16),
        single("rmsprop_step", n=(1000,)),
        single("adam_step", dtype=np.float64, n=(1000,)),
    ]


def ops(bench: Bench) -> Iterator[Row]:
    """Ops beside PyTorch, products beside NumPy, too; no job twice."""
    chosen = few_ops() if bench.quick else all_ops()
    for op in {str(each): each for each in chosen}.values():
        yield measure_op(bench, op)


def measure_op(bench: Bench, op: Op) -> Row:
    """Check and time an op."""
    arguments = [each.arguments(op.dtype) for each in op.cases]
    floor = 0.0
    for each, given in zip(op.cases, arguments, strict=True):
        check(each, given)
        floor += floor_seconds(bench.probe, flops(each), moved(each, given), op.dtype)
    calls = {
        library: in_order(
            [
                call_of(library, each.op, copies(given))
                for each, given in zip(op.cases, arguments, strict=True)
            ]
        )
        for library in suitable(op.cases[0])
    }
    return against_peers(str(op), bench.time(calls), op.goal, floor)


def in_order(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One call that makes all of them."""
    return calls[0] if len(calls) == 1 else lambda: [call() for call in calls]


# ---- networks -----------------------------------------------------------------------------------


def samples_of(n: int, features: int, classes: int, dtype: type = np.float32) -> tuple[Any, Any]:
    """Random samples and their classes."""
    rng = np.random.default_rng(0)
    return rng.random((n, features)).astype(dtype), rng.integers(0, classes, n)


def networks(bench: Bench) -> Iterator[Row]:
    """Steps of small networks, where a call's overhead counts."""
    floor = measure_floor(SMALL, bench.probe, 0.05)
    for batch in (32,) if bench.quick else (2, 32, 256, 4096):
        x, y = samples_of(batch, SMALL[0], SMALL[-1])
        _, steps = curve.make_steps(SMALL, True, x, y, installed("torch", "jax")[1:])
        taken = bench.time(steps, 1.0)
        name = f"step, 20-64-64-3 with batch norm, batch {batch}"
        yield against_peers(name, taken, SMALL_GOALS.get(batch), floor.seconds(batch))
    yield loss_and_grad(bench)
    for batch, goal in ((200, 20.0), (10_000, 350.0)):
        yield tiny_steps(bench, batch, goal)


def loss_and_grad(bench: Bench) -> Row:
    """24-8(tanh, dropout 0.2)-2 on 200 samples: the first figure of the SimpleChains.jl paper."""
    model = fnn.Sequential(fnn.Linear(24, 8), fnn.Tanh(), fnn.Dropout(0.2), fnn.Linear(8, 2))
    adam, precision = fnn.Adam(lr=1e-3), "float64"
    trainer = fnn.Trainer(model, loss=fnn.CrossEntropy(), optimizer=adam, precision=precision)
    x, y = samples_of(200, 24, 2, np.float64)
    require_close(trainer.loss_and_grad(x, y)[0], trainer.evaluate(x, y)["loss"], 0.2)  # dropout
    return within(
        "loss and gradient, 24-8-2, float64", bench, lambda: trainer.loss_and_grad(x, y), 6
    )


def tiny_steps(bench: Bench, batch: int, goal: float) -> Row:
    """4-32-16-4, tanh, squared loss, Adam: ten updates in a native call, told for one."""
    layers = [fnn.Linear(4, 32), fnn.Tanh(), fnn.Linear(32, 16), fnn.Tanh(), fnn.Linear(16, 4)]
    adam = fnn.Adam(lr=1e-3)
    trainer = fnn.Trainer(fnn.Sequential(*layers), loss=fnn.MSE(), optimizer=adam)
    x = samples_of(batch, 4, 1)[0]
    target = x**2
    before = trainer.evaluate(x, target)["loss"]
    steps = partial(trainer.steps, x, target, batch_size=batch, n=10)
    require_close(steps()[0], before, 1e-5)
    return within(f"step of ten, 4-32-16-4, batch {batch}", bench, steps, goal, of=10)


def within(name: str, bench: Bench, call: Callable[[], object], goal: float, of: int = 1) -> Row:
    """A row that tells microseconds; the call does the job `of` times."""
    taken = {"fastnn": [seconds / of for seconds in bench.time({"": call})[""]]}
    return Row(name, taken, median(taken["fastnn"]) * 1e6, "us", Goal(goal, "us", most=True))


def require_close(found: float, expected: float, relative: float) -> None:
    """Refuse to time what computes something else."""
    np.testing.assert_allclose(found, expected, relative)


# ---- calls, precision, company, memory ----------------------------------------------------------


def calls(bench: Bench) -> Iterator[Row]:
    """What a call on tiny arrays costs over its kernel."""
    for each in TINY:
        given = each.arguments(np.float32)
        check(each, given)
        looped: dict[str, Callable[[], object]] = {
            library: loop(call_of(library, each.op, copies(given)))
            for library in suitable(each)[1:]
        }
        function = getattr(fnn.ops, each.op)
        looped["fastnn"] = loop(bound(function, each.op, copies(given)))
        looped["kernel"] = kernel_call(each.op, copies(given), LOOP)
        taken = {
            library: [seconds / LOOP for seconds in many]
            for library, many in bench.time(looped).items()
        }
        over = (median(taken["fastnn"]) - median(taken["kernel"])) * 1e6
        unit = "us over its kernel"
        yield Row(str(Op((each,))), taken, over, unit, Goal(1.5, unit, most=True))


def loop(call: Callable[[], object]) -> Callable[[], object]:
    """The call, made LOOP times."""

    def many() -> None:
        for _ in range(LOOP):
            call()

    return many


def bf16(bench: Bench) -> Iterator[Row]:
    """A step whose products take bfloat16, beside the same in float32."""
    for batch in (64,) if bench.quick else (1000, 10_000):
        x, y = samples_of(batch, curve.SIZES[0], curve.SIZES[-1])
        steps = {
            name: partial(precise_trainer(precision).step, x, y)
            for name, precision in (("fastnn", "bf16"), ("float32", "float32"))
        }
        require_close(steps["fastnn"](), steps["float32"](), 0.02)
        taken = bench.time(steps, 1.0)
        ratio = median(taken["float32"]) / median(taken["fastnn"])
        goal = Goal(1.7, "x float32") if fnn._core.has_bf16() else None
        yield Row(f"step in bf16, batch {batch}", taken, ratio, "x float32", goal)


def precise_trainer(precision: str) -> fnn.Trainer:
    """The network of the curve."""
    model, adam = curve.network(curve.SIZES, False), fnn.Adam(lr=curve.LR)
    return fnn.Trainer(model, loss=fnn.CrossEntropy(), optimizer=adam, precision=precision)


def busy(bench: Bench) -> Iterator[Row]:
    """A step while another process keeps each core busy, as a multiple of its idle time."""
    batch = 16 if bench.quick else 128
    x, y = samples_of(batch, curve.SIZES[0], curve.SIZES[-1])
    _, steps = curve.make_steps(curve.SIZES, False, x, y, installed("torch")[1:])
    idle = bench.time(steps, 1.0)
    with busy_cores():
        beside = bench.time(steps, 1.0)
    for library in steps:
        taken = {library: beside[library], f"{library} idle": idle[library]}
        times = median(beside[library]) / median(idle[library])
        goal = Goal(3.0, "x idle", most=True) if library == "fastnn" else None
        yield Row(f"step of {library} on busy cores, batch {batch}", taken, times, "x idle", goal)


@contextmanager
def busy_cores() -> Iterator[None]:
    """One process on each CPU that this one may use, until the end or this one's own."""
    code = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10**6))"
    processes = []
    try:
        for cpu in os.sched_getaffinity(0):
            processes.append(subprocess.Popen([sys.executable, "-c", code]))
            os.sched_setaffinity(processes[-1].pid, {cpu})
        time.sleep(0.5)  # until they are past their start
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def epochs(bench: Bench) -> Iterator[Row]:
    """Epochs from uint8 images, shuffling and conversion included."""
    data = training_data(bench.quick)
    for batch in (128, 1000):
        model = curve.network(curve.SIZES, False, scale=1 / 255)
        trainer = fnn.Trainer(model, loss=fnn.CrossEntropy(), optimizer=fnn.Adam(lr=curve.LR))
        fit = partial(trainer.fit, data.x_train, data.y_train, batch_size=batch, progress=False)
        loops = {"fastnn": fit}
        if "torch" in installed("torch"):
            loops["torch"] = torch_epoch(data.x_train, data.y_train, batch)
        name = f"epoch of {len(data.x_train)} uint8 images, batch {batch}"
        yield against_peers(name, bench.time(loops, 1.0), 1.0)


def sklearn(bench: Bench) -> Iterator[Row]:
    """An epoch of scikit-learn's MLPClassifier and of fastnn's, which must be as accurate."""
    if "sklearn" not in installed("sklearn"):
        return
    from sklearn.exceptions import ConvergenceWarning  # not at the top: it is optional
    from sklearn.neural_network import MLPClassifier

    from fastnn.sklearn import MLPClassifier as Ours

    warnings.simplefilter("ignore", ConvergenceWarning)  # of a single epoch
    data = training_data(bench.quick)
    for dtype in (np.float32, np.float64):
        x, x_test = ((images / 255).astype(dtype) for images in (data.x_train, data.x_test))
        models = {"fastnn": Ours(random_state=0), "sklearn": MLPClassifier(random_state=0)}
        fits = {
            name: partial(model.set_params(max_iter=1).fit, x, data.y_train)
            for name, model in models.items()
        }
        taken = bench.time(fits, 1.0)
        accuracy = {name: model.score(x_test, data.y_test) for name, model in models.items()}
        require_close(accuracy["fastnn"], accuracy["sklearn"], 0.002)
        name = f"epoch of MLPClassifier, {len(x)} images, {np.dtype(dtype)}"
        row = against_peers(name, taken, 3.0)
        row.facts = {f"{name}_accuracy": value for name, value in accuracy.items()}
        yield row


def torch_epoch(images: Any, labels: Any, batch: int) -> Callable[[], object]:
    """The loop that one writes by hand: a permutation, and rows of the data by index."""
    import torch  # not at the top: it is optional

    torch.set_num_threads(fnn.get_num_threads())
    layers: list[Any] = []
    for inputs, outputs in pairwise(curve.SIZES):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    adam = torch.optim.Adam(model.parameters(), lr=curve.LR, fused=True)
    x, y = torch.tensor(images), torch.tensor(labels, dtype=torch.long)

    def epoch() -> None:
        for rows in torch.randperm(len(x)).split(batch):
            adam.zero_grad(set_to_none=True)
            pred = model(x[rows].to(torch.float32).mul_(1 / 255))
            torch.nn.functional.cross_entropy(pred, y[rows]).backward()
            adam.step()

    return epoch


def training_data(quick: bool) -> datasets.Dataset:
    """MNIST from the folder FASTNN_DATA, else generated samples of its shape."""
    folder = os.environ.get("FASTNN_DATA")
    if quick or not folder:
        return datasets.generated(2000 if quick else 60_000)
    return datasets.mnist(folder)


def memory(bench: Bench) -> Iterator[Row]:
    """By how much a process grows that trains an epoch, against what it cannot do without."""
    for batch in (128,) if bench.quick else (128, 1000, 10_000):
        grown, needed = in_new_process(f"training_memory({batch}, {bench.quick})")
        unit = f"x {needed / 1e6:.1f} MB of weights, moments and activations"
        goal, facts = Goal(1.3, unit, most=True), {"grown_bytes": grown, "needed_bytes": needed}
        name = f"memory of an epoch with batch norm, batch {batch}"
        yield Row(name, {}, grown / needed, unit, goal, facts=facts)


def in_new_process(call: str) -> list[int]:
    """The integers that a function of this file returns in a process of its own."""
    code = f"import cpu_sections; print(*cpu_sections.{call})"
    environment = os.environ | {"FASTNN_NUM_THREADS": str(fnn.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


def training_memory(batch: int, quick: bool) -> tuple[int, int]:
    """Bytes that an epoch adds to the process at most, and those of what it works on."""
    data = training_data(quick)
    train(data.x_train[:256], data.y_train[:256], 128, (784, 16, 10))  # code is no data
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status_bytes("VmRSS")
    model = train(data.x_train, data.y_train, batch, curve.SIZES)
    grown = status_bytes("VmHWM") - before
    weights = sum(array.size for _, array in model.named_parameters())
    inputs, *hidden, outputs = curve.SIZES
    activations = batch * (inputs + 2 * sum(hidden) + outputs)  # batch norm keeps its input
    return grown, 4 * (3 * weights + activations)


def train(x: Any, y: Any, batch: int, sizes: Sequence[int]) -> fnn.Sequential:
    """A network with batch norm after an epoch."""
    model, adam = curve.network(sizes, True, scale=1 / 255), fnn.Adam(lr=curve.LR)
    trainer = fnn.Trainer(model, loss=fnn.CrossEntropy(), optimizer=adam)
    trainer.fit(x, y, batch_size=batch, progress=False)
    return model


def status_bytes(name: str) -> int:
    """A size that the system tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


SECTIONS = {
    "ops": ops,
    "networks": networks,
    "calls": calls,
    "bf16": bf16,
    "busy": busy,
    "epochs": epochs,
    "sklearn": sklearn,
    "memory": memory,
}

"""What benchmarks/gpu.py measures: jobs with their goals, each section a generator of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from gpu_machine import Machine, Samples

import fastnn as fnn
from fastnn import curve, ops
from fastnn.floor import step_flops
from fastnn.peers import PEERS, Setup

PRECISIONS = {"float32": None, "tf32": "tf32", "bf16": "bf16"}
ROUNDING = {"float32": 1e-5, "tf32": 2e-3, "bf16": 1e-2}
LOSS_ROUNDING = {"float32": 1e-3, "tf32": 5e-3, "bf16": 3e-2}


@dataclass
class Row:
    """One job: every sample by library, FLOPs and bytes, and what is asked of fastnn.

    `solid` and `moonshot` are factors over the best other library's device time, or microseconds at
    most with ``unit="us"``, or shares of the copy bandwidth with ``unit="bandwidth"``.
    """

    name: str
    samples: Samples
    flops: int = 0
    moved: int = 0
    solid: float | None = None
    moonshot: float | None = None
    unit: str = "x best peer"
    facts: dict[str, Any] = field(default_factory=dict)

    def median(self, library: str = "fastnn", kind: str = "device") -> float:
        """Median seconds; those of wall time where a library has no device time."""
        taken = self.samples[library]
        return median(taken.get(kind) or taken["wall"])

    def measured(self, bandwidth: float) -> float | None:
        """The figure that the goals are about."""
        if self.unit == "us":
            return self.median() * 1e6
        if self.unit == "bandwidth":
            return self.moved / self.median() / bandwidth
        peers = [self.median(name) for name in self.samples if name != "fastnn"]
        return min(peers) / self.median() if peers else None

    def as_dict(self, bandwidth: float) -> dict[str, Any]:
        """The row for JSON, seconds."""
        measured = self.measured(bandwidth)
        met = None
        if measured is not None and self.solid is not None:
            met = measured <= self.solid if self.unit == "us" else measured >= self.solid
        return asdict(self) | {"measured": measured, "met": met}


Job = tuple[str, Callable[[], Row]]


@dataclass(frozen=True)
class Bench:
    """The machine, and sizes: a rehearsal's are small."""

    machine: Machine

    def size(self, n: int, small: int) -> int:
        """A length, or that of a rehearsal."""
        return small if self.machine.rehearse else n


def sizes(bench: Bench) -> tuple[int, ...]:
    """Widths of the network."""
    return (20, 12, 16, 4) if bench.machine.rehearse else curve.SIZES


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Random-normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# ---- products ------------------------------------------------------------------------------------


def products(bench: Bench) -> Iterator[Job]:
    """Square products, and those of the step: y, dW and dX."""
    for precision in PRECISIONS:
        for n in (bench.size(4096, 48), bench.size(8192, 64)):
            goal = {"float32": (0.95, 1.05), "tf32": (0.85, 1.0), "bf16": (0.95, 1.03)}[precision]
            yield product(bench, n, n, n, precision, goal=goal)
        for batch in (1, 1000, 60_000) if not bench.machine.rehearse else (4,):
            for inputs, outputs in pairwise(sizes(bench)):
                thin = (1.5, 2.5) if (batch, inputs) == (1, sizes(bench)[0]) else (1.0, 1.15)
                yield product(bench, batch, inputs, outputs, precision, goal=thin)
                yield product(bench, inputs, batch, outputs, precision, transpose_a=True)
                if inputs != sizes(bench)[0]:
                    yield product(bench, batch, outputs, inputs, precision, transpose_b=True)


def product(
    bench: Bench,
    m: int,
    k: int,
    n: int,
    precision: str,
    goal: tuple[float, float] = (1.0, 1.15),
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> Job:
    """fastnn rounds float32 arrays itself; PyTorch gets bfloat16 ones."""
    flip = "".join(f" {name}.T" for name, on in (("a", transpose_a), ("b", transpose_b)) if on)
    name = f"matmul {m}x{k}x{n}{flip}, {precision}"

    def run() -> Row:
        machine = bench.machine
        a = normal(*((k, m) if transpose_a else (m, k)))
        b = normal(*((n, k) if transpose_b else (k, n)), seed=1)
        ours = machine.ours(a), machine.ours(b)
        theirs = machine.factor(a, precision), machine.factor(b, precision)
        left = theirs[0].T if transpose_a else theirs[0]
        right = theirs[1].T if transpose_b else theirs[1]

        def call() -> Any:
            flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
            return ops.matmul(*ours, precision=PRECISIONS[precision], **flags)

        with machine.products(precision):
            check(machine, call(), left @ right, ROUNDING[precision] * np.sqrt(k))
            samples = machine.time({"fastnn": call, "torch": lambda: left @ right})
        moved = 4 * (m * k + k * n + m * n)
        return Row(name, samples, 2 * m * k * n, moved, *goal)

    return name, run


def check(machine: Machine, ours: Any, theirs: Any, rounding: float) -> None:
    """Refuse to time what is not the same."""
    expected = machine.host(theirs)
    np.testing.assert_allclose(
        machine.host(ours), expected, rounding, 4 * rounding * (np.abs(expected).max() / 4 + 1)
    )


# ---- other kernels -------------------------------------------------------------------------------


def kernels(bench: Bench) -> Iterator[Job]:
    """Cross-entropy, batch norm and Adam, at the sizes of the goals."""
    yield cross_entropy(bench, bench.size(60_000, 64), 10, (1.5, None), "x best peer")
    yield cross_entropy(
        bench, bench.size(32_768, 8), bench.size(32_768, 64), (0.85, 0.95), "bandwidth"
    )
    yield from batch_norm(bench, bench.size(60_000, 64), bench.size(512, 32))
    weights = sum((inputs + 1) * outputs for inputs, outputs in pairwise(curve.SIZES))
    yield adam(bench, bench.size(weights, 1000), (2.0, None), "x best peer")
    yield adam(bench, bench.size(1 << 30, 2000), (0.90, 0.95), "bandwidth")


def cross_entropy(bench: Bench, n: int, c: int, goal: tuple[Any, Any], unit: str) -> Job:
    """Loss and gradient of the scores in one call."""
    name = f"softmax_cross_entropy {n}x{c}"

    def run() -> Row:
        machine, torch = bench.machine, bench.machine.torch
        logits, labels = normal(n, c), np.arange(n) % c
        ours = machine.ours(logits), machine.ours(labels)
        scores, targets = machine.theirs(logits).requires_grad_(), machine.theirs(labels)

        def gradient(scores: Any, targets: Any) -> Any:
            loss = torch.nn.functional.cross_entropy(scores, targets)
            return torch.autograd.grad(loss, scores)[0]

        forward = machine.compiled(torch.nn.functional.cross_entropy)

        def compiled() -> Any:
            return torch.autograd.grad(forward(scores, targets), scores)[0]

        def call() -> Any:
            return ops.softmax_cross_entropy(*ours)

        if n * c < 1 << 26:
            check(machine, call()[1], gradient(scores, targets), 1e-4)
        calls = {"fastnn": call, "torch": lambda: gradient(scores, targets)}
        if unit == "x best peer":
            calls["torch-compile"] = compiled
        return Row(name, machine.time(calls), 0, 8 * n * c + 8 * n, *goal, unit)

    return name, run


def batch_norm(bench: Bench, n: int, c: int) -> Iterator[Job]:
    """Forward with running statistics, and backward."""
    names = f"batch_norm {n}x{c}", f"batch_norm_backward {n}x{c}"
    machine, torch = bench.machine, bench.machine.torch

    def arrays(make: Callable[[np.ndarray], Any]) -> list[Any]:
        ones, zeros = np.ones(c, np.float32), np.zeros(c, np.float32)
        return [make(array) for array in (normal(n, c), ones, zeros, zeros, ones)]

    def forward() -> Row:
        x, gamma, beta, mean, var = arrays(machine.ours)
        tx, tgamma, tbeta, tmean, tvar = arrays(machine.theirs)

        def eager(x: Any) -> Any:
            return torch.nn.functional.batch_norm(x, tmean, tvar, tgamma, tbeta, training=True)

        compiled = machine.compiled(eager)
        calls = {
            "fastnn": lambda: ops.batch_norm(x, gamma, beta, mean, var),
            "torch": lambda: eager(tx),
            "torch-compile": lambda: compiled(tx),
        }
        check(machine, calls["fastnn"]()[0], eager(tx), 1e-4)
        return Row(names[0], machine.time(calls), 0, 8 * n * c, 1.1, 1.4)

    def backward() -> Row:
        x, gamma, beta, mean, var = arrays(machine.ours)
        dy = machine.ours(normal(n, c, seed=1))
        _, mean, rstd = ops.batch_norm(x, gamma, beta, mean, var)
        tx, tgamma, tbeta, tmean, tvar = arrays(machine.theirs)
        tdy, leaf = machine.theirs(normal(n, c, seed=1)), tx.requires_grad_()
        y = torch.nn.functional.batch_norm(leaf, tmean, tvar, tgamma, tbeta, training=True)

        def theirs() -> Any:
            return torch.autograd.grad(y, leaf, tdy, retain_graph=True)[0]

        def call() -> Any:
            return ops.batch_norm_backward(dy, x, gamma, mean, rstd)

        check(machine, call()[0], theirs(), 1e-3)
        # PyTorch goes back on the stream it came on: no graph can be made of that alone.
        samples = machine.time({"fastnn": call, "torch": theirs}, graphs=False)
        return Row(names[1], samples, 0, 12 * n * c, 1.2, 1.6)

    yield names[0], forward
    yield names[1], backward


def adam(bench: Bench, n: int, goal: tuple[Any, Any], unit: str) -> Job:
    """One update of so many weights, beside PyTorch's fused Adam."""
    name = f"adam_step {n}"

    def run() -> Row:
        machine, torch = bench.machine, bench.machine.torch
        value = normal(min(n, 1 << 20))
        value = np.resize(value, n)
        zeros = np.zeros(n, np.float32)
        p, g, m, v = (machine.ours(array) for array in (value, value, zeros, zeros))
        param = torch.nn.Parameter(machine.theirs(value))
        param.grad = machine.theirs(value)
        del value, zeros
        optimizer = torch.optim.Adam([param], fused=True, capturable=not machine.rehearse)
        step, lr = (machine.ours(np.full((), x)) for x in (1.0, 1e-3))

        def call() -> None:
            ops.adam_step(p, g, m, v, step=step, lr=lr)

        call()
        optimizer.step()
        if n < 1 << 24:
            check(machine, p, param, 1e-5)
        samples = machine.time({"fastnn": call, "torch": optimizer.step})
        return Row(name, samples, 0, 28 * n, *goal, unit)

    return name, run


# ---- steps ---------------------------------------------------------------------------------------


def steps(bench: Bench) -> Iterator[Job]:
    """The batch-size curve: one update of the network, plain and with batch norm."""
    batches = [2, 8] if bench.machine.rehearse else [1, 2, 8, 32, 128, 256, 1000, 10_000, 60_000]
    compiled = batches[:1] if bench.machine.rehearse else [128, 1000, 60_000]
    for batch in batches:
        for variant, batch_norm in curve.VARIANTS.items():
            if batch > 1 or not batch_norm:
                for precision in PRECISIONS if batch in (*compiled, 1) else ("tf32",):
                    slow = batch in compiled and precision == "tf32"  # to compile
                    peers = ["torch", *["torch-compile"] * slow]
                    peers += ["jax"] * bench.machine.has_jax
                    yield step(bench, batch, variant, batch_norm, precision, peers)


def step(
    bench: Bench, batch: int, variant: str, batch_norm: bool, precision: str, peers: list[str]
) -> Job:
    """One update, data on the device: fastnn's steps are queued by a hundred.

    Other libraries make their products in the same precision. JAX has wall time alone, for its
    stream is not PyTorch's.
    """
    name = f"step {variant}, batch {batch}, {precision}"

    def run() -> Row:
        machine = bench.machine
        widths = sizes(bench)
        x, y = normal(batch, widths[0]), np.arange(batch) % widths[-1]
        model = curve.network(widths, batch_norm)
        trainer = fnn.Trainer(
            model,
            loss=fnn.CrossEntropy(),
            optimizer=fnn.Adam(lr=curve.LR),
            device="cuda",
            precision=precision,
        )
        setup = Setup(
            curve.linear_weights(model),
            batch_norm,
            x,
            y,
            curve.LR,
            fnn.get_num_threads(),
            machine.device,
            machine.compiler,
        )
        count = 2 if machine.rehearse else 100
        first = float(trainer.steps(x, y, batch_size=batch, n=1)[0])
        samples: Samples = {"fastnn": {"device": [], "wall": [], "single": []}}
        with machine.products(precision):
            for library in peers:
                update = in_precision(machine, library, PEERS[library].update(setup), precision)
                np.testing.assert_allclose(float(update()), first, LOSS_ROUNDING[precision])
                samples |= machine.time({library: update}, graphs=False)
        for _ in range(1 if machine.rehearse else 5):
            samples["fastnn"]["device"].append(
                trainer.profile(x, y, batch_size=batch, n=count)[0].seconds
            )
            samples["fastnn"]["wall"].append(
                machine.wall(lambda: trainer.steps(x, y, batch_size=batch, n=count), 1) / count
            )
            samples["fastnn"]["single"].append(machine.wall(lambda: trainer.step(x, y), 1))
        if "jax" in samples:
            samples["jax"] = {"wall": samples["jax"]["wall"]}
        facts = {"variant": variant, "batch": batch, "precision": precision}
        return Row(name, samples, batch * step_flops(widths), 0, *step_goal(batch), facts=facts)

    return name, run


def in_precision(
    machine: Machine, library: str, update: Callable[[], Any], precision: str
) -> Callable[[], Any]:
    """The update with its products in that precision; PyTorch's tf32 is set for all of the job."""
    if library == "jax":
        words = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}
        make = partial(import_module("jax").default_matmul_precision, words[precision])
    elif precision == "bf16":
        make = partial(machine.torch.autocast, machine.device, machine.torch.bfloat16)
    else:
        return update

    def within() -> Any:
        with make():
            return update()

    return within


def step_goal(batch: int) -> tuple[float | None, float | None, str]:
    """Microseconds on an H200: solid, moonshot."""
    goals = {1000: (25.0, 15.0), 60_000: (450.0, 330.0)}
    return (*(goals.get(batch, (12.0, 6.0) if batch <= 128 else (None, None))), "us")


SECTIONS = {"products": products, "kernels": kernels, "steps": steps}

"""What this machine can do, and so the least time that one training step can take.

The floor of a step is its FLOPs at the FMA peak, plus a plain Adam loop over the network's weights,
plus one read of the weights. Peak and bandwidths come from two probe ops that run in the same
process with the same threads as the timings they are compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from fastnn import ops

__all__ = [
    "Floor",
    "Probe",
    "adam_loop",
    "measure_floor",
    "measure_probe",
    "step_flops",
    "take_turns",
    "time_calls",
]

_CHAINS = 172_032  # a multiple of every level's block, and of many thread counts
_ROUNDS = 1000
_ROW = 8192  # floats: 32 KiB a task
_CACHE_BYTES = 8 << 20  # about a small network with its optimizer's state: beyond L2
_MEMORY_BYTES = 256 << 20  # beyond most caches
_TURNS = 3  # blocks of calls that each library gets, in rotating order
_PAUSE = 0.1  # seconds until another library's threads have stopped spinning


@dataclass(frozen=True)
class Probe:
    """Rates of the whole machine with the threads in use, float32, best of many runs.

    Attributes
    ----------
    peak_gflops : float
        Independent fused multiply-adds in registers, two operations each.
    cache_gbs, memory_gbs : float
        Reading 8 MiB that are warm in cache, and 256 MiB.
    """

    peak_gflops: float
    cache_gbs: float
    memory_gbs: float


@dataclass(frozen=True)
class Floor:
    """The least time of one update of a dense network trained with Adam.

    Attributes
    ----------
    flops_per_sample : int
        Multiplications and additions of the matrix products.
    peak_gflops : float
        The machine's, from `measure_probe`.
    adam_seconds : float
        Median of `adam_loop`.
    read_seconds : float
        One read of the weights from cache.
    """

    flops_per_sample: int
    peak_gflops: float
    adam_seconds: float
    read_seconds: float

    def seconds(self, batch: int, adam_seconds: float | None = None) -> float:
        """Return the floor of an update with ``batch`` samples, with Adam as timed beside it."""
        products = batch * self.flops_per_sample / (self.peak_gflops * 1e9)
        adam = self.adam_seconds if adam_seconds is None else adam_seconds
        return products + adam + self.read_seconds


def time_calls(call: Callable[[], object], budget: float, most: int = 200) -> list[float]:
    """Call until ``budget`` seconds are spent, at least once; return the seconds of each call."""
    samples: list[float] = []
    end = time.perf_counter() + budget
    while not samples or (len(samples) < most and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return samples


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    budget: float,
    most: int = 200,
    pause: float = _PAUSE,
) -> dict[str, list[float]]:
    """Time calls of several libraries in turns, ``budget`` seconds each; the seconds of each call.

    Each turn starts with a pause of so many seconds, for other libraries' threads spin for a while
    after a call, and with a call that is not timed. The order rotates.
    """
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(_TURNS):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if len(names) > 1:
                time.sleep(pause)
            calls[name]()  # untimed: caches and threads are this library's again
            samples[name] += time_calls(calls[name], budget / _TURNS, most // _TURNS)
    return samples


def measure_probe(budget: float = 0.3) -> Probe:
    """Measure peak and bandwidths, ``budget`` seconds each."""
    chains = np.ones(_CHAINS, np.float32)
    ends = np.empty_like(chains)
    peak = _best(lambda: ops.probe_fma(chains, _ROUNDS, out=ends), budget)
    return Probe(
        peak_gflops=2e-9 * _CHAINS * _ROUNDS / peak,
        cache_gbs=_read_gbs(_CACHE_BYTES, budget),
        memory_gbs=_read_gbs(_MEMORY_BYTES, budget),
    )


def adam_loop(sizes: Sequence[int]) -> Callable[[], object]:
    """Return a plain Adam step over arrays of the size of the dense network ``sizes``."""
    param, grad, exp_avg, exp_avg_sq = np.full((4, _weights(sizes)), 0.01, np.float32)
    return lambda: ops.adam_step(param, grad, exp_avg, exp_avg_sq, step=10, lr=1e-3)


def measure_floor(sizes: Sequence[int], probe: Probe, budget: float = 0.3) -> Floor:
    """Measure the floor of the dense network ``sizes``, for example ``(784, 512, 512, 10)``."""
    adam = adam_loop(sizes)
    adam()
    return Floor(
        flops_per_sample=step_flops(sizes),
        peak_gflops=probe.peak_gflops,
        adam_seconds=median(time_calls(adam, budget, 1000)),
        read_seconds=4 * _weights(sizes) / (probe.cache_gbs * 1e9),
    )


def step_flops(sizes: Sequence[int]) -> int:
    """Count a sample's operations: y and dW of every layer, dx of all but the first."""
    products = [inputs * outputs for inputs, outputs in pairwise(sizes)]
    return 2 * (3 * sum(products) - products[0])


def _weights(sizes: Sequence[int]) -> int:
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))


def _read_gbs(size: int, budget: float) -> float:
    x = np.ones((size // (4 * _ROW), _ROW), np.float32)
    sums = np.empty(len(x), np.float32)
    return 1e-9 * size / _best(lambda: ops.probe_read(x, out=sums), budget)


def _best(call: Callable[[], object], budget: float) -> float:
    call()
    return min(time_calls(call, budget, 1000))

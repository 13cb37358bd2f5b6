"""A GPU and how time is taken on it; or, to rehearse, an emulated one with other libraries on the
CPU. Both run the same code but for events and the arrays' memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fastnn as fnn

TESTS = Path(__file__).parents[1] / "tests"
Call = Callable[[], object]
Samples = dict[str, dict[str, list[float]]]  # library -> "device", "cold" or "wall" -> seconds


class HostEvent:
    """Takes the place of a CUDA event while rehearsing."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: HostEvent) -> float:
        return (end.at - self.at) * 1e3


class Machine:
    """Arrays, peers' tensors and timings.

    Parameters
    ----------
    rehearse : bool
        On the emulator, which FASTNN_SIMT_BUILD_DIR names a folder for.
    """

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.torch: Any = import_module("torch")
        self.device = "cpu" if rehearse else "cuda"
        if rehearse:
            sys.path.append(str(TESTS))
            os.environ["FASTNN_SIMT_BUILD_DIR"]  # a KeyError here says what is missing
            self.torch.set_num_threads(1)
            self._emulated: Any = import_module("device_array")
            fnn._core.use_cuda(self._emulated.emulator.capsule)
        cuda = (fnn.show_config("dicts") or {})["cuda"]
        if not cuda["available"]:
            raise fnn.DeviceError(f"no GPU to measure: {cuda['why_not']}")
        self.facts = {
            "gpu": cuda["devices"][0],
            "driver": _driver() or f"CUDA {cuda['driver']}",
            "cuda": {name: cuda[name] for name in ("driver", "toolkit", "architectures")},
            "rehearsal": rehearse,
        }
        self._flushed = self.torch.empty(1 << (12 if rehearse else 28), device=self.device)
        self._rounds, self._turns = (1, 1) if rehearse else (10, 9)

    @property
    def has_jax(self) -> bool:
        """Whether JAX is installed for this device."""
        if find_spec("jax") is None:
            return False
        return self.rehearse or import_module("jax").default_backend() == "gpu"

    def ours(self, array: np.ndarray) -> Any:
        """An array for fastnn's ops, on the GPU."""
        if self.rehearse:
            return self._emulated.to_device(np.ascontiguousarray(array))
        return self.torch.tensor(array, device=self.device)

    def theirs(self, array: np.ndarray) -> Any:
        """A tensor for PyTorch."""
        return self.torch.tensor(array, device=self.device)

    def host(self, array: Any) -> np.ndarray:
        """A result as a NumPy array."""
        if self.rehearse and not isinstance(array, self.torch.Tensor):
            return np.asarray(self._emulated.to_host(array))
        return np.asarray(array.detach().float().cpu().numpy())

    def synchronize(self) -> None:
        """Wait for everything."""
        if not self.rehearse:
            self.torch.cuda.synchronize()

    def flush(self) -> None:
        """Put other data in the place of all that L2 holds."""
        self._flushed.fill_(1.0)

    def compiled(self, function: Any) -> Any:
        """What torch.compile makes of it; a rehearsal compiles nothing."""
        return self.torch.compile(function, dynamic=False, **self.compiler)

    @property
    def compiler(self) -> dict[str, Any]:
        """Arguments of torch.compile."""
        return {"backend": "eager"} if self.rehearse else {"mode": "max-autotune"}

    # ---- timings --------------------------------------------------------------------------------

    def seconds(self, call: Call, times: int) -> float:
        """Device time of one of so many calls."""
        make = HostEvent if self.rehearse else lambda: self.torch.cuda.Event(enable_timing=True)
        begin, end = make(), make()
        begin.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3 / times

    def wall(self, call: Call, times: int) -> float:
        """Wall time of one of so many calls, the last one waited for."""
        self.synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            call()
        self.synchronize()
        return (time.perf_counter() - begin) / times

    def captured(self, call: Call) -> Call:
        """Some calls as a graph, so that nothing of Python lies between them on the device."""
        if self.rehearse:
            return lambda: [call() for _ in range(self._rounds)]
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            for _ in range(self._rounds):
                call()
        return graph.replay  # type: ignore[no-any-return]

    def time(self, calls: Mapping[str, Call], graphs: bool = True) -> Samples:
        """Time libraries in turns: warm and cold device time, and wall time.

        Without `graphs` the warm device time is that of plain calls: for code that has graphs of
        its own.
        """
        samples: Samples = {name: {"device": [], "cold": [], "wall": []} for name in calls}
        names = list(calls)
        for call in calls.values():
            self.wall(call, 3)
        several = {
            name: self.captured(call) if graphs and name != "torch-compile" else None
            for name, call in calls.items()
        }
        for turn in range(self._turns):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                self.wall(calls[name], 1)
                graph = several[name]
                seconds = (
                    self.seconds(graph, 1) / self._rounds
                    if graph
                    else self.seconds(calls[name], self._rounds)
                )
                samples[name]["device"].append(seconds)
                samples[name]["wall"].append(self.wall(calls[name], self._rounds))
                self.flush()
                samples[name]["cold"].append(self.seconds(calls[name], 1))
        return samples

    # ---- what it can do -------------------------------------------------------------------------

    def copy_rate(self) -> float:
        """Bytes read and written by a copy in device memory, a second."""
        x = self.torch.ones(1 << (16 if self.rehearse else 29), device=self.device)
        y = self.torch.empty_like(x)
        taken = self.time({"copy": lambda: y.copy_(x)})["copy"]["device"]
        return float(2 * x.nbytes / median(taken))

    def matrix_rate(self, precision: str) -> float:
        """FLOPs a second of a large product by PyTorch."""
        n = 64 if self.rehearse else 8192
        a, b = (self.factor(np.ones((n, n), np.float32), precision) for _ in range(2))
        a.normal_()
        b.normal_()
        with self.products(precision):
            taken = self.time({"product": lambda: a @ b})["product"]["device"]
        return float(2 * n**3 / median(taken))

    def factor(self, array: np.ndarray, precision: str) -> Any:
        """A tensor for a product of PyTorch in that precision."""
        tensor = self.theirs(array)
        return tensor.bfloat16() if precision == "bf16" else tensor

    def products(self, precision: str) -> Any:
        """PyTorch's products of float32 are in tf32 inside, or are not."""
        return _Tf32(self.torch, precision == "tf32")


def _driver() -> str | None:
    """What the kernel's module says of itself."""
    file = Path("/proc/driver/nvidia/version")
    return file.read_text("utf-8").splitlines()[0].strip() if file.is_file() else None


class _Tf32:
    def __init__(self, torch: Any, on: bool) -> None:
        self._torch, self._on = torch, on

    def __enter__(self) -> None:
        self._torch.set_float32_matmul_precision("high" if self._on else "highest")

    def __exit__(self, *_: object) -> None:
        self._torch.set_float32_matmul_precision("highest")

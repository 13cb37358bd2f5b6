"""One call of an op in fastnn and in other libraries, checked, and the least time it can take.

Results are written into arrays made before (out=): what is timed is the kernel, not the system
handing out fresh pages.
"""

import importlib.util
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # cases.py, contract.py, reference.py

import reference
from cases import execute
from contract import OPS, UPDATED
from torch_ops import TORCH

import fastnn

CACHE = 16 << 20  # bytes; what moves more is held against the bandwidth of memory
PRODUCTS = {"matmul": ("m", "n", "k"), "probe_fma": ("n", "rounds")}


def installed(*libraries):
    """Those of the libraries that can be imported, fastnn first."""
    modules = {"sklearn": "sklearn", "torch-compile": "torch"}
    return ["fastnn", *(x for x in libraries if importlib.util.find_spec(modules.get(x, x)))]


def suitable(each):
    """The libraries installed that have such an op."""
    full = "precision" not in dict(each.options)
    able = {
        "fastnn": True,
        "torch": full and each.op in TORCH,
        "numpy": full and each.op == "matmul",
    }
    return [library for library in installed("torch", "numpy") if able[library]]


# ---- what it has to do --------------------------------------------------------------------------


def flops(each):
    """Operations of a product; only those of the probe and of matmul count."""
    lengths = dict(each.dims + each.options)
    names = PRODUCTS.get(each.op)
    return 2 * int(np.prod([lengths[name] for name in names])) if names else 0


def moved(each, arguments):
    """Bytes of all arguments and results; what is updated is read and written."""
    arguments = copies(arguments)
    written = execute(getattr(fastnn.ops, each.op), each.op, arguments)
    read = sum(value.nbytes for value in arguments.values() if isinstance(value, np.ndarray))
    return read + sum(np.asarray(value).nbytes for value in written.values())


def floor_seconds(probe, flops, nbytes, dtype=np.float32):
    """The least time of an op: operations at the peak, or bytes at the bandwidth."""
    peak = probe.peak_gflops * 4 / np.dtype(dtype).itemsize
    bandwidth = probe.cache_gbs if nbytes < CACHE else probe.memory_gbs
    return max(flops / peak, nbytes / bandwidth) * 1e-9


def copies(arguments):
    """The arguments, with those arrays copied that a call may update."""
    return {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}


# ---- what it computes ---------------------------------------------------------------------------


def check(each, arguments):
    """Compare fastnn's results with tests/reference.py."""
    exact = execute(getattr(reference, each.op), each.op, widened(arguments))
    results = execute(getattr(fastnn.ops, each.op), each.op, copies(arguments))
    loose = 2e-2 if ("precision", "bf16") in each.options else 1e-4
    for name, value in results.items():
        size = np.abs(exact[name]).max(initial=0)
        np.testing.assert_allclose(value, exact[name], loose, loose * size, err_msg=name)


def widened(arguments):
    """Arrays of their own: float32 as float64; dtype= is about the kernel's result alone."""
    return {
        name: value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value
        for name, value in copies(arguments).items()
        if name != "dtype"
    }


# ---- the calls ----------------------------------------------------------------------------------


def call_of(library, op, arguments):
    """A call of the op that may change its arguments again and again."""
    return {"fastnn": fastnn_call, "torch": torch_call, "numpy": numpy_call}[library](op, arguments)


def fastnn_call(op, arguments):
    call = bound(getattr(fastnn.ops, op), op, arguments)
    if OPS[op].of(UPDATED):
        return call
    results = call()
    results = results if isinstance(results, tuple) else (results,)
    out = tuple(each if isinstance(each, np.ndarray) else None for each in results)
    return partial(call, out=out if len(out) > 1 else out[0])


def bound(function, op, arguments):
    """The call, with arguments passed as users do: by position where the stanza allows it."""
    first = [f.name for f in OPS[op].parameters if not f.keyword_only and f.name in arguments]
    rest = {name: value for name, value in arguments.items() if name not in first}
    return partial(function, *(arguments[name] for name in first), **rest)


def torch_call(op, arguments):
    torch = import_module("torch")
    torch.set_num_threads(fastnn.get_num_threads())
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    return TORCH[op](torch, SimpleNamespace(**tensors))


def numpy_call(op, arguments):
    limits = import_module("threadpoolctl").threadpool_limits
    limits(fastnn.get_num_threads(), user_api="blas")
    left = arguments["a"].T if arguments.get("transpose_a") else arguments["a"]
    right = arguments["b"].T if arguments.get("transpose_b") else arguments["b"]
    return partial(np.matmul, left, right, out=left @ right)


def kernel_call(op, arguments, repeats):
    """A native call that runs the op's kernel `repeats` times, without Python in between."""
    for field in OPS[op].of({"SCALAR", "COUNTER"}):
        if field.name in arguments:  # a recorded op reads them where they lie
            dtype = np.float64 if field.kind == "SCALAR" else np.int64
            arguments = arguments | {field.name: np.array(arguments[field.name], dtype)}
    plan = fastnn._core.Plan(fastnn._core.Arena())
    with plan:
        bound(getattr(fastnn.ops, op), op, arguments)()
    return partial(plan.run, [], count=repeats)

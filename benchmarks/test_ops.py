"""Every op at sizes that matter, checked against tests/reference.py, then timed beside PyTorch.

Results are written into arrays made before (out=): what is timed is the kernel, not the system
handing out fresh pages. Bytes are those of all arguments and results.
"""

from functools import partial
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from cases import GIVEN, case, execute
from conftest import installed
from contract import OPS, UPDATED
from torch_ops import TORCH

import fastnn

pytestmark = pytest.mark.benchmark(max_time=0.3, min_rounds=3)

M = 1 << 20
NETWORK = 669_706  # weights of 784-512-512-10
TRAINING = dict.fromkeys(("gamma", "beta", "running_mean", "running_var"), GIVEN)
ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "hard_sigmoid", "tanh", "gelu", "gelu_tanh")
ACTIVATIONS += ("silu", "softplus")
OPTIMIZERS = ("sgd_step", "adagrad_step", "rmsprop_step", "adam_step", "radam_step")

CASES = [
    case("matmul", m=1024, n=1024, k=1024),
    case("matmul", m=1024, n=1024, k=1024, precision="bf16"),
    case("matmul", m=1000, n=512, k=784),
    case("matmul", m=1000, n=10, k=512),
    case("matmul", m=1, n=512, k=784),
    case("column_sum", n=10_000, c=512),
    *(case(name, n=(M,)) for name in ACTIVATIONS),
    *(case(f"{name}_backward", n=(M,)) for name in ACTIVATIONS),
    *(
        case(f"{name}softmax{way}", n=4096, c=1000)
        for name in ("", "log_")
        for way in ("", "_backward")
    ),
    case("softmax_cross_entropy", n=60_000, c=10),
    case("softmax_cross_entropy", n=4096, c=1000),
    case("softmax_cross_entropy", n=1024, c=32_000),
    *(case(name, n=60_000, f=(10,)) for name in ("sigmoid_cross_entropy", "mse", "mae")),
    *(case("batch_norm", n=n, c=512, s=(), **TRAINING) for n in (1000, 10_000)),
    *(case("batch_norm_backward", n=n, c=512, s=(), gamma=GIVEN) for n in (1000, 10_000)),
    case("layer_norm", n=4096, c=1000, gamma=GIVEN, beta=GIVEN),
    case("layer_norm_backward", n=4096, c=1000, gamma=GIVEN),
    case("dropout", n=(M,)),
    case("dropout_backward", n=(M,)),
    *(case(name, n=(16 * M,)) for name in OPTIMIZERS),
    case("adam_step", n=(NETWORK,)),
    case("rescale", n=(1000 * 784,), scale=1 / 255),
    case("take_rows", rows=60_000, n=1000, f=784),
    case("count_correct", n=60_000, c=10),
    case("count_correct_binary", n=(M,)),
    *(case(name, n=(16 * M,)) for name in ("l2_norm", "clip_grad_norm", "first_nonfinite")),
    case("probe_fma", n=172_032, rounds=1000),
    case("probe_read", n=32_768, c=2048),
    # What a call costs over its kernel:
    case("matmul", m=4, n=4, k=4),
    case("relu", n=(16,)),
    case("softmax_cross_entropy", n=4, c=4),
    case("adam_step", n=(16,)),
]


def test_every_op_has_a_benchmark():
    assert {each.op for each in CASES} == set(OPS)


def suitable(each):
    """The libraries installed that have such an op."""
    full = "precision" not in dict(each.options)
    able = {
        "fastnn": True,
        "torch": full and each.op in TORCH,
        "numpy": full and each.op == "matmul",
    }
    return [library for library in installed("torch", "numpy") if able[library]]


@pytest.mark.parametrize(
    ("each", "library"),
    [
        pytest.param(each, library, id=f"{each.op}-{each}-{library}")
        for each in CASES
        for library in suitable(each)
    ],
)
def test_op(timed, each, library):
    call = LIBRARIES[library](each.op, each.arguments(np.float32))
    if library == "fastnn":
        check(each)
    products = {"matmul": ("m", "n", "k"), "probe_fma": ("n", "rounds")}.get(each.op, ())
    lengths = dict(each.dims + each.options)
    flops = 2 * np.prod([lengths[name] for name in products]) if products else 0
    timed(call, f"{each.op} {each}", library, flops, 0 if products else moved(each))


def check(each):
    arguments = each.arguments(np.float32)
    exact = execute(getattr(reference, each.op), each.op, widened(arguments))
    results = execute(getattr(fastnn.ops, each.op), each.op, arguments)
    loose = 2e-2 if ("precision", "bf16") in each.options else 1e-4
    for name, value in results.items():
        size = np.abs(exact[name]).max(initial=0)
        np.testing.assert_allclose(value, exact[name], loose, loose * size, err_msg=name)


def widened(arguments):
    """Float32 as float64, everything else as it is; dtype= is about the kernel's result alone."""
    return {
        name: value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value
        for name, value in arguments.items()
        if name != "dtype"
    }


def moved(each):
    """Bytes of all arguments and results; what is updated is read and written."""
    arguments = each.arguments(np.float32)
    written = execute(getattr(fastnn.ops, each.op), each.op, arguments)
    read = sum(value.nbytes for value in arguments.values() if isinstance(value, np.ndarray))
    return read + sum(np.asarray(value).nbytes for value in written.values())


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
    a, b = arguments["a"], arguments["b"]
    return partial(np.matmul, a, b, out=a @ b)


LIBRARIES = {"fastnn": fastnn_call, "torch": torch_call, "numpy": numpy_call}

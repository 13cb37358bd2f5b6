"""Every op at sizes that matter, checked against tests/reference.py, then timed beside PyTorch.

Bytes are those of all arguments and results.
"""

import numpy as np
import pytest
from calls import call_of, check, flops, moved, suitable
from cases import GIVEN, case
from contract import OPS

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
    *(case(f"{name}_backward_from_output", n=(M,)) for name in ("sigmoid", "tanh")),
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


@pytest.mark.parametrize(
    ("each", "library"),
    [
        pytest.param(each, library, id=f"{each.op}-{each}-{library}")
        for each in CASES
        for library in suitable(each)
    ],
)
def test_op(timed, each, library):
    arguments = each.arguments(np.float32)
    if library == "fastnn":
        check(each, arguments)
    products = flops(each)
    nbytes = 0 if products else moved(each, arguments)
    call = call_of(library, each.op, arguments)
    timed(call, f"{each.op} {each}", library, products, nbytes)

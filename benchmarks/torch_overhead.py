"""What a small operator of `fastnn.torch` costs beside PyTorch's own: medians of microseconds.

    python benchmarks/torch_overhead.py                        # the native library
    FASTNN_TORCH=python python benchmarks/torch_overhead.py    # the Python functions

Tensors of 4 x 4, one thread: next to no arithmetic. Both take turns, forward alone and with the
gradient; `ratio` is fastnn's median to PyTorch's.
"""

import time
from statistics import median

import torch

import fastnn.torch as ft

F = torch.nn.functional
ROUNDS, CALLS = 25, 400


def cases():
    x, w, b = torch.randn(4, 4), torch.randn(4, 4), torch.randn(4)
    target = torch.tensor([0, 1, 2, 3])
    return {
        "relu": (F.relu, ft.functional.relu, (x,)),
        "linear": (F.linear, ft.functional.linear, (x, w, b)),
        "layer_norm": (
            lambda x, w, b: F.layer_norm(x, (4,), w, b),
            lambda x, w, b: ft.functional.layer_norm(x, w, b)[0],
            (x, b, b.clone()),
        ),
        "batch_norm": (
            lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
            lambda x, w, b: ft.functional.batch_norm(x, w, b, None, None, True)[0],
            (x, b, b.clone()),
        ),
        "cross_entropy": (
            lambda x: F.cross_entropy(x, target),
            lambda x: ft.functional.cross_entropy(x, target),
            (x,),
        ),
    }


def microseconds(call):
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def forward(function, tensors):
    return lambda: function(*tensors)


def with_gradient(function, tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    dy = torch.ones_like(function(*leaves))
    return lambda: torch.autograd.grad(function(*leaves), leaves, dy)


def updates():
    """An optimizer's step over four parameters of 16."""
    for name, options in (("SGD", {"lr": 0.1}), ("Adam", {"fused": None})):
        steps = []
        for module in (torch.optim, ft.optim):
            params = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(4)]
            for p in params:
                p.grad = torch.randn(4, 4)
            steps.append(getattr(module, name)(params, **options).step)
        yield f"{name}.step", steps


def main():
    torch.set_num_threads(1)
    print(f"operators: {'native' if ft.native else 'python'}, PyTorch {torch.__version__}")
    rows = []
    for make in (forward, with_gradient):
        for name, (theirs, ours, tensors) in cases().items():
            text = f"{name}, {make.__name__.replace('_', ' ')}"
            rows.append((text, [make(theirs, tensors), make(ours, tensors)]))
    for name, calls in [*rows, *updates()]:
        times = [[microseconds(call) for call in calls] for _ in range(ROUNDS)]
        torch_us, fastnn_us = (median(column) for column in zip(*times, strict=True))
        ratio = fastnn_us / torch_us
        print(f"{name:30} PyTorch {torch_us:7.2f}   fastnn {fastnn_us:7.2f}   ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()

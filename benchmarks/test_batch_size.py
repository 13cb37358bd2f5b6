"""The batch-size curve as benchmark rows: one update of 784-512-512-10, beside other libraries.

`fastnn curve --peers torch,jax` measures the same in turns and draws it; these rows are for
comparing two runs (pytest-benchmark compare). FASTNN_BENCH_PEERS names libraries, comma-separated.
"""

import os

import numpy as np
import pytest
from calls import installed

from fastnn import curve
from fastnn.floor import measure_floor

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)

BATCHES = (1, 2, 8, 64, 128, 1000, 10_000, 60_000)
LIBRARIES = installed(*os.environ.get("FASTNN_BENCH_PEERS", "torch,jax").split(","))


@pytest.fixture(scope="module")
def floor(probe):
    return measure_floor(curve.SIZES, probe)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.random((max(BATCHES), curve.SIZES[0]), dtype=np.float32)
    return x, rng.integers(0, curve.SIZES[-1], len(x))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("variant", curve.VARIANTS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_update(timed, data, floor, library, variant, batch):
    if batch == 1 and variant == "batch-norm":
        pytest.skip("one sample has no variance")
    x, y = (array[:batch] for array in data)
    peers = [library] if library != "fastnn" else []
    _, steps = curve.make_steps(curve.SIZES, curve.VARIANTS[variant], x, y, peers)
    if library not in steps:
        pytest.skip(f"{library} has no batch norm")
    flops = batch * floor.flops_per_sample
    group = f"update, {variant}, batch {batch}"
    timed(steps[library], group, library, flops, floor=floor.seconds(batch))

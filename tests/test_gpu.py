"""fastnn on a real GPU: `pytest -m gpu`, of which CONTRIBUTING.md tells more.

Every op that has a CUDA kernel against its meaning and against PyTorch on the device; arrays of
three libraries, streams and captured graphs, memory that runs out; training beside the CPU's; the
programs of tests/simt on the GPU instead of the emulator, and under compute-sanitizer.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import test_ops
from cases import CASES, DTYPES, execute, full
from contract import OPS, RESULTS, UPDATED
from support import copies, digest
from test_arrays import LAYOUTS, owner
from test_ops import (  # noqa: F401
    exact_results,
    test_torch_agrees_on_activation,
    test_torch_agrees_on_batch_norm,
    test_torch_agrees_on_clipping,
    test_torch_agrees_on_layer_norm,
    test_torch_agrees_on_loss,
    test_torch_agrees_on_ten_steps,
)
from tolerances import assert_close
from trainers import arrays, data, fingerprint, network, trainer

import fastnn as fnn
from fastnn import ops

sys.path.insert(0, str(Path(__file__).parent / "simt"))
import simt_build

CUDA = fnn.show_config("dicts")["cuda"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not CUDA["available"], reason=f"no GPU: {CUDA['why_not']}"),
]
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most memory


# ---- libraries ---------------------------------------------------------------------------------


class Torch:
    in_place = True

    def __init__(self):
        self.module = pytest.importorskip("torch")
        self.array = self.module.Tensor

    def to_device(self, value):
        return self.module.tensor(value, device="cuda")

    def to_host(self, value):
        return value.cpu().numpy()


class CuPy:
    in_place = True

    def __init__(self):
        self.module = pytest.importorskip("cupy")
        self.array = self.module.ndarray

    def to_device(self, value):
        """In a copy of the whole memory that the NumPy array lies in."""
        whole = owner(value)
        memory = self.module.asarray(np.ascontiguousarray(whole).reshape(-1).view(np.uint8))
        offset = value.ctypes.data - whole.ctypes.data
        return self.module.ndarray(
            value.shape, value.dtype, memory.data + offset, strides=value.strides
        )

    def to_host(self, value):
        return self.module.asnumpy(value)


class Jax:
    in_place = False

    def __init__(self):
        self.module = pytest.importorskip("jax")
        self.array = self.module.Array
        if self.module.default_backend() != "gpu":
            pytest.skip("JAX has no GPU")

    def to_device(self, value):
        return self.module.device_put(value)

    def to_host(self, value):
        assert next(iter(value.devices())).platform == "gpu"
        return np.asarray(value)


LIBRARIES = [Torch, CuPy, Jax]


def on_device(library, op, arguments):
    """All that the op wrote, as NumPy arrays by name."""
    moved = {
        name: library.to_device(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
    }
    results = execute(getattr(ops, op), op, moved)
    assert all(isinstance(value, library.array) for value in results.values())
    return {name: library.to_host(value) for name, value in results.items()}


def skip_without_kernel(error):
    """Kernels that are still to come are no failure."""
    if "there is no CUDA kernel" in str(error):
        pytest.skip(str(error))
    raise error


class OnTorch:
    """fastnn.ops for NumPy arrays, which go to the GPU and come back."""

    def __init__(self):
        self.library = Torch()

    def __getattr__(self, op):
        def call(*arguments, **keywords):
            def move(value):
                array = isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub"
                return self.library.to_device(value) if array else value

            moved = [move(value) for value in arguments]
            moved_keywords = {name: move(value) for name, value in keywords.items()}
            try:
                results = getattr(ops, op)(*moved, **moved_keywords)
            except fnn.DeviceError as error:
                skip_without_kernel(error)
            fields = [field.name for field in OPS[op].parameters]
            given = dict(zip(fields, zip(arguments, moved, strict=True), strict=False))
            given |= {name: (keywords[name], moved_keywords[name]) for name in keywords}
            for field in OPS[op].of(UPDATED):
                if isinstance(given.get(field.name, (None,))[0], np.ndarray):
                    host, device = given[field.name]
                    host[...] = self.library.to_host(device)
            if isinstance(results, tuple):
                return tuple(map(self.library.to_host, results))
            return None if results is None else self.library.to_host(results)

        return call


@pytest.fixture
def torch(monkeypatch):
    """PyTorch on the GPU, and the ops of test_ops.py on it, too."""
    torch = Torch().module
    monkeypatch.setattr(test_ops, "ops", OnTorch())
    with torch.device("cuda"):
        yield torch


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_matches_reference(op, dtype):
    library = Torch()
    for chosen in CASES[op]:
        if dtype not in chosen.dtypes:
            continue
        try:
            results = on_device(library, op, chosen.arguments(DTYPES[dtype]))
        except fnn.DeviceError as error:
            if "for these arguments" in str(error):
                continue
            skip_without_kernel(error)
        assert_exact(chosen, dtype, results)


def assert_exact(chosen, dtype, results):
    """All results are within their bounds of the reference's."""
    exact, allowed = exact_results(chosen, dtype)
    assert set(results) == set(exact)
    for name, value in results.items():
        try:
            assert_close(value, exact[name], allowed[name], value.dtype)
        except AssertionError as error:
            raise AssertionError(f"{chosen}: {name}") from error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_every_time(op, dtype):
    library, digests = Torch(), set()
    arguments = full(op, 517, 1031).arguments(DTYPES[dtype])
    try:
        for _ in range(20):
            digests.add(digest(on_device(library, op, copies(arguments))))
    except fnn.DeviceError as error:
        skip_without_kernel(error)
    assert len(digests) == 1


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("other", LIBRARIES[1:])
def test_libraries_give_the_same_bits(op, other):
    library = other()
    if OPS[op].of(UPDATED) and not library.in_place:
        pytest.skip("updates arrays")
    if library.module.__name__ == "jax" and any(f.type == "i64" for f in OPS[op].of(RESULTS)):
        pytest.skip("JAX has no int64 unless told to")
    arguments = full(op, 17, 37).arguments(np.float32)
    try:
        expected = digest(on_device(Torch(), op, copies(arguments)))
        assert digest(on_device(library, op, arguments)) == expected
    except fnn.DeviceError as error:
        skip_without_kernel(error)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_layout_makes_no_difference(op, layout):
    library = CuPy()
    arguments = full(op, 17, 37).arguments(np.float32)
    try:
        usual = on_device(library, op, copies(arguments))
    except fnn.DeviceError as error:
        skip_without_kernel(error)
    views = {}
    for name, value in arguments.items():
        views[name] = value
        if isinstance(value, np.ndarray):
            views[name] = layout(value)
            views[name][...] = value
    results = on_device(library, op, views)
    if op == "matmul":  # kernels of their own for some layouts
        assert_exact(full(op, 17, 37), "f32", results)
    else:
        assert digest(results) == digest(usual)


# ---- streams, graphs ---------------------------------------------------------------------------


def test_work_is_queued_in_the_current_stream_and_nothing_waits():
    torch = Torch().module
    x, side = torch.zeros(1000, device="cuda"), torch.cuda.Stream()
    ops.relu(x)  # what is made once is made
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(2_000_000_000)  # about a second
        x += 3
        y = ops.relu(x)
        assert not side.query()
        total = y.sum()
    side.synchronize()
    assert total.item() == 3000


def test_cupy_streams_are_obeyed():
    cupy = CuPy().module
    x = cupy.zeros(1 << 24, cupy.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(100):
            x += 1
        y = ops.relu(x)
        stream.synchronize()
    assert (y == 100).all()


def test_calls_can_be_captured():
    """A graph reads rate and step from memory each time it is replayed."""
    torch = Torch().module
    param, grad = torch.ones(1000, device="cuda"), torch.ones(1000, device="cuda")
    moments = [torch.zeros(1000, device="cuda") for _ in range(2)]
    step, lr = (torch.ones((), device="cuda", dtype=torch.float64) for _ in range(2))

    def update(arrays):
        ops.adam_step(*arrays, step=step, lr=lr)

    update([param.clone(), grad, *[m.clone() for m in moments]])
    expected = [array.clone() for array in (param, grad, *moments)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update([param, grad, *moments])
    for i in range(3):
        step.fill_(i + 1)
        lr.fill_(0.5 / (i + 1))
        graph.replay()
        update(expected)
        assert torch.equal(param, expected[0])


# ---- labels, memory, sizes ---------------------------------------------------------------------


def test_a_bad_label_is_told_and_the_gpu_goes_on():
    torch = Torch().module
    logits = torch.randn(300, 10, device="cuda")
    labels = torch.zeros(300, dtype=torch.int64, device="cuda")
    good = ops.softmax_cross_entropy(logits, labels, reduction="none")[0]
    labels[[7, 250]] = 10
    bad = ops.softmax_cross_entropy(logits, labels, reduction="none")[0]
    with pytest.raises(fnn.LabelError, match=r"label 10 at row 7; valid 0\.\.9"):
        fnn.synchronize()
    assert bad.isnan().nonzero().flatten().tolist() == [7, 250]
    labels[[7, 250]] = 0
    assert torch.equal(ops.softmax_cross_entropy(logits, labels, reduction="none")[0], good)
    fnn.synchronize()


def test_the_next_call_tells_of_a_bad_label():
    torch = Torch().module
    logits, labels = torch.randn(3, 10, device="cuda"), torch.tensor([1, 10, 2], device="cuda")
    ops.softmax_cross_entropy(logits, labels)
    torch.cuda.synchronize()
    with pytest.raises(fnn.LabelError, match=r"label 10 at row 1; valid 0\.\.9"):
        ops.relu(logits)
    ops.relu(logits)
    fnn.synchronize()


def test_calls_with_jax_tell_of_bad_labels_themselves():
    library = Jax()
    logits, labels = np.zeros((3, 10), np.float32), np.array([1, 10, 2], np.int32)
    with pytest.raises(fnn.LabelError, match=r"label 10 at row 1; valid 0\.\.9"):
        ops.softmax_cross_entropy(library.to_device(logits), library.to_device(labels))


@pytest.mark.parametrize("count", [3, 200, 1000])
def test_lists_are_updated_as_their_arrays_would_be(count):
    torch = Torch().module
    lengths = [(i * i) % 3001 for i in range(count)]
    lists = [[torch.randn(n, device="cuda").abs() for n in lengths] for _ in range(4)]
    singly = [[array.clone() for array in each] for each in lists]
    ops.adam_step(*lists, step=3, lr=0.1)
    for one in zip(*singly, strict=True):
        ops.adam_step(*one, step=3, lr=0.1)
    for got, expected in zip(lists, singly, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_arrays_of_numba():
    cuda = pytest.importorskip("numba.cuda")
    y = ops.relu(cuda.to_device(np.float32([[-1, 2], [3, -4]])))
    assert cuda.is_cuda_array(y)
    np.testing.assert_array_equal(y.copy_to_host(), [[0, 2], [3, 0]])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (70, 91, 333), (300, 520, 1032), (1024, 1024, 1096)])
@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_products_of_16_bits(name, layout, sizes):
    torch = Torch().module
    dtype, unit = getattr(torch, name), 2.0**-8 if name == "bfloat16" else 2.0**-11
    m, n, k = sizes
    a, b = (torch.randn(shape, device="cuda").to(dtype) for shape in ((m, k), (k, n)))
    bias = torch.randn(n, device="cuda").to(dtype)
    if layout == "columns":
        a, b = a.T.contiguous().T, b.T.contiguous().T
    for activation in (None, "relu", "gelu"):
        y = ops.matmul(a, b, bias=bias, activation=activation)
        assert y.dtype == dtype
        exact = a.double() @ b.double() + bias.double()
        exact = getattr(torch.nn.functional, activation)(exact) if activation else exact
        terms = a.double().abs() @ b.double().abs() + bias.double().abs()
        allowed = unit * exact.abs() + 2.0**-16 * terms + 2.0**-25
        assert ((y.double() - exact).abs() <= allowed).all()


@pytest.mark.parametrize("kind", [Torch, CuPy])
def test_out_of_memory_leaves_everything_usable(kind):
    library = kind()
    torch = Torch().module
    torch.cuda.empty_cache()
    elements = torch.cuda.mem_get_info()[0] // 4 + (1 << 20)
    x = library.to_device(np.float32([[-1, 1]]))
    if kind is Torch:
        huge = x[:, :1].expand(1, elements)
    else:
        huge = library.module.broadcast_to(x[:, :1], (1, elements))
    with pytest.raises(fnn.OutOfMemoryError, match="relu: not enough memory on cuda:0: "):
        ops.relu(huge)
    del huge
    np.testing.assert_array_equal(library.to_host(ops.relu(x)), [[0, 1]])


def test_more_than_2_to_the_31_elements():
    torch = Torch().module
    n = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 5 * n:
        pytest.skip("too little memory")
    x = torch.full((n,), -1.0, device="cuda")
    x[-3:] = 2
    ops.relu(x, out=x)
    assert x[-4:].tolist() == [0, 2, 2, 2]
    assert x.count_nonzero().item() == 3


def test_other_types_are_refused():
    torch = Torch().module
    with pytest.raises(fnn.DTypeError, match="relu: x must be float32 or float64"):
        ops.relu(torch.ones(3, device="cuda", dtype=torch.int32))
    with pytest.raises(TypeError, match="requires grad"):
        ops.relu(torch.ones(3, device="cuda", requires_grad=True))
    with pytest.raises((TypeError, ValueError), match="relu_backward: x is"):
        ops.relu_backward(torch.ones(3, device="cuda"), torch.ones(3))


# ---- training ----------------------------------------------------------------------------------


def trained(device, x, y, epochs=2, **options):
    made = trainer(network(dropout=0.2), device=device, **options)
    made.fit(x, y, epochs=epochs, batch_size=32, progress=False)
    return made


def test_training_agrees_with_the_cpu():
    options = {"optimizer": fnn.SGD(lr=0.05, momentum=0.9), "precision": "float64"}
    x, y = data(203, "float64")
    values, expected = (arrays(trained(at, x, y, **options)) for at in ("cuda", "cpu"))
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], 1e-8, 1e-10, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_training_repeats_to_the_bit(precision):
    options = {"precision": precision, "clip_grad_norm": 0.5, "check_finite": True}
    first, second = (trained("cuda", *data(), **options) for _ in range(2))
    assert fingerprint(first) == fingerprint(second)


def test_training_on_arrays_of_the_gpu():
    torch = pytest.importorskip("torch")
    x, y = data()
    there = [torch.tensor(array, device="cuda") for array in (x, y)]
    assert fingerprint(trained("cuda", *there)) == fingerprint(trained("cuda", x, y))


def test_checkpoints_move_between_devices(tmp_path):
    path = tmp_path / "model.safetensors"
    made = trained("cuda", *data())
    made.save(path)
    moved = fnn.Trainer.load(path)
    assert fingerprint(moved) == fingerprint(made)
    moved.save(path)
    again = fnn.Trainer.load(path, device="cuda")
    for each in (made, again):
        each.fit(*data(), batch_size=32, progress=False)
    assert fingerprint(again) == fingerprint(made)


# ---- the programs of tests/simt ----------------------------------------------------------------

PROGRAMS = ("conformance", "transfers", "ops", "matmul_ops")
TOOLS = {"memcheck": ["--leak-check", "full"], "racecheck": [], "initcheck": []}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """program(name) -> its path. FASTNN_SIMT_BUILD_DIR names a folder to keep them in."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    kept = os.environ.get("FASTNN_SIMT_BUILD_DIR")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("simt")
    gpu = re.search(r"sm_(\d+)", CUDA["devices"][0])[1]
    made = {name: simt_build.make_for_gpu(folder, name, gpu) for name in PROGRAMS}
    return made.get


def run(*command):
    return subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_the_emulator_says_is_so(program, name):
    if name == "conformance" and "sm_90" not in CUDA["devices"][0]:
        pytest.skip("instructions of sm_90a")
    done = run(program(name))
    assert done.returncode == 0, done.stdout
    assert "ok " in done.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_compute_sanitizer_finds_nothing(program, tool):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("no compute-sanitizer")
    names = PROGRAMS if "sm_90" in CUDA["devices"][0] else PROGRAMS[1:]
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", 9, *TOOLS[tool]]
    with ThreadPoolExecutor(len(names)) as pool:
        done = list(pool.map(lambda name: run(*command, program(name)), names))
    if any("Device not supported" in each.stdout for each in done):
        pytest.skip("compute-sanitizer does not support this machine")
    for name, each in zip(names, done, strict=True):
        assert each.returncode == 0, f"{name}\n{each.stdout[-5000:]}"

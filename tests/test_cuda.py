"""fastnn._cuda where there is no GPU: calls in the emulator, and what is said without a driver."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from contract import OPS
from test_build import EXTENSION, output, symbols

import fastnn as fnn
from fastnn import ops

sys.path.insert(0, str(Path(__file__).parent / "simt"))
import simt_build

ROOT = Path(__file__).parents[1]
CUDA = fnn.show_config("dicts")["cuda"]
needs_cuda = pytest.mark.skipif(not CUDA["built"], reason="built without CUDA kernels")


@pytest.mark.parametrize("tests", ["cuda_emulated.py", "cuda_training_emulated.py"])
def test_in_the_emulator(tmp_path, tests):
    """All of that file, in a process that the emulator may end."""
    if simt_build.missing():
        pytest.skip(f"the emulator needs {simt_build.missing()}")
    folder = os.environ.get("FASTNN_SIMT_BUILD_DIR", str(tmp_path))
    paths = [str(Path(fnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "FASTNN_SIMT_BUILD_DIR": folder,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(Path(__file__).parent / tests)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)


# ---- without a driver --------------------------------------------------------------------------


class CudaArray:
    """Says that it lies on a GPU."""

    dtype, shape = "float32", (3,)

    def __init__(self, device_type=2):
        self.device_type = device_type

    def __dlpack_device__(self):
        return self.device_type, 0

    def __dlpack__(self, **_):
        raise AssertionError("memory that can't be reached was asked for")


@needs_cuda
def test_the_module_is_imported_without_a_driver():
    import fastnn._cuda

    assert "fastnn._cuda.api" in repr(fastnn._cuda.api)
    assert {"sm_80", "sm_90a", "sm_100", "sm_120"} < set(CUDA["architectures"])


@needs_cuda
@pytest.mark.skipif(CUDA["driver"] is not None, reason="there is a driver")
def test_without_a_driver_that_is_said():
    assert not CUDA["available"]
    assert CUDA["devices"] == []
    assert CUDA["why_not"] == "there is no NVIDIA driver"
    message = r"^relu: x \(float32 \(3,\)\) is on cuda:0, but there is no NVIDIA driver$"
    with pytest.raises(fnn.DeviceError, match=message):
        ops.relu(CudaArray())


@pytest.mark.skipif(CUDA["available"], reason="there is a GPU")
@pytest.mark.parametrize("op", OPS)
def test_arrays_of_a_gpu_are_refused_where_there_is_none(op):
    arguments = {field.name: CudaArray() for field in OPS[op].parameters if field.shape}
    numbers = {"p": 0.5, "lr": 0.1, "step": 1, "seed": 1, "max_norm": 1.0, "rounds": 1}
    numbers = {f.name: numbers[f.name] for f in OPS[op].parameters if f.default == "REQUIRED"}
    with pytest.raises(fnn.DeviceError, match=rf"^{op}: \w+ .*is on cuda:0, but "):
        getattr(ops, op)(**arguments, **numbers)
    np.testing.assert_array_equal(ops.relu(np.float32([-1, 1])), [0, 1])


def test_arrays_of_other_devices_are_refused():
    with pytest.raises(fnn.DeviceError, match="is on device type 10 of DLPack, but there are"):
        ops.relu(CudaArray(10))


def test_nothing_to_wait_for():
    assert fnn.synchronize() is None


def test_without_the_module_that_is_said():
    code = """
import sys
sys.modules["fastnn._cuda"] = None  # as if it had not been built
import fastnn
cuda = fastnn.show_config("dicts")["cuda"]
assert cuda["why_not"] == "fastnn was built without CUDA kernels", cuda
assert not cuda["built"] and not cuda["available"]
"""
    environment = os.environ | {"PYTHONPATH": str(Path(fnn.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd="/", check=True)


# ---- the build ---------------------------------------------------------------------------------


@needs_cuda
def test_the_module_exports_its_initialisation_alone():
    (extension,) = EXTENSION.parent.glob("_cuda*.so")
    exported = symbols("--dynamic", "--defined-only", extension)
    assert [name for kind, name in exported if kind not in "WVu"] == ["PyInit__cuda"]
    assert "fnn" not in output("nm", "--dynamic", extension)


@needs_cuda
def test_no_library_of_cuda_is_needed():
    (extension,) = EXTENSION.parent.glob("_cuda*.so")
    needed = [line for line in output("readelf", "-d", extension).splitlines() if "NEEDED" in line]
    assert needed
    assert not any("cuda" in line or "nv" in line for line in needed)


def configure(folder, *options):
    pybind11 = pytest.importorskip("pybind11")
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}"]
    command += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *options]
    environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment["PATH"] = "/usr/bin:/bin"  # no nvcc
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_cuda_that_must_be_built_needs_nvcc(tmp_path):
    if shutil.which("nvcc", path="/usr/bin:/bin"):
        pytest.skip("nvcc is everywhere")
    status, said = configure(tmp_path / "on", "-DFASTNN_CUDA=ON")
    assert status != 0
    assert "FASTNN_CUDA=ON: there is no nvcc; put it on PATH or set CUDACXX" in said
    status, said = configure(tmp_path / "auto")
    assert status == 0, said
    assert "No CUDA kernels: there is no nvcc" in said
    status, said = configure(tmp_path / "off", "-DFASTNN_CUDA=OFF")
    assert status == 0, said
    assert "CUDA" not in said


def test_cuda_is_auto_on_or_off(tmp_path):
    status, said = configure(tmp_path, "-DFASTNN_CUDA=maybe")
    assert status != 0
    assert "FASTNN_CUDA must be AUTO, ON or OFF, got 'maybe'" in said

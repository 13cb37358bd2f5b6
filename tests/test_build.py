"""What the build promises: no code of one instruction set leaks, and a forced level really runs.

The objects of a build are looked for in the folder that FASTNN_BUILD_DIR names.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ISAS, available_isas, forced_isa

import fastnn as fnn
from fastnn import _core

EXTENSION = Path(_core.__file__)
CALLS = [(op, f64) for op in _core.op_names for f64 in (False, True)]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF files")


def output(tool, *arguments):
    """What a tool of binutils prints."""
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}")
    command = [tool, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def symbols(*arguments):
    """(kind, name) of the symbols that nm lists."""
    lines = (line.split() for line in output("nm", *arguments).splitlines())
    return [(words[-2], words[-1]) for words in lines if len(words) >= 2]


# ---- nothing leaks ---------------------------------------------------------------------------


def test_the_extension_exports_its_initialisation_alone():
    exported = symbols("--dynamic", "--defined-only", EXTENSION)
    # Weak ones (W, V, u) are templates of the standard library, from the files for any CPU.
    assert [name for kind, name in exported if kind not in "WVu"] == ["PyInit__core"]
    assert [name for _, name in exported if "fnn" in name] == []


@pytest.mark.parametrize("isa", ISAS)
def test_objects_of_a_level_define_its_kernels_and_nothing_else(isa):
    """A template that leaked would run, say, AVX-512 code on a CPU that has none."""
    folder = os.environ.get("FASTNN_BUILD_DIR")
    if not folder:
        pytest.skip("FASTNN_BUILD_DIR names no build")
    objects = sorted(Path(folder).glob(f"**/fastnn_{isa}.dir/**/*.o"))
    assert objects, f"no objects of {isa} in {folder}"
    found = [symbol for file in objects for symbol in symbols("-g", "--defined-only", file)]
    types = {False: "f32", True: "f64"}
    expected = [("T", f"fnn_{isa}_{op}_{types[f64]}") for op, f64 in CALLS]
    assert sorted(found) == sorted([*expected, ("T", f"fnn_{isa}_matmul_bf16_f32")])


# ---- the forced level runs -------------------------------------------------------------------


def addresses():
    """Where the code of every op begins, from the start of the extension in memory."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    begin = min(int(line.split("-")[0], 16) for line in maps if line.endswith(str(EXTENSION)))
    return {call: _core.kernel_address(*call) - begin for call in CALLS}


def test_every_level_has_code_of_its_own():
    seen = []
    for isa in available_isas():
        with forced_isa(isa):
            seen += addresses().values()
    assert len(set(seen)) == len(seen) == len(CALLS) * len(available_isas())


@pytest.mark.parametrize("isa", available_isas())
def test_the_environment_chooses_the_same_code(isa):
    code = "import test_build; print(test_build.addresses())"
    paths = [str(Path(fnn.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {"FASTNN_ISA": isa, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    with forced_isa(isa):
        assert done.stdout.strip() == str(addresses())


def functions():
    """First address of every function in the extension, and the one past its last."""
    text = output("readelf", "--debug-dump=frames", EXTENSION)
    ranges = re.findall(r"FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)", text)
    return {int(begin, 16): int(end, 16) for begin, end in ranges}


def registers(begin, ends):
    """Widest vector registers, x, y or z, of the code at an address and of all that it calls."""
    waiting, seen, widest = [begin], set(), ""
    while waiting:
        begin = waiting.pop()
        if begin in seen or begin not in ends:
            continue
        seen.add(begin)
        span = (f"--start-address={begin}", f"--stop-address={ends[begin]}")
        listing = output("objdump", "-d", "--no-show-raw-insn", *span, EXTENSION)
        widest = max(widest, *re.findall(r"%([xyz])mm\d", listing), "")
        waiting += [int(to, 16) for to in re.findall(r"\t(?:call|j\w+) +([0-9a-f]+)\b", listing)]
    return widest


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="registers of x86")
@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("op", ["adam_step", "relu", "softmax", "matmul", "l2_norm"])
def test_the_code_that_runs_uses_the_registers_of_its_level(op, isa):
    ends = functions()
    with forced_isa(isa):
        begins = addresses()
    widest = [registers(begins[op, f64], ends) for f64 in (False, True)]
    assert widest == [{"scalar": "x", "avx2": "y", "avx512": "z"}[isa]] * 2

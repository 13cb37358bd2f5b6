"""CUDA kernels without a GPU: g++ compiles them for the emulator of tests/simt, which must find the
mistakes seeded in its own kernels and none in the others; nvcc, where there is one, must make of
them what they are meant to be."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "simt"))
import simt_build as build

SCHEDULES = [("fwd", 1), ("rev", 1), ("rand", 1)]
needs_emulator = pytest.mark.skipif(
    build.missing() is not None, reason=f"the emulator needs {build.missing()}"
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """make(program, build) -> its path. FASTNN_SIMT_BUILD_DIR names a folder to keep them in."""
    kept = os.environ.get("FASTNN_SIMT_BUILD_DIR")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("simt")
    made = {}

    def make(program, kind):
        if (program, kind) not in made:
            made[program, kind] = build.make(folder, program, kind)
        return made[program, kind]

    return make


def run(binary, *arguments, schedule=("fwd", 1), limit=120):
    """Exit status and everything printed."""
    environment = os.environ | {"EMU_SCHED": schedule[0], "EMU_SEED": str(schedule[1])}
    done = subprocess.run(
        [binary, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )
    return done.returncode, done.stdout


# ---- nothing is found where nothing is wrong -------------------------------------------------

CORRECT = [
    "demos all",
    "demos mma_gemm 0 70 90 200",
    "demos wgmma_gemm 0 70 90 400",
    "demos wgmma_gemm_transposed 0 100 136 200",
    "demos cross_entropy 0 9 200 0",
    "conformance",
    "transfers",
    "ops",
    "matmul_ops",
    "steps",
]


@needs_emulator
@pytest.mark.parametrize("kind", build.BUILDS)
@pytest.mark.parametrize("command", CORRECT)
def test_correct_kernels_pass(programs, command, kind):
    program, *arguments = command.split()
    for schedule in SCHEDULES:
        status, printed = run(programs(program, kind), *arguments, schedule=schedule)
        assert status == 0, f"{schedule}\n{printed}"
        assert "ok " in printed


# ---- seeded bugs -----------------------------------------------------------------------------

WRONG = "FAIL "
RACE = "data race"
UNSET = "uninitialised read"
FLIGHT = "race with asynchronous"
BARRIER = "divergent barrier"
STUCK = "deadlock|divergent barrier"
MISSED = None  # the build may miss it

BUGS = [
    # demo, bug, sizes, and what the builds plain, asan and race say, in every schedule
    ("sgemm", 1, (70, 90, 50), WRONG, WRONG, UNSET),
    ("sgemm", 2, (70, 90, 50), WRONG, WRONG, RACE),
    ("sgemm", 3, (70, 90, 50), WRONG, "global-buffer-overflow", UNSET),
    ("sgemm", 4, (70, 90, 50), MISSED, "heap-buffer-overflow", "out-of-bounds"),
    ("sgemm", 5, (70, 90, 10), MISSED, MISSED, UNSET),
    ("sgemm", 6, (70, 90, 50), BARRIER, BARRIER, BARRIER),
    ("sgemm", 7, (70, 90, 50), WRONG, WRONG, WRONG),
    ("cross_entropy", 1, (9, 200, 0), WRONG, WRONG, UNSET),
    ("cross_entropy", 2, (9, 200, 0), *3 * ["divergent warp operation"]),
    ("cross_entropy", 3, (9, 200, 0), MISSED, "insufficient space|global-buffer", MISSED),
    ("cross_entropy", 4, (9, 200, 0), MISSED, MISSED, RACE),
    ("cross_entropy", 5, (9, 200, 0), MISSED, MISSED, r"data race \(write after read\)"),
    ("cross_entropy", 6, (9, 100, 0), *3 * ["lane exited|bad lane mask"]),
    ("mma_gemm", 1, (70, 90, 200), WRONG, WRONG, FLIGHT),
    ("mma_gemm", 2, (70, 90, 200), WRONG, WRONG, f"{RACE}|{UNSET}"),
    ("mma_gemm", 3, (70, 90, 200), MISSED, MISSED, RACE),
    ("mma_gemm", 4, (70, 90, 200), WRONG, WRONG, WRONG),
    ("mma_gemm", 5, (70, 90, 200), WRONG, WRONG, FLIGHT),
    ("mma_gemm", 6, (70, 90, 200), MISSED, "out-of-bounds", "out-of-bounds"),
    ("wgmma_gemm", 1, (70, 90, 400), WRONG, WRONG, FLIGHT),
    ("wgmma_gemm", 2, (70, 90, 400), *3 * ["missing wgmma.fence"]),
    ("wgmma_gemm", 3, (70, 90, 400), *2 * [f"{WRONG}|deadlock"], f"{FLIGHT}|{RACE}|deadlock"),
    ("wgmma_gemm", 4, (70, 90, 400), *3 * ["deadlock"]),
    ("wgmma_gemm", 5, (70, 90, 400), WRONG, WRONG, WRONG),
    ("wgmma_gemm", 6, (70, 90, 400), *3 * ["deadlock"]),
    ("wgmma_gemm", 7, (70, 90, 400), WRONG, WRONG, FLIGHT),
    ("last_block_sum", 1, (), MISSED, MISSED, RACE),
    ("last_block_sum", 2, (), WRONG, WRONG, RACE),
    ("last_group_sum", 1, (), MISSED, MISSED, RACE),
    ("last_group_sum", 2, (), MISSED, MISSED, RACE),
    ("last_group_sum", 3, (), MISSED, MISSED, f"{RACE}|{UNSET}"),
    ("grid_reverse", 1, (), WRONG, WRONG, UNSET),
    ("named_barriers", 1, (), STUCK, STUCK, f"{RACE}|{UNSET}|{STUCK}"),
    ("proxy_product", 1, (), MISSED, MISSED, "missing fence.proxy.async"),
    ("proxy_product", 2, (), MISSED, MISSED, f"{RACE}|{UNSET}|missing fence.proxy.async"),
    ("proxy_product", 3, (), MISSED, MISSED, f"{RACE}|mbarrier not initialised"),
    ("tma_double", 1, (), MISSED, MISSED, "missing fence.proxy.async"),
    ("tma_double", 2, (), WRONG, WRONG, "race with asynchronous read"),
    ("tma_double", 3, (), *3 * ["TMA store not waited for"]),
]
NAMES = [f"{demo}-{bug}" for demo, bug, *_ in BUGS]


@needs_emulator
@pytest.mark.parametrize(("demo", "bug", "sizes", "plain", "asan", "race"), BUGS, ids=NAMES)
def test_seeded_bugs_are_found(programs, demo, bug, sizes, plain, asan, race):
    """Each by at least one sanitised build, whatever the order in which threads run."""
    assert asan or race
    for kind, expected in zip(build.BUILDS, (plain, asan, race), strict=True):
        for schedule in SCHEDULES if expected else []:
            status, printed = run(programs("demos", kind), demo, bug, *sizes, schedule=schedule)
            assert status != 0, f"{kind} {schedule} found nothing\n{printed}"
            assert re.search(expected, printed), f"{kind} {schedule}\n{printed}"


# ---- what nvcc makes of it -------------------------------------------------------------------

GPUS = {"sm_90a": "arch=compute_90a,code=sm_90a", "sm_80": "arch=compute_80,code=sm_80"}
INSTRUCTIONS = {  # of tests/simt/conformance.cu
    "sm_80": [
        r"cp\.async\.cg\.shared\.global",
        r"cp\.async\.ca\.shared\.global",
        r"ldmatrix\.sync\.aligned\.m8n8\.x4\.shared",
        r"ldmatrix\.sync\.aligned\.m8n8\.x4\.trans",
        r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16",
        r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16",
        r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.tf32",
    ],
    "sm_90a": [
        *(rf"wgmma\.mma_async\.sync\.aligned\.m64n{n}k16\.f32\.bf16" for n in (64, 128, 192, 256)),
        *(rf"wgmma\.mma_async\.sync\.aligned\.m64n{n}k16\.f32\.f16" for n in (64, 128, 192, 256)),
        *(rf"wgmma\.mma_async\.sync\.aligned\.m64n{n}k8\.f32\.tf32" for n in (64, 128, 192, 256)),
        r"cp\.async\.bulk\.tensor\.2d\.shared::cluster",
        r"cp\.async\.bulk\.tensor\.2d\.global\.shared::cta",
        r"mbarrier\.try_wait\.parity",
        r"fence\.proxy\.async",
        r"setmaxnreg\.inc",
        r"griddepcontrol\.wait",
        r"griddepcontrol\.launch_dependents",
    ],
}
SM90A_INSTRUCTIONS = [  # of the product on Hopper
    *INSTRUCTIONS["sm_90a"][:13],
    r"setmaxnreg\.dec",
    r"setmaxnreg\.inc",
]
# The kernels of csrc/cuda are compiled by the build, where FASTNN_WERROR=ON makes errors of spilled
# registers and of local memory. Here: the wrappers, and what ptxas only mentions.
COMPILED = [("tests/simt/conformance.cu", gpu) for gpu in GPUS]
COMPILED += [(source, "sm_90a") for source in build.relative("csrc/cuda/*_sm90a.cu")]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize(("source", "gpu"), COMPILED)
def test_nvcc_compiles_without_spills(tmp_path, source, gpu):
    """Registers suffice, no array lies in local memory, and the wrappers are what they say."""
    includes = [f"-I{build.ROOT / folder}" for folder in ("csrc", "csrc/cuda", "tests/simt")]
    command = ["nvcc", *build.NVCC, *includes, "-gencode", GPUS[gpu], "-Xptxas", "-v", "--keep"]
    command += ["--keep-dir", str(tmp_path), "-c", str(build.ROOT / source)]
    printed = build.run([*command, "-o", str(tmp_path / "object.o")]).stderr
    assert "ptxas info" in printed
    assert "serialized" not in printed, f"wgmma instructions run one by one\n{printed}"
    for line in printed.splitlines():
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line)
        assert not frame or frame.groups() == ("0", "0"), printed
    wanted = SM90A_INSTRUCTIONS
    if source.startswith("tests"):
        wanted = INSTRUCTIONS["sm_80"] + (INSTRUCTIONS[gpu] if gpu != "sm_80" else [])
    (ptx,) = tmp_path.glob("*.ptx")
    text = ptx.read_text(encoding="utf-8")
    for instruction in wanted:
        assert re.search(instruction, text), f"no {instruction}"

"""Builds the programs of tests/simt with g++, in three ways, and the module as a library. An object
is made again when its source or any header is newer. As a script:
python simt_build.py FOLDER [PROGRAM] [BUILD]."""

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EMULATOR = [
    "fiber",
    "scheduler",
    "collectives",
    "async_copy",
    "tensor_copy",
    "matrix",
    "wgmma",
    "graph",
    "runtime",
]
BUILDS = ("plain", "asan", "race")
COMMON = [
    "-std=c++20",
    "-O2",
    "-g1",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-DFASTNN_SCALAR_ONLY",
]
KERNELS = ["-fno-strict-aliasing", "-ftrivial-auto-var-init=pattern"]
EMULATOR_FLAGS = {
    "plain": [],
    "module": ["-fPIC", "-fvisibility=hidden", '-DFASTNN_CUDA_ARCHITECTURES="emulated"'],
    "asan": ["-DEMU_ASAN=1"],
    "race": ["-DEMU_RACE=1"],
}
SANITIZERS = {
    "plain": [],
    "module": [],
    "asan": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    # Not linked to libtsan: hooks.cpp takes its place. -fno-tree-sra keeps accesses of 16 bytes.
    "race": ["-fsanitize=thread", "-fno-tree-sra", "--param=tsan-instrument-func-entry-exit=0"],
}

CPU_FLAGS = ["-DFNN_ISA=scalar", '-DFNN_VEC_HEADER="vec_scalar.h"', "-fno-math-errno"]


def sources(program):
    """The files of a program besides the emulator, from the root of the repository."""
    if program == "matmul_ops":
        cuda = [*relative("csrc/cuda/matmul*.cu"), "csrc/cuda/column_sum.cu"]
        cpu = [file for file in CPU if "matmul" in file or "column_sum" in file]
        return ["tests/simt/matmul_ops.cpp", *cuda, *cpu]
    if program == "demos":
        return ["tests/simt/demos.cpp", *relative("tests/simt/kernels/*.cu")]
    if program == "ops":
        return [*relative("tests/simt/ops*.cpp"), *relative("csrc/cuda/*.cu"), *CPU]
    if program == "transfers":
        return ["tests/simt/transfers.cpp", "csrc/cuda/device/transfer.cu"]
    if program == "steps":
        device = [f"csrc/cuda/device/{name}" for name in STEPS]
        plan = [*relative("csrc/plan/*.cpp"), *relative("csrc/core/*.cpp")]
        cpu = [file for file in CPU if file not in plan] + [BF16]
        return ["tests/simt/steps.cpp", *relative("csrc/cuda/*.cu"), *device, *plan, *cpu]
    if program == "module":
        device = [*relative("csrc/cuda/device/*.cpp"), *relative("csrc/cuda/device/*.cu")]
        return ["tests/simt/module.cpp", *relative("csrc/cuda/*.cu"), *device]
    return [f"tests/simt/{program}.cu"]


def relative(pattern):
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


# The CPU's kernels that those of csrc/cuda are compared with.
CPU = ["csrc/core/matmul_plan.cpp", *relative("csrc/cpu/*.cpp")]
BF16 = "csrc/cpu/matmul_bf16.cpp"
CPU.remove(BF16)
STEPS = ("steps.cpp", "steps.cu", "table.cpp", "transfer.cu")


def cuda_include():
    """The folder of CUDA's headers, which g++ can read too, or None."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        homes.append(Path(nvcc).resolve().parents[1])
    folders = [Path(home) / "include" for home in homes if home]
    return next((str(folder) for folder in folders if (folder / "cuda_bf16.h").exists()), None)


def missing():
    """What the emulator needs and is not there, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "x86-64 Linux"
    if shutil.which("g++") is None:
        return "g++"
    return None if cuda_include() else "CUDA's headers"


def native_flags():
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return ["-mavx2", "-mfma"] if " avx2 " in flags and " fma " in flags else []


def newest_header():
    patterns = ("tests/simt/**/*.h", "csrc/cuda/**/*.*h", "csrc/core/*.h", "csrc/plan/*.h")
    patterns += ("csrc/cpu/simd/*.h",)
    headers = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return max(path.stat().st_mtime for path in [*headers, ROOT / "csrc/ops.def", Path(__file__)])


def compile_command(source, build):
    """The flags for one file: kernels are instrumented, the emulator is not."""
    if source in (*CPU, BF16):
        flags = [*COMMON, *CPU_FLAGS, *native_flags()]
        return ["g++", *flags, "-c", str(ROOT / source)]
    is_kernel = source.endswith(".cu")
    includes = ["tests/simt", "csrc/cuda", "csrc"]
    instrumented = is_kernel or build == "asan"
    flags = [*COMMON, *native_flags(), *EMULATOR_FLAGS[build]]
    flags += [f"-I{ROOT / folder}" for folder in includes] + ["-isystem", cuda_include()]
    flags += KERNELS if is_kernel else []
    flags += ["-w"] if "/kernels/" in source else []  # some of the seeded bugs give warnings
    flags += SANITIZERS[build] if instrumented else []
    return ["g++", *flags, "-x", "c++", "-c", str(ROOT / source)]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def make(folder, program, build, workers=2):
    """The path of the program, built where needed."""
    emulator = EMULATOR + (["race", "hooks"] if build == "race" else [])
    files = [f"tests/simt/{name}.cpp" for name in emulator] + sources(program)
    kinds = {file: "cpu" if file in (*CPU, BF16) else build for file in files}
    objects = {file: folder / kinds[file] / (file.replace("/", "_") + ".o") for file in files}
    for kind in set(kinds.values()):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    newest = newest_header()

    def compile_one(file):
        needed = max(newest, (ROOT / file).stat().st_mtime)
        if not objects[file].exists() or objects[file].stat().st_mtime < needed:
            run([*compile_command(file, build), "-o", str(objects[file])])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(compile_one, files))
    binary = folder / build / program
    link = SANITIZERS[build] if build == "asan" else []
    link = ["-shared", "-Wl,--no-undefined"] if build == "module" else link
    run(["g++", *link, *map(str, objects.values()), "-o", str(binary)])
    return binary


NVCC = ["-std=c++20", "-O3", "--fmad=false", "--expt-relaxed-constexpr", "-lineinfo"]


def make_for_gpu(folder, program, gpu):
    """The path of a program for a GPU, of compute capability "90" for example, built by nvcc."""
    kernels = f"-gencode=arch=compute_{gpu},code=sm_{gpu}"
    hopper = "-gencode=arch=compute_90a,code=sm_90a"
    includes = [f"-I{ROOT / name}" for name in ("tests/simt", "csrc/cuda", "csrc")]
    folder = folder / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    objects = {file: folder / (file.replace("/", "_") + ".o") for file in sources(program)}
    newest = newest_header()

    def compile_one(file):
        needed = max(newest, (ROOT / file).stat().st_mtime)
        code = hopper if gpu == "90" or file.endswith("_sm90a.cu") else kernels
        command = ["nvcc", *NVCC, *includes, code, "-x", "cu", "-c", str(ROOT / file)]
        command = compile_command(file, "plain") if file in CPU else command
        if not objects[file].exists() or objects[file].stat().st_mtime < needed:
            run([*command, "-o", str(objects[file])])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, objects))
    binary = folder / program
    run(["nvcc", *map(str, objects.values()), "-o", str(binary)])
    return binary


if __name__ == "__main__":
    for build in sys.argv[3:] or BUILDS:
        print(make(Path(sys.argv[1]).resolve(), *(sys.argv[2:3] or ["demos"]), build, workers=1))

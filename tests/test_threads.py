"""Threads, forks, signals, and the process around them."""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support import available_isas, threads

import fastnn as fnn
from fastnn import ops

WATCHDOG = 120  # seconds; only a hang takes that long
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's processes and signals")

PRELUDE = """
import os, signal, sys, threading, time
import numpy as np
import fastnn as fnn
from fastnn import ops
a = np.random.default_rng(0).standard_normal((400, 400)).astype(np.float32)

def product():
    return ops.matmul(a, a).tobytes()
"""


def environment(**variables):
    paths = [str(Path(fnn.__file__).parents[1]), str(HERE)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTNN_")}
    return kept | {"PYTHONPATH": os.pathsep.join(paths)} | variables


def start(code, *, prelude=PRELUDE, **variables):
    """A Python process of its own, away from the source tree."""
    # Python 3.12 and later warn of any fork beside threads; that ours survives is what is tested.
    quiet = "ignore:This process:DeprecationWarning"
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-W", quiet, "-c", prelude + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment(**variables),
    )


def finish(process):
    """Exit status, standard output and standard error."""
    try:
        out, err = process.communicate(timeout=WATCHDOG)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"hangs: {process.communicate()}")
    return process.returncode, out, err


def run(code, **options):
    """Standard output of a process that must succeed and say nothing on standard error."""
    status, out, err = finish(start(code, **options))
    assert (status, err) == (0, "")
    return out.strip()


# ---- how many --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 1025, 10**6, 2**70, -(2**70), "a", "4", True, 1.5, 2.0, None])
def test_a_wrong_number_of_threads_is_refused(n):
    before = fnn.get_num_threads()
    with pytest.raises(ValueError, match="set_num_threads: n must be an integer from 1 to 1024"):
        fnn.set_num_threads(n)
    assert fnn.get_num_threads() == before


@pytest.mark.parametrize("n", [1, 2, 1024, np.int64(3)])
def test_a_number_of_threads_is_kept(n):
    with threads(n):
        assert fnn.get_num_threads() == n
        assert fnn.show_config("dicts")["cpu"]["threads"] == n


@pytest.mark.parametrize("text", ["abc", "0", "-1", "1025", "1.5", "2 3", "4x", "9" * 30])
def test_a_wrong_fastnn_num_threads_is_refused_by_name(text):
    status, _, err = finish(start("", FASTNN_NUM_THREADS=text))
    assert status == 1
    assert "ValueError: FASTNN_NUM_THREADS must be an integer from 1 to 1024" in err
    assert repr(text) in err


@pytest.mark.parametrize("text", ["bogus", "AVX2", "sse", "avx2,scalar"])
def test_a_wrong_fastnn_isa_is_refused_by_name(text):
    status, _, err = finish(start("", FASTNN_ISA=text))
    assert status == 1
    assert f"ValueError: FASTNN_ISA='{text}'" in err
    assert "scalar" in err  # one that could be used


def test_the_environment_sets_threads_and_isa():
    code = "print(fnn.get_num_threads(), fnn.show_config('dicts')['cpu']['isa'])"
    for isa in available_isas():
        assert run(code, FASTNN_NUM_THREADS="3", FASTNN_ISA=isa) == f"3 {isa}"
    assert run(code, FASTNN_NUM_THREADS="", FASTNN_ISA="").split()[1] == available_isas()[0]


def test_the_default_respects_affinity():
    code = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    prelude = f"import os\n{code}\n{PRELUDE}"
    assert run("print(fnn.get_num_threads())", prelude=prelude) == "1"


CGROUPS = {
    "v2": ("0::/job/step", {"job/step/cpu.max": "50000 100000"}, 1),
    "v2-parent": ("0::/job/step", {"job/step/cpu.max": "max 100000", "job/cpu.max": "9 10"}, 1),
    "v2-root": ("0::/", {"cpu.max": "100 100000"}, 1),
    "v2-none": ("0::/job", {"job/cpu.max": "max 100000"}, None),
    "v2-nonsense": ("0::/job", {"job/cpu.max": "what"}, None),
    "v2-large": ("0::/job", {"job/cpu.max": "99999999 100000"}, None),
    "v1": (
        "4:cpu,cpuacct:/job\n3:memory:/job",
        {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"},
        1,
    ),
    "v1-none": (
        "4:cpuacct,cpu:/job",
        {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"},
        None,
    ),
    "missing": ("0::/job", {}, None),
}


@pytest.mark.parametrize(("groups", "files", "expected"), CGROUPS.values(), ids=CGROUPS)
def test_the_default_respects_the_quota_of_a_cgroup(groups, files, expected, tmp_path):
    """With folders of our own in the place of the system's, in a mount namespace of our own."""
    (tmp_path / "groups").write_text(groups + "\n")
    for name, text in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    (tmp_path / "fs").mkdir(exist_ok=True)
    prelude = (
        f"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
NEW_NAMESPACE, BIND, PRIVATE, RECURSIVE = 0x20000, 0x1000, 0x40000, 0x4000
def mount(source, target, flags):
    return libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)
if (
    libc.unshare(NEW_NAMESPACE)
    or mount("none", "/", PRIVATE | RECURSIVE)
    or mount({str(tmp_path / "fs")!r}, "/sys/fs/cgroup", BIND)
    or mount({str(tmp_path / "groups")!r}, f"/proc/{{os.getpid()}}/cgroup", BIND)
):
    print("not permitted")
    sys.exit()
"""
        + PRELUDE
    )
    out = run("print(fnn.get_num_threads(), len(os.sched_getaffinity(0)))", prelude=prelude)
    if out == "not permitted":
        pytest.skip("no permission to mount")
    found, cpus = map(int, out.split())
    assert found == (cpus if expected is None else min(expected, cpus))


# ---- forks -----------------------------------------------------------------------------------


def test_a_forked_child_computes_the_same_bits():
    code = """
    fnn.set_num_threads(4)
    expected = product()
    def fork(depth):
        child = os.fork()
        if child == 0:
            good = product() == expected and (depth == 0 or fork(depth - 1) == 0)
            os._exit(0 if good else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(fork(0), fork(3), product() == expected)
    """
    assert run(code) == "0 0 True"


def test_many_forks():
    code = """
    fnn.set_num_threads(3)
    expected = product()
    bad = 0
    for i in range(200):
        child = os.fork()
        if child == 0:
            os._exit(0 if product() == expected else 1)
        if i % 3 == 0:
            bad += product() != expected
        bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    print(bad)
    """
    assert run(code) == "0"


def test_a_fork_while_another_thread_computes():
    code = """
    fnn.set_num_threads(3)
    expected = product()
    stop, wrong = threading.Event(), []
    def compute():
        while not stop.is_set():
            if product() != expected:
                wrong.append(1)
    worker = threading.Thread(target=compute)
    worker.start()
    bad = 0
    for i in range(50):
        child = os.fork()
        if child == 0:
            os._exit(0 if product() == expected else 1)
        bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    stop.set()
    worker.join()
    print(bad, wrong)
    """
    assert run(code) == "0 []"


def test_a_trainer_goes_on_in_a_forked_child():
    code = """
    from trainers import data, fingerprint, network, trainer
    fnn.set_num_threads(3)
    x, y = data(600)
    ours, unbroken = (trainer(network(hidden=256)) for _ in range(2))
    unbroken.fit(x, y, epochs=2)
    ours.fit(x, y)
    child = os.fork()
    ours.fit(x, y)
    good = fingerprint(ours) == fingerprint(unbroken)
    if child == 0:
        os._exit(0 if good else 1)
    print(good, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(code) == "True 0"


# ---- several threads of Python ---------------------------------------------------------------


def test_twelve_threads_have_the_bits_of_one():
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((257, 129 + i)).astype(np.float32) for i in range(12)]

    def compute(a):
        y = ops.matmul(a, a, transpose_b=True, activation="gelu")
        loss, dy = ops.softmax_cross_entropy(y, np.arange(257) % 257)
        return y, loss, dy, ops.l2_norm(dy), ops.column_sum(dy)

    results = [[] for _ in factors]
    with threads(3):
        expected = [compute(a) for a in factors]

        def work(i):
            for _ in range(10):
                results[i].append(compute(factors[i]))

        workers = [threading.Thread(target=work, args=(i,)) for i in range(12)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for found, right in zip(results, expected, strict=True):
        assert len(found) == 10
        for values in found:
            for value, other in zip(values, right, strict=True):
                assert_array_equal(value, other)


def test_the_number_of_threads_may_change_while_others_compute():
    a = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
    expected = ops.matmul(a, a).tobytes()
    wrong = []

    def work():
        for _ in range(60):
            if ops.matmul(a, a).tobytes() != expected:
                wrong.append(1)

    before = fnn.get_num_threads()
    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            fnn.set_num_threads(random.randint(1, 6))
    finally:
        fnn.set_num_threads(before)
    assert wrong == []


def test_a_list_may_change_while_an_op_runs():
    """The arrays of a list call are held by the call."""
    params = [np.ones(200_000, np.float32) for _ in range(4)]
    grads = [np.ones(200_000, np.float32) for _ in range(4)]
    done = threading.Event()

    def disturb():
        while not done.is_set():
            params[:] = [np.ones(200_000, np.float32) for _ in range(4)]

    worker = threading.Thread(target=disturb)
    worker.start()
    for _ in range(50):
        ops.sgd_step(params, grads, lr=0.1)
    done.set()
    worker.join()


# ---- the end of a process --------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.05, 0.1, 0.2])
def test_exit_while_daemon_threads_compute(seconds):
    code = f"""
    from trainers import data, network, trainer
    x, y = data(2000)
    fnn.set_num_threads(3)
    def work(i):
        ours = trainer(network(hidden=128))
        while True:
            if i % 3 == 0:
                product()
            elif i % 3 == 1:
                ours.fit(x, y, batch_size=64)
            else:
                ops.relu(a[:2])
    for i in range(6):
        threading.Thread(target=work, args=(i,), daemon=True).start()
    time.sleep({seconds})
    """
    run(code)


# ---- signals ---------------------------------------------------------------------------------

INTERRUPTED = """
from trainers import data, fingerprint, network, trainer
training = False
def handler(number, frame):
    if training:
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, handler)
fnn.set_num_threads(2)
x, y = data(3000)
def fresh():
    return trainer(network(hidden=192), check_finite=True)
unbroken = fresh()
unbroken.fit(x, y, epochs=8, batch_size=64)
ours = fresh()
interruptions = 0
print("ready", flush=True)
while ours.epochs < 8:
    try:
        training = True
        ours.fit(x, y, epochs=8 - ours.epochs, batch_size=64)
        training = False
    except KeyboardInterrupt:
        training = False
        interruptions += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)  # those still to come
print(interruptions > 0, fingerprint(ours) == fingerprint(unbroken), flush=True)
"""


def test_training_goes_on_after_ctrl_c_at_any_time():
    process = start(INTERRUPTED)
    assert process.stdout.readline() == "ready\n"
    rng = random.Random(0)
    for _ in range(12):
        time.sleep(rng.uniform(0.001, 0.02))
        process.send_signal(signal.SIGINT)
    assert finish(process) == (0, "True True\n", "")


def test_ctrl_c_ends_a_long_native_call():
    code = """
    from trainers import data, network, trainer
    signal.signal(signal.SIGINT, signal.default_int_handler)
    x, y = data(1000)
    ours = trainer(network(hidden=128))
    print("ready", flush=True)
    try:
        ours.steps(x, y, batch_size=100, n=10_000_000)
    except KeyboardInterrupt:
        losses = ours.steps(x, y, batch_size=100, n=3)
        print(0 < ours.updates < 10_000_000, np.isfinite(losses).all())
    """
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert finish(process) == (0, "True True\n", "")


def test_a_signals_handler_may_use_the_trainer():
    code = """
    from trainers import data, fingerprint, network, trainer
    x, y = data(3000)
    ours, unbroken = trainer(network(hidden=192)), trainer(network(hidden=192))
    seen, refused = [], []
    def handler(number, frame):
        seen.append(ours.predict(x[:50]).shape)
        ours.save(path)
        try:
            ours.step(x[:10], y[:10])
        except RuntimeError as error:
            refused.append(str(error))
    import tempfile
    path = tempfile.mktemp()
    unbroken.steps(x, y, batch_size=300, n=600)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    ours.steps(x, y, batch_size=300, n=600)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(len(seen) > 0, all("busy" in text for text in refused))
    if len(seen) == len(refused):
        assert fingerprint(ours) == fingerprint(unbroken)
    os.unlink(path)
    """
    assert run(code) == "True True"


# ---- next to others --------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["torch", "sklearn.neural_network", "scipy.linalg"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_other_libraries_may_come_first_or_second(other, order):
    if importlib.util.find_spec(other.partition(".")[0]) is None:
        pytest.skip(f"no {other}")
    lines = [f"import {other}", "import fastnn as fnn"]
    if order == "second":
        lines.reverse()
    code = """
    import numpy as np
    from fastnn import ops
    fnn.set_num_threads(3)
    a = np.ones((400, 400), np.float32)
    expected = a @ a
    if "torch" in globals():
        assert (torch.from_numpy(a) @ torch.from_numpy(a)).sum() == expected.sum()
    print((ops.matmul(a, a) == expected).all())
    """
    assert run(code, prelude="\n".join(lines) + "\n") == "True"


def test_no_thread_to_be_had_is_one_warning_and_the_same_bits():
    code = """
    import resource
    fnn.set_num_threads(1)
    expected = product()
    fnn.set_num_threads(4)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    if os.getuid() == 0:
        os.setuid(54321)  # the limit does not hold for root
    try:
        threading.Thread(target=print).start()
        print("unlimited")
    except RuntimeError:
        print([product() == expected for _ in range(5)])
    """
    status, out, err = finish(start(code))
    if "PermissionError" in err or "unlimited" in out:
        pytest.skip("can't limit the number of threads here")
    assert (status, out.strip()) == (0, "[True, True, True, True, True]")
    assert err.count("warning") == 1
    assert "can't create thread" in err


def test_waiting_threads_sleep():
    code = """
    fnn.set_num_threads(8)
    for _ in range(3):
        product()
    assert len(os.listdir("/proc/self/task")) >= 8
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(1)
    print(time.process_time() - before < 0.25)
    """
    assert run(code) == "True"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="MXCSR is x86's")
def test_import_and_calls_leave_the_modes_of_floating_point_alone():
    prelude = """
import ctypes
libm = ctypes.CDLL("libm.so.6")
def modes():  # glibc's fenv_t ends with MXCSR; its low 6 bits are flags
    buffer = ctypes.create_string_buffer(32)
    libm.fegetenv(buffer)
    return int.from_bytes(buffer.raw[28:32], "little") & ~0x3F
import numpy
before = modes()
"""
    code = """
    after_import = modes()
    fnn.set_num_threads(3)
    product()
    ops.gelu(a), ops.softmax(a), ops.adam_step(a, a.copy(), a * 0, a * a, step=1, lr=0.1)
    tiny = np.full(5000, 1e-40, np.float32)
    print(before == after_import == modes(), hex(before))
    print((tiny * np.float32(1) == tiny).all(), (ops.relu(tiny) == tiny).all())
    """
    out = run(code, prelude=prelude + PRELUDE).split("\n")
    assert out[0].startswith("True")
    assert out[1] == "True True"


@pytest.mark.parametrize("isa", available_isas())
def test_denormals_are_kept(isa):
    code = """
    tiny = np.full((64, 64), 1e-40, np.float32)
    one = np.eye(64, dtype=np.float32)
    for n in (1, 3):
        fnn.set_num_threads(n)
        assert (ops.matmul(tiny, one) == tiny).all()
        assert (ops.relu(tiny) == tiny).all()
        grown = np.tile(tiny, (64, 64))
        assert (ops.leaky_relu(grown) == grown).all()
        assert (ops.mse(tiny, 0 * tiny, reduction="none")[1] == 2 * tiny).all()
    """
    run(code, FASTNN_ISA=isa)


# ---- surroundings ----------------------------------------------------------------------------


def comma_locale(folder):
    """Environment in which a locale with decimal commas exists, and its name."""
    listed = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    for name in listed.split():
        if name.lower() in ("de_de.utf8", "de_de.utf-8", "fr_fr.utf8", "de_de"):
            return {}, name
    source = Path("/usr/share/i18n/locales/de_DE")
    if not source.exists() or not shutil.which("localedef"):
        pytest.skip("no locale with a decimal comma")
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
    subprocess.run(command, check=True, capture_output=True)
    return {"LOCPATH": str(folder)}, "de_DE.UTF-8"


def test_a_decimal_comma_changes_nothing(tmp_path):
    variables, name = comma_locale(tmp_path)
    prelude = (
        f"""
import ctypes, locale
locale.setlocale(locale.LC_ALL, {name!r})
assert locale.localeconv()["decimal_point"] == ","
"""
        + PRELUDE
    )
    code = """
    x = np.array([-1.0, 2.0], np.float32)
    assert ops.leaky_relu(x)[0] == np.float32(-0.01)
    param, ones = x.copy(), np.ones(2, np.float32)
    ops.adam_step(param, ones, 0 * ones, 0 * ones, step=1, lr=0.25)
    assert abs(param[0] + 1.25) < 1e-6
    try:
        ops.dropout(x, 1.5, seed=0)
    except ValueError as error:
        print(error)
    """
    assert run(code, prelude=prelude, **variables) == "dropout: p must be in [0, 1), got 1.5"


@pytest.mark.parametrize("home", ["/nonexistent", "/proc"])
def test_no_home_is_needed(home):
    code = """
    from trainers import data, trainer
    x, y = data(50)
    ours = trainer()
    ours.fit(x, y)
    print(ours.epochs)
    """
    variables = {"HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": home}
    assert run(code, **variables) == "1"


def test_other_limits_of_memory_are_an_error_and_no_crash():
    code = """
    import resource
    fnn.set_num_threads(2)
    expected = product()
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))
    large = np.broadcast_to(np.float32(1), (10_000_000, 8))
    try:
        ops.relu(large)
    except MemoryError:
        print("MemoryError", product() == expected)
    """
    assert run(code) == "MemoryError True"

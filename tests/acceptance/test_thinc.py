"""thinc's whole test suite with fastnn's Ops in the place of thinc's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("thinc", reason="thinc is not installed")

DESELECTED = [
    # Runs mypy over thinc's annotations; no Ops are involved, and mypy's messages have changed.
    "mypy/test_mypy.py",
    # Its gradient is 0 at x = -3 and 1 at x = 3 in PyTorch, the mean of both sides in thinc: fails
    # on thinc itself when Hypothesis draws those points.
    *(
        f"backends/test_ops.py::test_compare_activations_to_torch[torch_func7-{dtype}-{ops}]"
        for dtype in ("float32", "float64")
        for ops in ("ops0", "ops1")
    ),
]


def test_thinc_passes_its_own_suite(tmp_path):
    import thinc

    tests = Path(thinc.__file__).parent / "tests"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--pyargs", "thinc.tests", "-p", "thinc_on_fastnn"),
            *("-q", "--tb=short", "--hypothesis-seed=0", "-p", "no:cacheprovider"),
            *(f"--rootdir={tests}", *(f"--deselect={name}" for name in DESELECTED)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    print(result.stdout[-8000:], result.stderr[-2000:])
    assert result.returncode == 0
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None
    assert int(passed[1]) >= 1225

"""The types of fastnn.ops are those of the native functions."""

import ast
from pathlib import Path

import make_stub

import fastnn


def test_the_stub_is_fresh():
    stub = Path(fastnn.__file__).with_name("ops.pyi").read_text(encoding="utf-8")
    assert stub == make_stub.make(), "run: python tests/make_stub.py > fastnn/ops.pyi"


def test_the_stub_is_python_and_has_every_op():
    functions = [f.name for f in ast.parse(make_stub.make()).body if isinstance(f, ast.FunctionDef)]
    assert functions == list(fastnn._core.op_names)

"""Registers ``torch.ops.fastnn``: schemas, kernels, gradients, shapes.

On the CPU the kernels are those of the native library, ``fastnn/_torch.so``, where it was built and
loads, else `fastnn.torch.fallback`; on CUDA always the latter.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastnn import _core
from fastnn.torch.fallback import implementation
from fastnn.torch.gradients import gradients
from fastnn.torch.schemas import SCHEMAS, shapes

_library = torch.library.Library("fastnn", "DEF")


def _load_native() -> str | None:
    """Register the native kernels; None, or why there are none."""
    if os.environ.get("FASTNN_TORCH") == "python":
        return "FASTNN_TORCH=python"
    path = Path(_core.__file__).with_name("_torch.so")
    if not path.exists():
        return "built without PyTorch's headers"
    try:
        register = ctypes.CDLL(str(path)).fastnn_torch_register
    except (AttributeError, OSError) as error:
        return str(error)
    capsule = ctypes.pythonapi.PyCapsule_GetPointer
    capsule.restype, capsule.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    register.restype, register.argtypes = ctypes.c_bool, [ctypes.c_void_p]
    if not register(capsule(_core._api, b"fastnn._core._api")):
        return f"{path} is not of one build with fastnn._core"
    return None


def _autograd(name: str, gradient: Any) -> Callable[..., Any]:
    """What stands above the operator: records a gradient, notes what is changed in place."""
    op = getattr(torch.ops.fastnn, name).default
    changed = [
        i
        for i, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    below, after = torch._C._AutoDispatchBelowAutograd, torch._C._after_autograd_keyset
    any_requires_grad = torch._C._any_requires_grad

    def note_changes(arguments: tuple[Any, ...]) -> None:
        for i in changed:
            tensors = arguments[i]
            if tensors is not None:
                torch.autograd.graph.increment_version(tensors)

    def run(keys: Any, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and any_requires_grad(*arguments):
            if gradient is None:
                raise RuntimeError(
                    f"{name} has no gradient, but a tensor requires one; use torch.no_grad()"
                )
            with below():
                result = gradient.apply(*arguments)
        else:
            with below():
                result = op.redispatch(keys & after, *arguments)
        if changed:
            note_changes(arguments)
        return result

    return run


# Operators with a gradient, and what computes it.
differentiable: dict[str, Any] = {}


def _register() -> str | None:
    for name, schema in SCHEMAS.items():
        _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    why_not_native = _load_native()
    differentiable.update(gradients())
    for name in SCHEMAS:
        kernel = implementation(name)
        _library.impl(name, kernel, "CUDA")
        if why_not_native:
            _library.impl(name, kernel, "CPU")
        _library.impl(name, _autograd(name, differentiable.get(name)), "Autograd", with_keyset=True)
        torch.library.register_fake(f"fastnn::{name}", shapes(name), lib=_library)
    for name in differentiable:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"fastnn::{name}", device, torch.float32, lib=_library)
    return why_not_native


why_not_native = _register()

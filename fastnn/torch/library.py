"""Gives the operators of `fastnn.torch.schemas` their kernels, gradients and shapes.

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
from fastnn.torch.gradients import GRADIENTS
from fastnn.torch.schemas import SCHEMAS, library, plain, shapes


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


def _autograd(name: str) -> Callable[..., Any]:
    """What the operator does above the kernel: a gradient where one is wanted."""
    gradient, kernel = GRADIENTS.get(name), plain(name)
    any_requires_grad = torch._C._any_requires_grad

    def run(*arguments: Any) -> Any:
        if not torch.is_grad_enabled() or not any_requires_grad(*arguments):
            return kernel(*arguments)
        if gradient is None:
            raise RuntimeError(
                f"{name} has no gradient, but a tensor requires one; use torch.no_grad()"
            )
        return gradient.apply(*arguments)

    return run


def _register() -> str | None:
    why_not_native = _load_native()
    for name in SCHEMAS:
        kernel = implementation(name)
        for overload in (name, f"{name}.plain"):
            library.impl(overload, kernel, "CUDA")
            if why_not_native:
                library.impl(overload, kernel, "CPU")
            torch.library.register_fake(f"fastnn::{overload}", shapes(name), lib=library)
        library.impl(name, _autograd(name), "Autograd")
        library.impl(f"{name}.plain", torch.library.fallthrough_kernel, "Autograd")
    for name in GRADIENTS:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"fastnn::{name}", device, torch.float32, lib=library)
    return why_not_native


why_not_native = _register()

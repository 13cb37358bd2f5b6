"""What is built, what this machine has, and what is in use."""

import os
import platform
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastnn import _core


def _version() -> str:
    try:
        return version("fastnn")
    except PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _torch_facts() -> dict[str, Any]:
    """Of the operators for PyTorch, which are imported on demand only."""
    adapter = sys.modules.get("fastnn.torch")
    library = Path(_core.__file__).with_name("_torch.so")
    if adapter is None:
        return {"native_library": library.exists(), "operators": "not imported"}
    return {
        "native_library": library.exists(),
        "operators": "native" if adapter.native else "python",
        "why_not_native": adapter.why_not_native,
    }


def jax_native() -> tuple[Any, str | None]:
    """The module that XLA calls and None, or None and the reason why there is none."""
    if find_spec("fastnn._jax") is None:
        return None, "JAX was not there when fastnn was built"
    try:
        return import_module("fastnn._jax"), None
    except ImportError as error:
        return None, str(error)


def _jax_facts() -> dict[str, Any]:
    native, reason = jax_native()
    return {"calls": "native"} if native else {"calls": "through Python", "reason": reason}


def _facts() -> dict[str, Any]:
    levels = _core.isa_levels()
    return {
        "fastnn": {
            "version": _version(),
            "python": platform.python_version(),
            "platform": sys.platform,
        },
        "cpu": {
            "name": _cpu_name(),
            "isa": _core.isa(),
            "isa_available": [name for name, has in levels.items() if has],
            "isa_built": list(levels),
            "bf16_instructions": _core.has_bf16(),
            "threads": _core.get_num_threads(),
            "available_cpus": _core.available_cpus(),
            "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        },
        "cuda": _core.cuda_facts(),
        "torch": _torch_facts(),
        "jax": _jax_facts(),
    }


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show versions, instruction sets, threads, CUDA and operators, in use and available.

    Parameters
    ----------
    mode : {'stdout', 'dicts'}, default 'stdout'
        Print, or return nested dictionaries, as ``numpy.show_config``.

    Returns
    -------
    dict or None
        With ``mode='dicts'``, the keys ``fastnn``, ``cpu``, ``cuda``, ``torch`` and ``jax``.

    Raises
    ------
    ValueError
        For another mode.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"show_config: mode must be 'stdout' or 'dicts', got {mode!r}")
    facts = _facts()
    if mode == "dicts":
        return facts
    for section, values in facts.items():
        print(f"{section}:")
        for name, value in values.items():
            text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            print(f"  {name}: {text}")
    return None

"""What a measurement was made on and with: the facts that go into every file of results."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fnn
from fastnn.peers import PEERS

__all__ = ["machine_facts"]


def machine_facts(peers: Sequence[str] = ()) -> dict[str, Any]:
    """Return processor, ISA level, threads, versions (those of ``peers`` too), commit and time."""
    cpu = (fnn.show_config("dicts") or {})["cpu"]
    return {
        "cpu": cpu["name"],
        "cpus": cpu["available_cpus"],
        "isa": cpu["isa"],
        "threads": cpu["threads"],
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastnn": fnn.__version__,
        "commit": _commit(),
        "peers": {name: PEERS[name].version() for name in peers},
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Commit of the checkout that the package or the caller is in, where it is this project's."""
    for folder in (Path(__file__).parents[1], Path.cwd()):
        if (folder / "csrc" / "ops.def").is_file():
            command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
            command += ["--abbrev=40", "--exclude=*"]  # the hash, not a tag
            try:
                found = subprocess.run(
                    command, capture_output=True, text=True, timeout=10, check=False
                )
            except (OSError, subprocess.SubprocessError):  # no git, or it hangs
                return None
            return found.stdout.strip() or None
    return None

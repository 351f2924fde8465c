"""What a run ran on: code, libraries and hardware, for its record. Nothing here names a path or a host."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import bench

LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")


def code() -> dict[str, Any]:
    """Version of the suite, and, in a checkout, the commit and whether tracked files differ from it (results aside)."""
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (root / ".git").exists() or (commit := git("rev-parse", "HEAD")) is None:
        return {"version": bench.__version__, "commit": None, "dirty": None}
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    return {"version": bench.__version__, "commit": commit, "dirty": None if changed is None else bool(changed)}


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries whose numbers end up in results."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def hardware(device: torch.device) -> dict[str, Any]:
    """Device name, processor, and the threads that torch uses."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory in MiB: allocated on a GPU, resident of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

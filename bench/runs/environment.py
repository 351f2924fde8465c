"""The environment of a run, for its record: code, libraries, processor, memory. Nothing here names a path or a host."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

import bench
from bench.runs.record import Code

LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")
GIT_TIMEOUT_SECONDS = 20
SOURCES = ("bench", "recipes", "pyproject.toml", "constraints.txt")  # what results depend on


def code() -> Code:
    """The version of the suite; in a checkout also the commit, and whether code or recipes differ (new files count)."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (root / ".git").exists() or (commit := git("rev-parse", "HEAD")) is None:
        return Code(bench.__version__, None, None)
    changed = git("status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
    return Code(bench.__version__, commit, None if changed is None else bool(changed))


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def processor() -> str:
    """The name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_resident_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

"""The cache folder, which all runs share, and locks between processes."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from bench.config.schema import RecipeError

LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """$LOCALITY_BENCH_CACHE, else locality-bench/ in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    if chosen := os.environ.get("LOCALITY_BENCH_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "locality-bench"


class RunLocked(RecipeError):
    """Another process is running the same; try again later."""


def exclusive(folder: Path, busy: str) -> AbstractContextManager[object]:
    """Hold the lock of a folder in a `with` block. Raises RunLocked with the sentence `busy` if another process has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _lock_of(folder).acquire(timeout=1, poll_interval=0.02)  # `is_held` takes it for an instant
    except Timeout:
        raise RunLocked(busy) from None


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of `exclusive`. The system frees it however that process ends."""
    lock = _lock_of(folder)
    if not os.path.exists(lock.lock_file):
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # read-only results of somebody else
        return False
    lock.release()
    return False


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def locked(folder: Path, waiting_for: str) -> AbstractContextManager[object]:
    """Hold the lock of a cache folder in a `with` block. If another process holds it, wait and say for what."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        LOG.warning(f"waiting for {waiting_for}, which another process is making")
        return lock.acquire()

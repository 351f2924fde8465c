"""The folder outside the repository where decoded datasets and trained guides are kept and shared by all runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bench.schema import RecipeError


def cache_folder() -> Path:
    """$LOCALITY_BENCH_CACHE, else locality-bench/ in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    if chosen := os.environ.get("LOCALITY_BENCH_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "locality-bench"


class Busy(RecipeError):
    """Another process does the same: later there will be nothing in the way."""


@contextmanager
def exclusive(folder: Path, busy: str) -> Iterator[None]:
    """Hold the lock that belongs to a folder, or raise Busy with the sentence `busy` when another process does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(folder)
    try:
        lock.acquire(timeout=1, poll_interval=0.02)  # who only asks `is_held` has it for an instant
    except Timeout:
        raise Busy(busy) from None
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of `exclusive`: the system frees it when that process ends, however it ends."""
    lock = _lock_of(folder)
    if not os.path.exists(lock.lock_file):
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # somebody else's results, which may only be read
        return False
    lock.release()
    return False


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


@contextmanager
def locked(folder: Path, waiting_for: str) -> Iterator[None]:
    """Hold the lock that belongs to a cache folder; says what it waits for when another process holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for {waiting_for}, which another process is making", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

"""The processor cores that this process may use."""

from __future__ import annotations

import os


def available_cores() -> list[int]:
    """Numbers of the cores that this process may run on: a sweep or a scheduler may have given it a part of them."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_per_process() -> int:
    """A process's share of the cores, among the processes that a launcher started on this machine."""
    return max(1, len(available_cores()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

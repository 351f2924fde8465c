"""The processor cores that this process may use."""

from __future__ import annotations

import os

CORES = "LOCALITY_BENCH_CORES"  # set by a sweep: how many cores one of its runs may use


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use: those it may run on, and no more than a sweep gives to a run."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    share = os.environ.get(CORES, "")
    return cores[: max(1, int(share))] if share.isdecimal() else cores


def cores_per_process() -> int:
    """A process's share of the cores, among the processes that a launcher started on this machine."""
    return max(1, len(available_cores()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

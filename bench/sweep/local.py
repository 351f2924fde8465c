"""A suite on one machine: a run on each GPU, or on a CPU as many one-thread runs as there are cores."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bench.cores import available_cores
from bench.recipes import Registry
from bench.report import write
from bench.run import STOPPED
from bench.schema import RecipeError
from bench.sweep.plan import Job, Plan, plan

SCRIPT = Path(__file__).parents[1] / "run.py"


@dataclass(frozen=True)
class Slot:
    """A place where one run at a time goes on."""

    gpu: str | None
    cores: tuple[int, ...]

    def environment(self) -> dict[str, str]:
        """The variables of a run in this slot."""
        out = dict(os.environ)
        if self.gpu is not None:
            out["CUDA_VISIBLE_DEVICES"] = self.gpu
        else:
            # The small models of a CPU suite gain little from a second thread: two runs side by side gain more.
            out.setdefault("OMP_NUM_THREADS", str(len(self.cores)))
        return out

    def confine(self, process: subprocess.Popen) -> None:
        """Give a run its share of the cores, which its data workers then count by."""
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, self.cores)


def gpus() -> list[str]:
    """The GPUs that may be used, asked of the driver's own tool, since importing torch takes seconds."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    there = [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None or listed.returncode else [name for name in visible.split(",") if name.strip()]


def slots(jobs: int) -> list[Slot]:
    """Where `jobs` runs go on this machine."""
    cores, found = available_cores(), gpus()
    count = len(found) or max(1, min(len(cores), jobs))
    share = max(1, len(cores) // count)
    shares = [tuple(cores[(i * share) % len(cores) :][:share]) for i in range(count)]
    return [Slot(gpu, own) for gpu, own in zip(found or [None] * count, shares, strict=True)]


def sweep(arguments: argparse.Namespace) -> int:
    """Run what is missing of a suite, then draw its report.

    Returns:
        0 when every cell is recorded, 3 when some failed.
    """
    registry = Registry(*arguments.recipes_dir)
    suite = registry.suite(arguments.suite)
    todo = plan(registry, suite, arguments.results_dir, arguments.seeds, arguments.filter, arguments.data_dir or "data")
    options = ["--results-dir", arguments.results_dir]
    options += ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    options += [word for folder in arguments.recipes_dir for word in ("--recipes-dir", folder)]
    if arguments.data_dir and not Path(arguments.data_dir).is_dir() and not arguments.dry_run:
        raise RecipeError(f"--data-dir {arguments.data_dir}: no such folder")
    if arguments.dry_run:
        _print_plan(todo, suite.name, options)
        return 0
    cells = sum(not job.is_guide for job in todo.jobs)
    print(f"suite {suite.name}: {len(todo.recorded)} cells recorded, {cells} to run")
    failed = _Sweep(todo, suite.name, options).run() if todo.jobs else {}
    there = len(todo.recorded) + sum(job.folder.record(job.recipe) is not None for job in todo.jobs if not job.is_guide)
    if there:
        (table,) = write(registry, [suite], arguments.results_dir)
        if todo.jobs:
            print(f"\n{table}\n")
        print(f"tables, pictures and page: {Path(arguments.results_dir, 'index.html')}")
    if not failed:
        print(f"suite {suite.name}: all {len(todo.recorded) + cells} cells are recorded")
        return 0
    print(f"suite {suite.name}: {len(failed)} failed", file=sys.stderr)
    for name, reason in failed.items():
        print(f"  {name}: {reason}", file=sys.stderr)
    return 3


def _print_plan(todo: Plan, suite: str, options: list[str]) -> None:
    for job in todo.recorded:
        print(f"recorded  {job.name}")
    for job in todo.jobs:
        command = job.command("python", Path("bench/run.py"), suite, options)
        print(f"{'guide' if job.is_guide else 'to run':<8}  {job.name}\n          {' '.join(command)}")


class _Sweep:
    """The jobs of a plan, each started in a free slot as soon as its guide is there."""

    def __init__(self, todo: Plan, suite: str, options: list[str]) -> None:
        self._waiting = list(todo.jobs)
        self._suite, self._options = suite, options
        self._free = slots(len(todo.jobs))
        self._running: dict[subprocess.Popen, tuple[Job, Slot, float]] = {}
        self._ended: set[str] = set()
        self._failed: dict[str, str] = {}
        self._keys_failed: set[str] = set()
        self._total = len(todo.jobs)

    def run(self) -> dict[str, str]:
        """Run all; returns {name: the error's last line} of the cells and guides that failed."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # through `finally`, so that no run is orphaned
        try:
            while self._waiting or self._running:
                self._start()
                self._collect()
                time.sleep(0.2)
        finally:
            self._stop()
        return self._failed

    def _start(self) -> None:
        for job in list(self._waiting):
            if job.needs in self._keys_failed:
                self._waiting.remove(job)
                self._end(job, "its guide could not be trained", 0.0)
            elif self._free and (job.needs is None or job.needs in self._ended):
                self._waiting.remove(job)
                slot = self._free.pop(0)
                job.folder.log.parent.mkdir(parents=True, exist_ok=True)
                with open(job.folder.log, "a", encoding="utf-8") as log:
                    command = job.command(sys.executable, SCRIPT, self._suite, self._options)
                    # A group of its own, so that stopping a run also stops its data workers.
                    process = subprocess.Popen(
                        command, env=slot.environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                slot.confine(process)
                self._running[process] = job, slot, time.perf_counter()

    def _collect(self) -> None:
        for process, (job, slot, began) in list(self._running.items()):
            if (code := process.poll()) is None:
                continue
            del self._running[process]
            self._free.append(slot)
            # A cell that diverged is an outcome, which the table shows; a guide that did is none.
            ended = code == 0 or (not job.is_guide and job.folder.record(job.recipe) is not None)
            self._end(job, "" if ended else _last_line(job), time.perf_counter() - began)

    def _end(self, job: Job, error: str, seconds: float) -> None:
        self._ended.add(job.key)
        counted = f"[{len(self._ended):>{len(str(self._total))}}/{self._total}]"
        if error:
            self._keys_failed.add(job.key)
            self._failed[job.name] = error
            print(f"{counted} {job.name}: FAILED: {error}", flush=True)
            return
        recipe = job.recipe.guide if job.is_guide else job.recipe
        record = job.folder.record(recipe)
        outcome = "in the cache"
        if record:
            outcome = "diverged" if record.get("diverged") else f"{record['last_accuracy']:.2f} %"
        print(f"{counted} {job.name}: {outcome}  ({tqdm.format_interval(seconds)})", flush=True)

    def _stop(self) -> None:
        """End what still runs, when the sweep itself is stopped."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._running:
            process.wait()


def _last_line(job: Job) -> str:
    try:
        lines = job.folder.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:  # set aside with its folder
        lines = []
    return f"{lines[-1].removeprefix('error: ') if lines else 'it printed nothing'} (see {job.folder.log})"

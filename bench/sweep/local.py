"""The executor of one machine: a run on each GPU, or on a CPU a one-thread run on each core.

A run has a session of its own, so that Ctrl-C at the terminal reaches only the sweep. Launchers give one to each process
they start, so what belongs to a run is known by a variable that all of it inherits. A sweep that is killed leaves its runs
behind; they go on, and the next sweep follows them by the lock that they hold on their folders, in the slots whose GPUs
they have.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.config.schema import RecipeError
from bench.cores import available_cores
from bench.locks import is_held
from bench.sweep.outcome import judge
from bench.sweep.plan import Job
from bench.sweep.scheduler import Ended, Outcome

SCRIPT = Path(__file__).parents[1] / "run.py"
MOMENT = 0.2  # s
MARK = "LOCALITY_BENCH_RUN"
PATIENCE = 120  # s that a run may take to save its state and leave


@dataclass(eq=False)
class Slot:
    """A place where one run at a time goes on: GPUs, as CUDA_VISIBLE_DEVICES names them, and a share of the cores."""

    gpus: tuple[str, ...]
    cores: tuple[int, ...]

    def environment(self) -> dict[str, str]:
        """The variables of a run in this slot."""
        out = dict(os.environ)
        if self.gpus:
            out["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        else:
            # The small models of a CPU suite gain little from a second thread: two runs side by side gain more, and with
            # always one the numbers are the same on any number of cores.
            out.setdefault("OMP_NUM_THREADS", "1")
        return out

    def command(self, job: Job, options: Sequence[str]) -> list[str]:
        """The command of a job here; `options` go to every job alike."""
        launcher = self.launcher(job)
        processes = ["--num-processes", str(len(self.gpus))] if len(launcher) > 1 else []
        return job.command(launcher, SCRIPT, [*options, *processes])

    def launcher(self, job: Job) -> list[str]:
        """What starts the processes of a job here: Python itself for one, as for a teacher, else accelerate for one a GPU."""
        if len(self.gpus) < 2 or job.is_teacher:
            return [sys.executable]
        count = str(len(self.gpus))
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        return [*launch, "--num_processes", count, "--main_process_port", "0"]


def gpus() -> list[str]:
    """The GPUs that may be used, the parts of those that MIG has divided; asked of the driver's own tool, since importing
    torch takes seconds. Where the caller has set CUDA_VISIBLE_DEVICES, its names, of whichever kind they are."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    there: list[list[str]] = []
    for line in listed.stdout.splitlines():
        if line.startswith("GPU "):
            there.append([])
        elif line.strip().startswith("MIG ") and "(UUID: " in line:
            there[-1].append(line.partition("(UUID: ")[2].rstrip(") "))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or listed.returncode:
        return [name for number, parts in enumerate(there) for name in (parts or [str(number)])]
    names = [name.strip() for name in visible.split(",")]
    return names[: next((i for i, name in enumerate(names) if not name or name.startswith("-")), None)]  # as CUDA reads it


def slots(gpus_per_run: int = 1, runs_per_gpu: int | None = None) -> list[Slot]:
    """Where runs go on, on this machine.

    Args:
        gpus_per_run: GPUs of a slot.
        runs_per_gpu: slots of the same GPUs (1); without a GPU, runs at once (one a core, which is also the most).

    Raises:
        RecipeError: there are not so many GPUs.
    """
    for option, value in (("--gpus-per-run", gpus_per_run), ("--runs-per-gpu", runs_per_gpu)):
        if value is not None and value < 1:
            raise RecipeError(f"{option} {value}: must be 1 or more")
    cores, found = available_cores(), gpus()
    if gpus_per_run > max(1, len(found)):
        raise RecipeError(f"--gpus-per-run {gpus_per_run}: {len(found)} GPUs can be used here")
    groups = [tuple(found[i : i + gpus_per_run]) for i in range(0, len(found) - gpus_per_run + 1, gpus_per_run)]
    places = groups * (runs_per_gpu or 1) if groups else [()] * min(runs_per_gpu or len(cores), len(cores))
    share = max(1, len(cores) // len(places))
    return [Slot(gpu, tuple(cores[(i * share) % len(cores) :][:share])) for i, gpu in enumerate(places)]


@dataclass(eq=False)
class _Run:
    """A job on its way. Without a process it is another's, which is only watched."""

    job: Job
    slot: Slot | None
    process: subprocess.Popen | None = None
    log_from: int = 0
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    told: dict[int, float] = field(default_factory=dict)  # its processes that were told to end, and when

    def end(self, hard: bool = False) -> bool:
        """Tell all processes of the run to end, each once; kills them where `hard`, or when they have not for long. Returns
        whether there are some."""
        self.process.poll()
        now, there = time.monotonic(), _marked(self.mark)
        for pid in there:
            with contextlib.suppress(ProcessLookupError):
                if hard or now > self.told.get(pid, now) + PATIENCE:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in self.told:
                    os.kill(pid, signal.SIGTERM)
            self.told.setdefault(pid, now)
        return bool(there)


class LocalExecutor:
    """The executor of this machine; see `scheduler.Executor`.

    Args:
        options: words of a run's command line that all have in common.
    """

    queues = False

    def __init__(self, places: Sequence[Slot], options: Sequence[str]) -> None:
        self._free, self._options = list(places), list(options)
        self._runs: list[_Run] = []

    def room(self) -> int:
        return len(self._free)

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            slot = self._free.pop(0)
            job.folder.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.folder.log, "ab") as log:
                run = _Run(job, slot, log_from=log.tell())
                self._runs.append(run)
                run.process = subprocess.Popen(
                    slot.command(job, self._options),
                    env={**slot.environment(), MARK: run.mark},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            if hasattr(os, "sched_setaffinity"):  # its data workers count by it
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(run.process.pid, slot.cores)

    def follow(self, job: Job) -> None:
        self._runs.append(_Run(job, self._taken_by(job)))

    def ended(self) -> list[Ended]:
        out = []
        for run in list(self._runs):
            if run.process is None:
                if is_held(run.job.folder.path):
                    continue
                outcome, error = judge(run.job, None)
                outcome = Outcome.DONE if outcome is Outcome.DONE else Outcome.ABANDONED
            elif run.process.poll() is None or run.end():
                # what outlives its leader, as the processes of a launcher that was killed do, nobody looks after
                continue
            else:
                outcome, error = judge(run.job, run.process.returncode, run.job.folder.log, run.log_from)
            self._runs.remove(run)
            if run.slot is not None:
                self._free.append(run.slot)
            if outcome is None:  # another process was quicker
                self._runs.append(_Run(run.job, None))
            else:
                out.append(Ended(run.job, outcome, error))
        if not out:
            time.sleep(MOMENT)
        return out

    def cancel(self, jobs: Sequence[Job]) -> None:
        # Of its own it has none: what needs a teacher starts when that is there.
        self._runs = [run for run in self._runs if run.process is not None or run.job not in jobs]

    def stop(self, asked: Callable[[], int]) -> None:
        others = [run.job.name for run in self._runs if run.process is None]
        runs = [run for run in self._runs if run.process is not None]
        if runs:
            hint = " (Ctrl-C again ends them at once)" if asked() else ""
            print(f"stopping: the runs save their state{hint}", file=sys.stderr, flush=True)
        while runs := [run for run in runs if run.end(hard=asked() >= 2)]:
            time.sleep(MOMENT)
        if others:
            print(f"another process started these, and they go on: {', '.join(others)}", file=sys.stderr, flush=True)

    def _taken_by(self, job: Job) -> Slot | None:
        """The slot that a run of this machine which is not this sweep's has: of its GPUs, if it has some."""
        status = job.folder.status()
        try:
            if status.get("host") != socket.gethostname():
                return None
            visible = psutil.Process(status.get("pid")).environ().get("CUDA_VISIBLE_DEVICES", "")
        except (psutil.Error, TypeError, ValueError):
            return None
        for slot in self._free:
            if not slot.gpus or set(slot.gpus) & set(visible.split(",")):
                self._free.remove(slot)
                return slot
        return None


def _marked(mark: str) -> list[int]:
    """The processes that have inherited a run's mark; those that have ended and only wait to be reaped have none."""
    out = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # of others, or gone
            if process.environ().get(MARK) == mark:
                out.append(process.pid)
    return out

"""The executor of one machine: a run on each GPU, or on a CPU a one-thread run on each core.

A run has a session of its own, so that a signal reaches all its processes and Ctrl-C at the terminal reaches only the
sweep. A sweep that is killed leaves its runs behind; they go on, and the next sweep follows them by the lock that they
hold on their folders, in the slots whose GPUs they have.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.cache import is_held
from bench.cores import available_cores
from bench.schema import RecipeError
from bench.sweep.outcome import judge
from bench.sweep.plan import Job
from bench.sweep.scheduler import Ended, Outcome

SCRIPT = Path(__file__).parents[1] / "run.py"
MOMENT = 0.2  # s
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

    def launcher(self, job: Job) -> list[str]:
        """What starts the processes of a job here: Python itself for one, as for a guide, else accelerate for one a GPU."""
        if len(self.gpus) < 2 or job.is_guide:
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
    left_behind: float | None = None  # when its leader had ended and others of its group had not


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
            launcher = slot.launcher(job)
            options = [*self._options, *(["--num-processes", str(len(slot.gpus))] if len(launcher) > 1 else [])]
            job.folder.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.folder.log, "ab") as log:
                run = _Run(job, slot, log_from=log.tell())
                self._runs.append(run)
                run.process = subprocess.Popen(
                    job.command(launcher, SCRIPT, options),
                    env=slot.environment(),
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
                outcome = Outcome.DONE if outcome is Outcome.DONE else Outcome.LEFT
            elif run.process.poll() is None or self._left_behind(run):
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
        # Of its own it has none: what needs a guide starts when that is there.
        self._runs = [run for run in self._runs if run.process is not None or run.job not in jobs]

    def stop(self, asked: Callable[[], int]) -> None:
        others = [run.job.name for run in self._runs if run.process is None]
        groups = [run.process.pid for run in self._runs if run.process is not None]
        if groups:
            hint = " (Ctrl-C again ends them at once)" if asked() else ""
            print(f"stopping: the runs save their state{hint}", file=sys.stderr, flush=True)
        _signal(groups, signal.SIGTERM)
        until, killed = time.monotonic() + PATIENCE, False
        while groups := [group for group in groups if self._alive(group)]:
            if not killed and (asked() >= 2 or time.monotonic() > until):
                _signal(groups, signal.SIGKILL)
                killed = True
            time.sleep(MOMENT / 2)
        if others:
            print(f"another process started these, and they go on: {', '.join(others)}", file=sys.stderr, flush=True)

    def _alive(self, group: int) -> bool:
        """Whether a process of a run's group is there; the leader is reaped."""
        for run in self._runs:
            if run.process is not None and run.process.pid == group:
                run.process.poll()
        return bool(_members(group))

    def _left_behind(self, run: _Run) -> bool:
        """Whether processes of a run outlive its leader, as those of a launcher that was killed do. They are told to end,
        for what they go on with nobody looks after."""
        if not _members(run.process.pid):
            return False
        now = time.monotonic()
        if run.left_behind is None:
            run.left_behind = now
            _signal([run.process.pid], signal.SIGTERM)
        elif now > run.left_behind + PATIENCE:
            _signal([run.process.pid], signal.SIGKILL)
        return True

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


def _members(group: int) -> list[int]:
    """The processes of a group that have not ended; those that only wait to be reaped have."""
    out = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                out.append(process.pid)
    return out


def _signal(groups: Sequence[int], number: signal.Signals) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)

"""The executor of one machine: one run per GPU, or without a GPU one run per core.

Each run has its own session, so that Ctrl-C at the terminal reaches only the sweep. Launchers start every process in a new
session, so the processes of a run are found by an environment variable, which all of them inherit. If a sweep is killed,
its runs go on. The next sweep sees the locks on their folders, and starts no other run in the slots of their GPUs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.cli import TIMESTAMPS
from bench.config.schema import RecipeError
from bench.cores import CORES, available_cores
from bench.sweep.job import Job, JobResult, read_attached_result, read_result

LOG = logging.getLogger(__name__)
SCRIPT = Path(__file__).parents[1] / "run.py"
RUN_VARIABLE = "LOCALITY_BENCH_RUN"
POLL_SECONDS = 0.2
STOP_SECONDS = 120  # that a run may take to save its state and end
NVIDIA_SMI_SECONDS = 30


@dataclass(eq=False)
class Slot:
    """A place for one run at a time: GPUs, named as in CUDA_VISIBLE_DEVICES, and a share of the cores."""

    gpus: tuple[str, ...]
    cores: tuple[int, ...]

    def environment(self) -> dict[str, str]:
        """The variables of a run in this slot."""
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        return {**os.environ, TIMESTAMPS: "1", CORES: str(len(self.cores)), **gpus}


def launch_command(job: Job, gpus: int, options: Sequence[str]) -> list[str]:
    """The command line of a job: of Python, or of accelerate with one process per GPU (but one for a teacher).

    Args:
        options: words that all jobs of the sweep share.
    """
    if gpus < 2 or job.is_teacher:
        return job.command([sys.executable], SCRIPT, options)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launch += ["--num_processes", str(gpus), "--main_process_port", "0"]
    return job.command(launch, SCRIPT, [*options, "--num-processes", str(gpus)])


def visible_gpus() -> list[str]:
    """The GPUs that may be used, by the names in CUDA_VISIBLE_DEVICES if it is set, else by their numbers.

    The driver's own tool is asked, since importing torch takes seconds.
    """
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or answer.returncode:
        return [str(number) for number in range(len(re.findall("^GPU ", answer.stdout, re.MULTILINE)))]
    names = [name.strip() for name in visible.split(",")]
    return names[: next((i for i, name in enumerate(names) if not name or name.startswith("-")), None)]  # as CUDA reads it


def make_slots(gpus_per_run: int = 1, runs_per_gpu: int | None = None) -> list[Slot]:
    """The slots of this machine.

    Args:
        gpus_per_run: GPUs of a slot.
        runs_per_gpu: slots that share GPUs (1). Without a GPU: number of slots, at most and by default one per core.

    Raises:
        RecipeError: a number is below 1, or there are fewer GPUs.
    """
    for option, value in (("--gpus-per-run", gpus_per_run), ("--runs-per-gpu", runs_per_gpu)):
        if value is not None and value < 1:
            raise RecipeError(f"{option} {value}: must be 1 or more")
    cores, gpus = available_cores(), visible_gpus()
    if gpus_per_run > max(1, len(gpus)):
        raise RecipeError(f"--gpus-per-run {gpus_per_run}: {len(gpus)} GPUs can be used here")
    groups = [tuple(gpus[i : i + gpus_per_run]) for i in range(0, len(gpus) - gpus_per_run + 1, gpus_per_run)]
    places = groups * (runs_per_gpu or 1) if groups else [()] * min(runs_per_gpu or len(cores), len(cores))
    share = max(1, len(cores) // len(places))
    return [Slot(group, tuple(cores[(i * share) % len(cores) :][:share])) for i, group in enumerate(places)]


@dataclass(eq=False)
class _ActiveJob:
    """A job that this sweep has started or, if `process` is None, a job of another sweep, which is only watched.

    run_id: the value of RUN_VARIABLE in its processes.
    stop_times: when each of its processes was asked to end, by process id.
    """

    job: Job
    slot: Slot | None = None
    process: subprocess.Popen | None = None
    log_start: int = 0
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    stop_times: dict[int, float] = field(default_factory=dict)

    def end(self, kill: bool = False) -> bool:
        """Ask each process once to end, and kill it STOP_SECONDS later, or now if `kill`. Returns whether any is left."""
        self.process.poll()  # a process that has ended and waits to be reaped has no environment
        now, is_left = time.monotonic(), False
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # of other users, or ended
                if process.environ().get(RUN_VARIABLE) != self.run_id:
                    continue
                is_left = True
                if kill or now > self.stop_times.get(process.pid, now) + STOP_SECONDS:
                    process.kill()
                elif process.pid not in self.stop_times:
                    process.terminate()
                self.stop_times.setdefault(process.pid, now)
        return is_left


class LocalExecutor:
    """The executor of this machine; see `scheduler.Executor`. `options`: words that all command lines share."""

    queues = False

    def __init__(self, slots: Sequence[Slot], options: Sequence[str]) -> None:
        self._free, self._options = list(slots), list(options)
        self._active: list[_ActiveJob] = []

    def free_slots(self) -> int:
        return len(self._free)

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            slot = self._free.pop(0)
            job.folder.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.folder.log, "ab") as log:
                active = _ActiveJob(job, slot, log_start=log.tell())
                active.process = subprocess.Popen(
                    launch_command(job, len(slot.gpus), self._options),
                    env={**slot.environment(), RUN_VARIABLE: active.run_id},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._active.append(active)
            if hasattr(os, "sched_setaffinity"):  # runs do not wander to the cores of others
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(active.process.pid, slot.cores)

    def attach(self, job: Job) -> None:
        active, status = _ActiveJob(job), job.folder.status()
        self._active.append(active)
        if status.get("host") == socket.gethostname():  # it keeps a slot with its GPUs from the others
            with contextlib.suppress(psutil.Error, TypeError, ValueError):
                gpus = psutil.Process(status.get("pid")).environ().get("CUDA_VISIBLE_DEVICES", "").split(",")
                active.slot = next((slot for slot in self._free if not slot.gpus or set(slot.gpus) & set(gpus)), None)
        if active.slot is not None:
            self._free.remove(active.slot)

    def poll(self) -> list[JobResult]:
        results = []
        for active in list(self._active):
            if active.process is None:
                if (result := read_attached_result(active.job)) is None:
                    continue
            elif active.process.poll() is None or active.end():
                continue  # processes can outlive the first one, for example those of a launcher that was killed
            else:
                result = read_result(active.job, active.process.returncode, active.job.folder.log, active.log_start)
            self._active.remove(active)
            if active.slot is not None:
                self._free.append(active.slot)
            if result is None:  # another process started the run first
                self._active.append(_ActiveJob(active.job))
            else:
                results.append(result)
        if not results:
            time.sleep(POLL_SECONDS)
        return results

    def cancel(self, jobs: Sequence[Job]) -> None:
        # only attached ones: here a job starts after its teacher
        self._active = [active for active in self._active if active.process is not None or active.job not in jobs]

    def stop(self, stop_requests: Callable[[], int]) -> None:
        own = [active for active in self._active if active.process is not None]
        if own:
            hint = " (Ctrl-C again kills them)" if stop_requests() else ""
            LOG.info(f"stopping: the runs save their state{hint}")
        while own := [active for active in own if active.end(kill=stop_requests() >= 2)]:
            time.sleep(POLL_SECONDS)
        if attached := [active.job.name for active in self._active if active.process is None]:
            LOG.info(f"another process started these runs, which continue: {', '.join(attached)}")

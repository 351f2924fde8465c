"""The executor of one machine: one run per GPU, or without a GPU one run with one thread per core.

A run has a session of its own, so that Ctrl-C at the terminal reaches only the sweep. Launchers give one to each process
that they start, so the processes of a run are found by an environment variable, which all of them inherit. The runs of a
sweep that is killed go on; the next sweep sees the locks on their folders, and keeps the slots of their GPUs free.
"""

from __future__ import annotations

import contextlib
import logging
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

from bench.cli import TIMESTAMPS
from bench.config.schema import RecipeError
from bench.cores import available_cores
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
        variables = {**os.environ, TIMESTAMPS: "1"}
        if self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        else:
            # The small models of a CPU suite gain little from a second thread; a second run beside them gains more. And
            # with one thread the numbers are the same on any number of cores.
            variables.setdefault("OMP_NUM_THREADS", "1")
        return variables

    def command(self, job: Job, options: Sequence[str]) -> list[str]:
        """The command line of a job in this slot: Python, or accelerate with one process per GPU (but one for a teacher).

        Args:
            options: words that all jobs of the sweep share.
        """
        if len(self.gpus) < 2 or job.is_teacher:
            return job.command([sys.executable], SCRIPT, options)
        count = str(len(self.gpus))
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        launch += ["--num_processes", count, "--main_process_port", "0"]
        return job.command(launch, SCRIPT, [*options, "--num-processes", count])


def visible_gpus() -> list[str]:
    """The GPUs that may be used; of one that MIG divides, its parts. Names are those of CUDA_VISIBLE_DEVICES if it is set.

    The driver's own tool is asked, since importing torch takes seconds.
    """
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    parts_by_gpu: list[list[str]] = []
    for line in answer.stdout.splitlines():
        if line.startswith("GPU "):
            parts_by_gpu.append([])
        elif line.strip().startswith("MIG ") and "(UUID: " in line:
            parts_by_gpu[-1].append(line.partition("(UUID: ")[2].rstrip(") "))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or answer.returncode:
        return [name for number, parts in enumerate(parts_by_gpu) for name in (parts or [str(number)])]
    names = [name.strip() for name in visible.split(",")]
    return names[: next((i for i, name in enumerate(names) if not name or name.startswith("-")), None)]  # as CUDA reads it


def make_slots(gpus_per_run: int = 1, runs_per_gpu: int | None = None) -> list[Slot]:
    """The slots of this machine.

    Args:
        gpus_per_run: GPUs of a slot.
        runs_per_gpu: slots that share GPUs (1). Without a GPU: number of slots, at most and by default one per core.

    Raises:
        RecipeError: there are fewer GPUs.
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
    """A started job, or without a process one of another sweep, which is only watched.

    signalled: the time at which each of its processes was told to end, by process id.
    """

    job: Job
    slot: Slot | None
    process: subprocess.Popen | None = None
    log_start: int = 0
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    signalled: dict[int, float] = field(default_factory=dict)

    def end(self, kill: bool = False) -> bool:
        """Tell each process once to end, and kill it STOP_SECONDS later, or now if `kill`. Returns whether any is left."""
        self.process.poll()
        now, pids = time.monotonic(), _processes_of(self.run_id)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                if kill or now > self.signalled.get(pid, now) + STOP_SECONDS:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in self.signalled:
                    os.kill(pid, signal.SIGTERM)
            self.signalled.setdefault(pid, now)
        return bool(pids)


class LocalExecutor:
    """The executor of this machine; see `scheduler.Executor` for its methods.

    Args:
        options: words of the command line that all jobs share.
    """

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
                self._active.append(active)
                active.process = subprocess.Popen(
                    slot.command(job, self._options),
                    env={**slot.environment(), RUN_VARIABLE: active.run_id},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            if hasattr(os, "sched_setaffinity"):  # it determines the number of data workers
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(active.process.pid, slot.cores)

    def attach(self, job: Job) -> None:
        self._active.append(_ActiveJob(job, self._slot_taken_by(job)))

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
                self._active.append(_ActiveJob(active.job, None))
            else:
                results.append(result)
        if not results:
            time.sleep(POLL_SECONDS)
        return results

    def cancel(self, jobs: Sequence[Job]) -> None:
        # only attached ones: here a job starts after its teacher
        self._active = [active for active in self._active if active.process is not None or active.job not in jobs]

    def stop(self, stop_requests: Callable[[], int]) -> None:
        attached = [active.job.name for active in self._active if active.process is None]
        own = [active for active in self._active if active.process is not None]
        if own:
            hint = " (Ctrl-C again kills them)" if stop_requests() else ""
            LOG.info(f"stopping: the runs save their state{hint}")
        while own := [active for active in own if active.end(kill=stop_requests() >= 2)]:
            time.sleep(POLL_SECONDS)
        if attached:
            LOG.info(f"another process started these runs, which continue: {', '.join(attached)}")

    def _slot_taken_by(self, job: Job) -> Slot | None:
        """The slot that an attached job uses, taken from the free ones: one with its GPUs. None if it is on another
        machine."""
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


def _processes_of(run_id: str) -> list[int]:
    """The ids of the processes of a run. Processes that have ended and wait to be reaped have no environment."""
    pids = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # of other users, or ended
            if process.environ().get(RUN_VARIABLE) == run_id:
                pids.append(process.pid)
    return pids

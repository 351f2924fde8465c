"""The executor of a Slurm cluster, through submitit: a teacher is a job, and the runs that need it are a job array that
depends on it. Runs and records are in folders that the cluster's machines share with this one.

submitit asks Slurm's accounting about jobs, which some sites do not have. So the queue says whether a job is over, and the
files of the run say how it ended.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.cli import DONE
from bench.config.schema import RecipeError
from bench.sweep.job import Job, JobResult, Outcome, State, read_attached_result, read_result
from bench.sweep.local import launch_command
from bench.sweep.slurm_request import MAX_ARRAY_JOBS, SlurmRequest
from bench.sweep.squeue import QueueEntry, QueueUnavailable, read_queue, set_state, write_submission
from bench.train.teacher_cache import cached_teacher_record

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

LOG = logging.getLogger(__name__)
QUEUE_SECONDS = 10  # between two questions to the queue, which serves all users of a cluster
TICK_SECONDS = 0.2
SHARED_FOLDER_SECONDS = 60  # until what another machine has written must be visible here
RESUBMIT_SECONDS = 60  # until a refused submission is tried again
SCANCEL_SECONDS = 60  # that scancel may take
LAUNCHER_SECONDS = 30  # that the processes of a launcher may take to end after it


class SubmissionRefused(RuntimeError):
    """The cluster refuses a submission; the message is that of sbatch."""


@dataclass(eq=False)
class _ActiveJob:
    """A job that is submitted, or to be submitted.

    id: in the queue; empty: not submitted yet, or a process outside the queue.
    own: whether this sweep has submitted it, or will.
    ended_at: the time since when the queue says that it is over.
    """

    job: Job
    id: str = ""
    own: bool = True
    ended_at: float | None = None

    @property
    def to_submit(self) -> bool:
        """Whether it is yet to be submitted."""
        return self.own and not self.id


def batches(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in groups to submit together: each teacher alone, then the runs that need the same teacher, in order."""
    runs: dict[str | None, list[Job]] = defaultdict(list)
    for job in jobs:
        if not job.is_teacher:
            runs[job.needs].append(job)
    arrays = [group[i : i + MAX_ARRAY_JOBS] for group in runs.values() for i in range(0, len(group), MAX_ARRAY_JOBS)]
    return [*([job] for job in jobs if job.is_teacher), *arrays]


class SlurmExecutor:
    """The executor of a cluster; see `scheduler.Executor`.

    Args:
        options: words that all command lines share.
        folder: for the logs and pickles of the jobs; the cluster's machines must share it.
        name: the beginning of the jobs' names in the queue.

    Raises:
        RecipeError: submitit or Slurm is missing here, or the queue does not answer.
    """

    queues = True

    def __init__(self, request: SlurmRequest, options: Sequence[str], folder: Path, name: str) -> None:
        try:
            self._submitit = importlib.import_module("submitit")  # an optional dependency
        except ModuleNotFoundError:
            raise RecipeError('--executor slurm: needs submitit: pip install "submitit>=1.5"') from None
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if not shutil.which(program):
                raise RecipeError(f"--executor slurm: there is no {program} here: start it where jobs are submitted")
        if "%" in str(folder.absolute()):
            raise RecipeError(f"--results-dir: {folder.absolute()} has a %, which sbatch reads as a pattern")
        try:
            read_queue()
        except QueueUnavailable as error:
            raise RecipeError(f"--executor slurm: {error}") from None
        self._request, self._options, self._folder, self._name = request, options, folder, name
        self._active: list[_ActiveJob] = []
        self._poll_at = self._submit_at = 0.0

    def free_slots(self) -> int:
        return sys.maxsize

    def start(self, jobs: Sequence[Job]) -> None:
        self._active += [_ActiveJob(job) for job in jobs]
        self._submit()

    def attach(self, job: Job) -> None:
        self._active.append(_ActiveJob(job, job.cluster_id, own=False))

    def _submit(self) -> None:
        """Submit the jobs that have no id, except the runs of a teacher that is not in the queue itself."""
        new = {active.job: active for active in self._active if active.to_submit}
        for batch in batches(list(new)):
            teacher = next((active for active in self._active if active.job.key == batch[0].needs), None)
            if teacher in new.values() and not teacher.id:
                continue
            try:
                ids = self._sbatch(batch, teacher.id if teacher else None)
            except SubmissionRefused as error:
                if not any(active.id for active in self._active):
                    raise RecipeError(f"--executor slurm: {error}") from None
                self._submit_at = time.monotonic() + RESUBMIT_SECONDS
                LOG.warning(f"{error}: {sum(active.to_submit for active in new.values())} jobs are submitted later")
                return
            for job, job_id in zip(batch, ids, strict=True):
                new[job].id, job.state, job.cluster_id = job_id, State.QUEUED, job_id

    def _sbatch(self, batch: Sequence[Job], after: str | None) -> list[str]:
        """Submit jobs. Returns their ids."""
        name = write_submission(batch, self._name)
        executor = self._submitit.SlurmExecutor(folder=self._folder, max_num_timeout=10**6)
        executor.update_parameters(**self._request.parameters(name, batch[0].is_teacher, after))
        gpus = self._request.gpus_per_run
        functions = [Requeued(launch_command(job, gpus, self._options)) for job in batch]
        try:
            return [job.job_id for job in executor.submit_array(functions)]
        except self._submitit.core.utils.FailedJobError as error:
            raise SubmissionRefused(" ".join(str(error).split())) from None

    def poll(self) -> list[JobResult]:
        results: list[JobResult] = []
        if time.monotonic() >= self._poll_at:
            self._poll_at = time.monotonic() + QUEUE_SECONDS
            if time.monotonic() >= self._submit_at:
                self._submit()
            with suppress(QueueUnavailable):  # it will answer again, or the user stops the sweep
                results = self._read_results(read_queue())
        if not results:
            time.sleep(TICK_SECONDS)
        return results

    def _read_results(self, entries: Mapping[str, QueueEntry]) -> list[JobResult]:
        results = []
        for active in sorted(self._active, key=lambda active: not active.job.is_teacher):
            if active.to_submit or (result := self._read_result(active, entries)) is None:
                continue
            self._active.remove(active)
            if active.job.is_teacher and result.outcome is not Outcome.DONE:
                dependents = [other for other in self._active if other.job.needs == active.job.key and other.id]
                _scancel([other.id for other in dependents])
                for other in dependents:  # they are given up, or submitted again with the teacher's next attempt
                    other.id, other.own = "", True
            results.append(result)
        return results

    def _read_result(self, active: _ActiveJob, entries: Mapping[str, QueueEntry]) -> JobResult | None:
        """The result of a job; None while it waits, runs, or its record may not be visible here yet."""
        job = active.job
        if not active.id:  # a process of another sweep outside the queue, known by its lock
            return read_attached_result(job)
        entry = entries.get(active.id, QueueEntry(active.id))
        if not entry.ended:
            active.ended_at = None
            set_state(job, entry)
            return None
        if any(other.job.key == job.needs for other in self._active):
            return None  # Slurm cancelled it with its teacher, whose result comes first
        active.ended_at = active.ended_at or time.monotonic()
        code = entry.code if entry.state in ("COMPLETED", "FAILED") else None
        if job.is_teacher and cached_teacher_record(job.target) is not None:
            code = DONE
        result = read_result(job, code, self._folder.absolute() / f"{entry.id}_0_log.out")
        if result is None:
            active.id, active.own = "", False
        elif result.outcome is Outcome.DIED:
            if entry.reason == "DependencyNeverSatisfied":
                return JobResult(job, Outcome.ABANDONED, result.error)  # it has not started
            if entry.state in ("COMPLETED", "GONE"):
                return result if time.monotonic() >= active.ended_at + SHARED_FOLDER_SECONDS else None
            if entry.state != "FAILED":
                return JobResult(job, Outcome.DIED, f"job {entry.id} ended as {entry.state}: {result.error}")
        return result

    def cancel(self, jobs: Sequence[Job]) -> None:
        _scancel([active.id for active in self._active if active.job in jobs])
        self._active = [active for active in self._active if active.job not in jobs]

    def stop(self, stop_requests: Callable[[], int]) -> None:
        own = [active.id for active in self._active if active.own and active.id]
        left = [active.id for active in self._active if not active.own and active.id]
        if own and stop_requests():
            LOG.info("stopping: the runs save their state (Ctrl-C again does not wait for them)")
            _scancel(own)
            waiting_for = set(own)
            while waiting_for and stop_requests() < 2:
                with suppress(QueueUnavailable):
                    entries = read_queue()
                    waiting_for = {one for one in waiting_for if not entries.get(one, QueueEntry(one)).ended}
                time.sleep(1)
        else:
            left += own
        if left:
            LOG.info(f"these jobs stay in the queue: scancel {' '.join(left)} ends them")


def _scancel(ids: Sequence[str]) -> None:
    if ids := [one for one in ids if one]:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", "--quiet", *ids], timeout=SCANCEL_SECONDS, check=False)


class Requeued:
    """The function of a job, which submitit pickles: a run that is stopped and requeued when its time is up.

    Slurm sends SIGUSR2 to every process of a job, which would kill run.py. A blocked signal stays blocked through exec.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self._pid = 0  # not the process itself, which cannot be pickled

    def __call__(self) -> None:
        """Run the command to its end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        self._pid = subprocess.Popen(self.command).pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        sys.exit(self._wait())

    def checkpoint(self) -> DelayedSubmission:
        """Let the run save its state. submitit calls this at SIGUSR2; what it returns runs when the job starts again."""
        from submitit.helpers import DelayedSubmission  # an optional dependency; submitit itself has imported it by now

        if self._pid:
            processes = []
            with suppress(psutil.NoSuchProcess):
                launcher = psutil.Process(self._pid)
                processes = [launcher, *launcher.children(recursive=True)]  # a launcher does not pass the signal on
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            if self._wait() == 0:
                sys.exit(0)
            psutil.wait_procs(processes[1:], timeout=LAUNCHER_SECONDS)
        return DelayedSubmission(Requeued(self.command))

    def _wait(self) -> int:
        # Not Popen.wait: SIGUSR2's handler interrupts it while it holds its lock, and would wait for that lock forever.
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status

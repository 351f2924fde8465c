"""The executor of a Slurm cluster, through submitit: a teacher is a job, and the cells that need it are an array that waits
for it. Runs and records lie in folders that the cluster's machines share with this one.

How a job stands is not asked of submitit, which asks Slurm's accounting, and not every site has one: the queue says
whether a job is over, and what the run left says how it went.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.config.schema import RecipeError
from bench.locks import is_held
from bench.sweep.local import MOMENT, Slot
from bench.sweep.outcome import judge
from bench.sweep.plan import Job
from bench.sweep.request import LARGEST, Request
from bench.sweep.requeued import Requeued
from bench.sweep.scheduler import Ended, Outcome
from bench.sweep.squeue import Entry, Unanswered, announce, queue, see
from bench.train.teacher_cache import cached_teacher_record

POLL = 10  # s between two questions to the queue, which all users of a cluster ask
LATE = 60  # s that a shared folder may take to show what another machine has written
AGAIN = 60  # s until a submission that was refused while others go on is tried again


def batches(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in the groups that are submitted together: each teacher alone, then the cells that need the same one, in order."""
    cells: dict[str | None, list[Job]] = defaultdict(list)
    for job in jobs:
        if not job.is_teacher:
            cells[job.needs].append(job)
    cut = [group[i : i + LARGEST] for group in cells.values() for i in range(0, len(group), LARGEST)]
    return [*([job] for job in jobs if job.is_teacher), *cut]


class Refused(RuntimeError):
    """The cluster does not take a submission, for the reason that sbatch gives."""


@dataclass(eq=False)
class _Run:
    """A job on its way. Without an id it is yet to be submitted, or no job of the cluster and only its lock is watched."""

    job: Job
    id: str = ""
    own: bool = True
    over_since: float | None = None

    @property
    def watched(self) -> bool:
        return not self.own and not self.id


class SlurmExecutor:
    """The executor of a cluster; see `scheduler.Executor`.

    Args:
        options: words of a run's command line that all have in common.
        folder: for the jobs' logs and pickles, shared with the cluster's machines.
        name: that jobs begin with in the queue.

    Raises:
        RecipeError: there is no submitit or no Slurm here, or its queue does not answer.
    """

    queues = True

    def __init__(self, request: Request, options: Sequence[str], folder: Path, name: str) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise RecipeError('--executor slurm: needs submitit: pip install "submitit>=1.5"') from None
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if not shutil.which(program):
                raise RecipeError(f"--executor slurm: there is no {program} here: start it where jobs are submitted")
        if "%" in str(folder.absolute()):
            raise RecipeError(f"--results-dir: {folder.absolute()} has a %, which sbatch reads as a pattern")
        try:
            queue()
        except Unanswered as error:
            raise RecipeError(f"--executor slurm: {error}") from None
        self._submitit, self._request, self._options, self._folder, self._name = submitit, request, options, folder, name
        self._runs: list[_Run] = []
        self._look_at = self._submit_at = 0.0

    def room(self) -> int:
        return sys.maxsize

    def start(self, jobs: Sequence[Job]) -> None:
        self._runs += [_Run(job) for job in jobs]
        self._submit()

    def follow(self, job: Job) -> None:
        self._runs.append(_Run(job, job.cluster_id, own=False))

    @property
    def unsubmitted(self) -> int:
        """How many wait for the cluster to take more."""
        return sum(not run.id and not run.watched for run in self._runs)

    def _submit(self) -> None:
        """Submit what has no id yet, but the cells of a teacher that is itself not in the queue."""
        runs = {run.job: run for run in self._runs if not run.id and not run.watched}
        for batch in batches(list(runs)):
            teacher = next((run for run in self._runs if run.job.key == batch[0].needs), None)
            if teacher in runs.values() and not teacher.id:
                continue
            try:
                ids = self._sbatch(batch, teacher.id if teacher else None)
            except Refused as error:
                if not any(run.id for run in self._runs):
                    raise RecipeError(f"--executor slurm: {error}") from None
                self._submit_at = time.monotonic() + AGAIN
                print(f"{error}: {self.unsubmitted} jobs are submitted later", file=sys.stderr, flush=True)
                return
            for job, job_id in zip(batch, ids, strict=True):
                runs[job].id, job.state, job.cluster_id = job_id, "queued", job_id

    def _sbatch(self, batch: Sequence[Job], after: str | None) -> list[str]:
        name = announce(batch, self._name)
        executor = self._submitit.SlurmExecutor(folder=self._folder, max_num_timeout=10**6)
        executor.update_parameters(**self._request.parameters(name, batch[0].is_teacher, after))
        slot = Slot(tuple(map(str, range(self._request.gpus))), ())
        calls = [Requeued(slot.command(job, self._options)) for job in batch]
        try:
            return [job.job_id for job in executor.submit_array(calls)]
        except self._submitit.core.utils.FailedJobError as error:
            raise Refused(" ".join(str(error).split())) from None

    def ended(self) -> list[Ended]:
        out: list[Ended] = []
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + POLL
            if self.unsubmitted and time.monotonic() >= self._submit_at:
                self._submit()
            with contextlib.suppress(Unanswered):  # it will, or the user ends it
                out = self._look(queue())
        if not out:
            time.sleep(MOMENT)
        return out

    def _look(self, entries: dict[str, Entry]) -> list[Ended]:
        out = []
        for run in sorted(self._runs, key=lambda run: not run.job.is_teacher):
            if run.watched:
                if is_held(run.job.folder.path):
                    continue
                outcome, error = judge(run.job, None)
                outcome = Outcome.DONE if outcome is Outcome.DONE else Outcome.ABANDONED
            elif not run.id:
                continue
            elif not (entry := entries.get(run.id, Entry(run.id))).ended:
                run.over_since = None
                see(run.job, entry)
                continue
            elif any(other.job.key == run.job.needs for other in self._runs):
                continue  # cancelled with its teacher, of which is to be told first
            else:
                outcome, error = self._judge(run, entry)
                if outcome is None:
                    continue
            self._runs.remove(run)
            if run.job.is_teacher and outcome is not Outcome.DONE:
                hanging = [other for other in self._runs if other.job.needs == run.job.key and other.id]
                _scancel([other.id for other in hanging])
                for other in hanging:  # they are cancelled, or submitted with the teacher's next attempt
                    other.id, other.own = "", True
            out.append(Ended(run.job, outcome, error))
        return out

    def _judge(self, run: _Run, entry: Entry) -> tuple[Outcome | None, str]:
        """As `outcome.judge`, of a job that is over; None also while its record may only not be seen here yet."""
        job = run.job
        log = self._folder.absolute() / f"{entry.id}_0_log.out"
        code = entry.code if entry.state in ("COMPLETED", "FAILED") else None
        if job.is_teacher and cached_teacher_record(job.target) is not None:
            code = 0
        outcome, error = judge(job, code, log)
        if outcome is Outcome.DIED and entry.reason == "DependencyNeverSatisfied":
            return Outcome.ABANDONED, error  # it has not begun
        run.over_since = run.over_since or time.monotonic()
        if outcome is None:
            run.id, run.own = "", False
        elif outcome is Outcome.DIED and entry.state in ("COMPLETED", "GONE"):
            return (None if time.monotonic() < run.over_since + LATE else outcome), error
        elif outcome is Outcome.DIED and entry.state != "FAILED":
            error = f"job {entry.id} ended as {entry.state}: {error}"
        return outcome, error

    def cancel(self, jobs: Sequence[Job]) -> None:
        _scancel([run.id for run in self._runs if run.job in jobs])
        self._runs = [run for run in self._runs if run.job not in jobs]

    def stop(self, asked: Callable[[], int]) -> None:
        own = [run.id for run in self._runs if run.own and run.id]
        others = [run.id for run in self._runs if not run.own and run.id]
        if own and asked():
            print("stopping: the runs save their state (Ctrl-C again does not wait for it)", file=sys.stderr, flush=True)
            _scancel(own)
            left = set(own)
            while left and asked() < 2:
                with contextlib.suppress(Unanswered):
                    entries = queue()
                    left = {one for one in left if not entries.get(one, Entry(one)).ended}
                time.sleep(1)
        elif own:
            others += own
        if others:
            print(f"these jobs stay in the queue: scancel {' '.join(others)} ends them", file=sys.stderr, flush=True)


def _scancel(ids: Sequence[str]) -> None:
    if ids := [i for i in ids if i]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", "--quiet", *ids], timeout=60, check=False)

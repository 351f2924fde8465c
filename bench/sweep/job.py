"""A job of a sweep, one run or the training of a teacher: its state, cost and command, and the result that it leaves."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property
from pathlib import Path

from bench.cli import BAD_INPUT, DONE
from bench.config.schema import Recipe, RecipeError
from bench.locks import is_held
from bench.runs.folder import RunFolder
from bench.runs.record import Record, stale_parts
from bench.sweep.estimates import Estimate, Estimates

SIGNALS = {one.value: one.name for one in signal.Signals}  # without those that have no name of their own


class State(StrEnum):
    """The state of a run in a plan."""

    FINISHED = "finished"
    DIVERGED = "diverged"  # finished too, without accuracies
    PUBLISHED = "published"  # left out, since its result is published
    STALE = "recorded with other code"  # finished too, unless `--stale` is given
    RUNNING = "running"
    QUEUED = "queued"  # in a cluster's queue
    RESUMABLE = "resumable"
    FAILED = "failed"
    WAITING = "waiting for a teacher"
    TO_RUN = "to run"
    CANNOT_RUN = "cannot run"  # its dataset is missing, or its settings are invalid here


class Outcome(Enum):
    """The outcome of a job that was started."""

    DONE = "finished"
    DIED = "ended without a record; a retry resumes from its checkpoint"
    REFUSED = "a retry would end the same: invalid input, a teacher that diverged"
    ABANDONED = "another sweep's process ran it and left it unfinished; no attempt of this sweep"


def job_key(recipe: Recipe) -> str:
    """The key of the job that trains a recipe, different for each seed."""
    return f"{recipe.id} {recipe.hash} {recipe.seed}"


@dataclass(eq=False)
class Job:
    """One process to start: a run (recipe x seed), or the training of a teacher that runs need.

    Attributes:
        recipe: of the run; for a teacher, of one run that needs it.
        options: with which bench/run.py composes the recipe.
        settings: the varied values in a suite that varies keys, to tell runs of one id apart.
        estimates: shared by all jobs of a plan.
        needs: the `key` of the teacher's job, or None if the run need not wait.
        replaces: with `--stale` the record of other code, which is not the result of this job.
        note: an accuracy, an epoch or an error, to print beside the state.
        accuracy: of its weights in %, if it has a result; None also if it diverged.
        epoch: number of finished epochs.
        training_images: how many it trains on, if its dataset is here.
        cluster_id: id of its job in a cluster's queue; empty if it is in none.
    """

    recipe: Recipe
    is_teacher: bool
    folder: RunFolder
    estimates: Estimates
    options: Sequence[str] = ()
    settings: Sequence[str] = ()
    needs: str | None = None
    replaces: Record | None = None
    state: State = State.TO_RUN
    note: str = ""
    accuracy: float | None = None
    epoch: int = 0
    training_images: int | None = None
    cluster_id: str = ""

    @cached_property
    def target(self) -> Recipe:
        """The recipe that the job trains."""
        return self.recipe.teacher if self.is_teacher else self.recipe

    @cached_property
    def key(self) -> str:
        """What identifies the job in a sweep."""
        return job_key(self.target)

    @property
    def name(self) -> str:
        """The name that is printed."""
        return " ".join([self.target.id, *self.settings, "seed", str(self.target.seed)])

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do. A run that diverged has a record and is not run again."""
        return self.state in (State.FINISHED, State.DIVERGED, State.PUBLISHED, State.STALE)

    @property
    def progress(self) -> str:
        """The finished epochs, as text."""
        return f"epoch {self.epoch}/{self.target.train.epochs}"

    @property
    def images_per_epoch(self) -> int | None:
        """The number of training images of an epoch, estimated if the dataset is not here; None: unknown."""
        data, batch, count = self.target.data, self.target.train.batch_size, self.training_images
        if count is None and data.train_images is not None:
            count = data.train_images * (1 - data.holdout)
            if data.subset is not None and data.classes is not None:
                count *= data.subset / data.classes
        if data.train_limit is not None:
            count = data.train_limit if count is None else min(count, data.train_limit)
        return None if count is None else int(count) // batch * batch  # the last incomplete batch is dropped

    @property
    def expected(self) -> Estimate | None:
        """The cost of the whole job; None: unknown."""
        return self.estimates.of(self.target, self.images_per_epoch)

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds until it is finished; None: unknown."""
        if self.is_finished:
            return 0.0
        if (expected := self.expected) is None:
            return None
        return expected.seconds * max(0.0, 1 - self.epoch / self.target.train.epochs)

    def command(self, launch: Sequence[str], script: Path | str, options: Sequence[str]) -> list[str]:
        """The command line of this job.

        Args:
            launch: Python, or a launcher that starts it.
            options: words that all jobs of the sweep share.
        """
        own = ["--recipe", self.recipe.id, "--seed", str(self.recipe.seed), *self.options]
        return [*launch, str(script), *own, *options, *(["--teacher-only"] if self.is_teacher else [])]


@dataclass(frozen=True)
class JobResult:
    """A job that has ended; `error` says why if it is not done."""

    job: Job
    outcome: Outcome
    error: str = ""


def read_result(job: Job, code: int | None, log: Path | None = None, log_start: int = 0) -> JobResult | None:
    """The result of a job whose process has ended, from its files; None if another process holds the run's folder.

    Args:
        code: the exit code (negative: the signal) of the process or its launcher; None: unknown. Launchers change it, so it
            counts only if it says that the input is invalid, or for teachers, which have no launcher, that all is well.
        log: the output of the job, from byte `log_start` on.
    """
    try:
        record = job.folder.record(job.target)
    except RecipeError as error:
        return JobResult(job, Outcome.REFUSED, str(error))
    if record == job.replaces or (job.is_teacher and record is not None and stale_parts(record, job.target)):
        record = None
    # a run that diverged is finished, and the table shows it; a teacher that diverged is of no use
    diverged_teacher = job.is_teacher and record is not None and record.diverged
    if (record is not None and not diverged_teacher) or (job.is_teacher and code == DONE):
        return JobResult(job, Outcome.DONE)
    if is_held(job.folder.path):
        return None
    if code is not None and code < 0:
        reason = f"ended by {SIGNALS.get(-code, f'signal {-code}')}"
    else:
        reason = _error_in_log(log, log_start) or "it printed nothing"
    outcome = Outcome.REFUSED if code == BAD_INPUT or diverged_teacher else Outcome.DIED
    return JobResult(job, outcome, f"{reason} (see {log})" if log else reason)


def read_attached_result(job: Job) -> JobResult | None:
    """The result of a job that another sweep started; None while it runs."""
    if is_held(job.folder.path) or (result := read_result(job, None)) is None:
        return None
    return result if result.outcome is Outcome.DONE else JobResult(job, Outcome.ABANDONED, result.error)


def _error_in_log(log: Path | None, start: int) -> str:
    """The first error in a log, else its last line.

    If several processes fail, the first one knows the cause. Launchers print their own traceback later.
    """
    if log is None:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(start)
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:  # renamed with its folder
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors[:1] or lines or [""])[-1].removeprefix("error: ").strip()

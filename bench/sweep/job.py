"""A job of a sweep, one run or the training of a teacher: its state, its command, its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property
from pathlib import Path

from bench.config.schema import Recipe
from bench.runs.folder import RunFolder
from bench.sweep.estimates import Estimate


class State(StrEnum):
    """The state of a run in a plan."""

    FINISHED = "finished"
    DIVERGED = "diverged"  # finished too, without accuracies
    RUNNING = "running"
    QUEUED = "queued"  # in a cluster's queue
    RESUMABLE = "resumable"
    FAILED = "failed"
    WAITING = "waiting for a teacher"
    TO_RUN = "to run"


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
        needs: the `key` of the teacher's job, or None if the run need not wait.
        note: an accuracy, an epoch or an error, to print beside the state.
        epoch: number of finished epochs.
        cluster_id: id of its job in a cluster's queue; empty if it is in none.
        expected: the cost of a whole run; None: unknown.
    """

    recipe: Recipe
    is_teacher: bool
    folder: RunFolder
    needs: str | None = None
    state: State = State.TO_RUN
    note: str = ""
    epoch: int = 0
    cluster_id: str = ""
    expected: Estimate | None = None

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
        return f"{self.target.id} seed {self.target.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do. A run that diverged has a record and is not run again."""
        return self.state in (State.FINISHED, State.DIVERGED)

    @property
    def progress(self) -> str:
        """The finished epochs, as text."""
        return f"epoch {self.epoch}/{self.target.train.epochs}"

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds until it is finished; None: unknown."""
        if self.is_finished:
            return 0.0
        if self.expected is None:
            return None
        return self.expected.seconds * max(0.0, 1 - self.epoch / self.target.train.epochs)

    def command(self, launch: Sequence[str], script: Path | str, options: Sequence[str]) -> list[str]:
        """The command line of this job.

        Args:
            launch: Python, or a launcher that starts it.
            options: words that all jobs of the sweep share.
        """
        own = ["--recipe", self.recipe.id, "--seed", str(self.recipe.seed)]
        return [*launch, str(script), *own, *options, *(["--teacher-only"] if self.is_teacher else [])]


@dataclass(frozen=True)
class JobResult:
    """A job that has ended; `error` says why if it is not done."""

    job: Job
    outcome: Outcome
    error: str = ""

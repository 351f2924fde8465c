"""The outcome of a job, from the files that it left: launchers change exit codes."""

from __future__ import annotations

import signal
from pathlib import Path

from bench.cli import BAD_INPUT, DONE
from bench.config.schema import RecipeError
from bench.locks import is_held
from bench.sweep.job import Job, JobResult, Outcome


def read_result(job: Job, code: int | None, log: Path | None = None, log_start: int = 0) -> JobResult | None:
    """The result of a job whose process has ended; None if another process holds the run's folder.

    Args:
        code: the exit code (negative: the signal) of the process or its launcher; None: unknown. It counts only if it says
            that the input is invalid, or for teachers, which have no launcher, that all is well.
        log: the output of the job, from byte `log_start` on.
    """
    try:
        record = job.folder.record(job.target)
    except RecipeError as error:
        return JobResult(job, Outcome.REFUSED, str(error))
    # a run that diverged is finished, and the table shows it; a teacher that diverged is of no use
    diverged_teacher = job.is_teacher and record is not None and record.diverged
    if record is not None and not diverged_teacher:
        return JobResult(job, Outcome.DONE)
    if job.is_teacher and code == DONE:
        return JobResult(job, Outcome.DONE)
    if is_held(job.folder.path):
        return None
    reason = _last_words(log, log_start) or "it printed nothing"
    if code is not None and code < 0:
        reason = f"ended by {signal.Signals(-code).name}"
    outcome = Outcome.REFUSED if code == BAD_INPUT or diverged_teacher else Outcome.DIED
    return JobResult(job, outcome, f"{reason} (see {log})" if log else reason)


def read_attached_result(job: Job) -> JobResult | None:
    """The result of a job that another sweep started; None while it runs."""
    if is_held(job.folder.path) or (result := read_result(job, None)) is None:
        return None
    return result if result.outcome is Outcome.DONE else JobResult(job, Outcome.ABANDONED, result.error)


def _last_words(log: Path | None, start: int) -> str:
    """The first error in a log, else its last line.

    Of several processes the first that fails knows the cause, and launchers print a traceback of their own after it.
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

"""What became of a job, read from what it left: launchers garble exit codes."""

from __future__ import annotations

import signal
from pathlib import Path

from bench.config.schema import RecipeError
from bench.locks import is_held
from bench.sweep.plan import Job
from bench.sweep.scheduler import Outcome


def judge(job: Job, code: int | None, log: Path | None = None, log_from: int = 0) -> tuple[Outcome | None, str]:
    """The outcome of a job whose process has ended, with the reason where it is not done.

    None for the outcome: another process holds the run's folder, so it has yet to end.

    Args:
        code: the exit code (negative: the signal) of the process or of its launcher; None: unknown. It is believed where it
            says that the input was refused, and of teachers, which no launcher starts, that all is well.
        log: what the job printed, from byte `log_from` on.
    """
    try:
        record = job.folder.record(job.target)
    except RecipeError as error:
        return Outcome.REFUSED, str(error)
    if record is not None and not (job.is_teacher and record.get("diverged")):
        return Outcome.DONE, ""  # a cell that diverged is an outcome, which the table shows; a teacher that did is none
    if job.is_teacher and code == 0:
        return Outcome.DONE, ""
    if is_held(job.folder.path):
        return None, ""
    said = _said(log, log_from)
    if code is not None and code < 0:
        said = f"ended by {signal.Signals(-code).name}"
    reason = f"{said or 'it printed nothing'}{f' (see {log})' if log else ''}"
    return (Outcome.REFUSED if code == 2 or record is not None else Outcome.DIED), reason


def _said(log: Path | None, start: int) -> str:
    """The first line of a log that tells an error, else its last: of several processes the first to fail knows why, and a
    launcher adds a traceback of its own."""
    if log is None:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(start)
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:  # set aside with its folder
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors[:1] or lines or [""])[-1].removeprefix("error: ").strip()

"""What a sweep shows: one line per job that has ended, and on a terminal a table of the running ones below them."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.cli import duration
from bench.storage import is_number
from bench.sweep.costs import least_seconds
from bench.sweep.job import Job, JobResult, Outcome, State
from bench.sweep.plan import Plan
from bench.sweep.scheduler import Scheduler

DRAW_SECONDS = 1.0  # between two looks at the runs


class Display:
    """The live display of a sweep.

    Args:
        slots: number of runs at the same time.
    """

    def __init__(self, plan: Plan, scheduler: Scheduler, slots: int) -> None:
        self._plan, self._scheduler, self._slots = plan, scheduler, slots
        self._finished_before, self._total = len(plan.finished), len(plan.jobs)
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._started_at: dict[str, float] = {}
        self._first_seen: dict[str, tuple[int, float]] = {}  # epoch and time when the run was first seen running
        self._ended: list[Job] = []
        self._drawn_at = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *how: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live:
            self._live.update(Group(), refresh=True)
            self._live.__exit__(*how)

    def on_result(self, result: JobResult, final: bool) -> None:
        """Print a line for a job that has ended."""
        job = result.job
        spent = time.monotonic() - self._started_at.pop(job.key, time.monotonic())
        self._first_seen.pop(job.key, None)
        if not final:
            abandoned = result.outcome is Outcome.ABANDONED
            why = "another process left it unfinished" if abandoned else f"died: {result.error}"
            self._print(f"{job.name}: {why}; it is started again and resumes from its checkpoint")
            return
        self._ended.append(job)
        counter = f"[{len(self._ended):>{len(str(self._total))}}/{self._total}]"
        if result.outcome is not Outcome.DONE:
            self._print(f"{counter} {job.name}: FAILED: {result.error}")
            return
        record, accuracy = job.folder.record(job.target), "in the cache"
        if record is not None:
            accuracy = "diverged" if record.diverged else f"{record.last_accuracy:.2f} %"
            self._plan.estimates.add(record)
            self._update_estimates()
        self._print(f"{counter} {job.name}: {accuracy}  ({duration(spent)})")

    def _print(self, line: str) -> None:
        """Print a line that stays, above the table."""
        self._console.print(line)
        self._console.file.flush()

    def _update_estimates(self) -> None:
        for job in (*self._scheduler.waiting, *self._scheduler.running.values()):
            job.expected = self._plan.estimates.of(job.target)

    def on_tick(self) -> None:
        """Draw the running jobs, once per DRAW_SECONDS."""
        now = time.monotonic()
        for key, job in self._scheduler.running.items():
            if job.state is not State.QUEUED:
                self._started_at.setdefault(key, now)
        if self._live and now - self._drawn_at >= DRAW_SECONDS:
            self._drawn_at = now
            table = self._table()  # first, since it updates the estimates
            self._live.update(Group(self.summary(), table), refresh=True)

    def summary(self) -> Text:
        """One line: the number of runs in each state, and the time left."""
        scheduler = self._scheduler
        finished = sum(not job.is_teacher and job.key in scheduler.done for job in self._ended)
        parts = [f"{self._finished_before + finished}/{len(self._plan.runs)} runs finished"]
        notes = [job.note for job in scheduler.running.values() if job.state is State.QUEUED]
        reasons = Counter(note.partition("(")[2].rstrip(")") for note in notes)
        counts = {"running": len(scheduler.running) - reasons.total(), "waiting": len(scheduler.waiting)}
        counts["failed"] = len(scheduler.failed)
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        if reasons:
            parts.append(f"{reasons.total()} in the queue ({', '.join(filter(None, reasons))})")
        left = [*scheduler.waiting, *scheduler.running.values()]
        unknown = sum(job.seconds_left is None for job in left)
        if (least := least_seconds(left, self._slots)) is not None:
            parts.append(f"{duration(least)} left{f' and {unknown} jobs of unknown time' if unknown else ''}")
        return Text("  ·  ".join(parts), style="bold")

    def _table(self) -> Table:
        """One row per running job: epoch, accuracy, speed, time spent."""
        table = Table.grid(padding=(0, 2))
        for job in self._scheduler.running.values():
            if job.state is State.QUEUED:
                continue
            status, spent = job.folder.status(), time.monotonic() - self._started_at[job.key]
            if status.get("state") != "running":
                table.add_row(job.name, "ending" if status.get("state") == "done" else "starting", "", "", duration(spent))
                continue
            numbers = {name: value for name, value in status.items() if is_number(value)}
            epoch = int(numbers.get("epoch", 0))
            self._measure_speed(job, epoch)
            accuracy = f"{numbers['test_accuracy']:.2f} %" if "test_accuracy" in numbers else ""
            speed = f"{numbers['images_per_second']:,.0f} images/s" if "images_per_second" in numbers else ""
            table.add_row(job.name, f"epoch {epoch}/{job.target.train.epochs}", accuracy, speed, duration(spent))
        self._update_estimates()
        return table

    def _measure_speed(self, job: Job, epoch: int) -> None:
        """Estimate the time per epoch of a running job from the epochs since it was first seen."""
        first_epoch, first_time = self._first_seen.get(job.key, (epoch, 0.0))
        if epoch > first_epoch:
            job.epoch = epoch
            self._plan.estimates.add_running(job.target, (self._drawn_at - first_time) / (epoch - first_epoch))
        elif epoch < first_epoch or not first_time:  # the first look since the job started, or started again
            self._first_seen[job.key] = epoch, self._drawn_at

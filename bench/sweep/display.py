"""What a sweep shows: a line per job that has ended, on a terminal a table of the running ones, at the end a comparison."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from bench.cli import duration
from bench.runs.record import Record, RunKey, accuracy_text, run_key
from bench.storage import is_number
from bench.sweep.job import JobResult, Outcome, State
from bench.sweep.plan import Plan, least_seconds
from bench.sweep.scheduler import Scheduler

DRAW_SECONDS = 1.0  # between two looks at the runs


class Display:
    """The live display of a sweep. Where there is no terminal, it only prints lines.

    Args:
        slots: number of runs at the same time.
    """

    def __init__(self, plan: Plan, scheduler: Scheduler, slots: int) -> None:
        console = Console(highlight=False, markup=False, soft_wrap=True)
        self.live = Live(console=console, auto_refresh=False, transient=True)  # to enter while the sweep runs
        self._print = console.print
        self._plan, self._scheduler, self._slots, self._total = plan, scheduler, slots, len(plan.jobs)
        self._started_at: dict[str, float] = {}
        self._drawn_at = 0.0
        self._ended = 0

    def on_result(self, result: JobResult, final: bool) -> None:
        """Print a line for a job that has ended."""
        job = result.job
        spent = time.monotonic() - self._started_at.pop(job.key, time.monotonic())
        if not final:
            abandoned = result.outcome is Outcome.ABANDONED
            why = "another process left it unfinished" if abandoned else f"died: {result.error}"
            self._print(f"{job.name}: {why}; it is started again and resumes from its checkpoint")
            return
        self._ended += 1
        counter = f"[{self._ended:>{len(str(self._total))}}/{self._total}]"
        if result.outcome is not Outcome.DONE:
            self._print(f"{counter} {job.name}: FAILED: {result.error}")
            return
        record, accuracy = job.folder.record(job.target), "in the cache"
        if record is not None:
            accuracy = accuracy_text(record)
            job.estimates.add(record)
        self._print(f"{counter} {job.name}: {accuracy}  ({duration(spent)})")

    def on_tick(self) -> None:
        """Draw the running jobs, once per DRAW_SECONDS."""
        now = time.monotonic()
        for key, job in self._scheduler.running.items():
            if job.state is not State.QUEUED:
                self._started_at.setdefault(key, now)
        if self.live.console.is_terminal and now - self._drawn_at >= DRAW_SECONDS:
            self._drawn_at = now
            table = self._table()  # first, since it updates the epochs
            self.live.update(Group(self._summary(), table), refresh=True)

    def _summary(self) -> Text:
        """One line: the number of runs in each state, and the time left."""
        scheduler = self._scheduler
        finished = sum(job.is_finished or job.key in scheduler.done for job in self._plan.runs)
        parts = [f"{finished}/{len(self._plan.runs)} runs finished"]
        notes = [job.note for job in scheduler.running.values() if job.state is State.QUEUED]
        reasons = Counter(note.partition("(")[2].rstrip(")") for note in notes)
        counts = {"running": len(scheduler.running) - len(notes), "waiting": len(scheduler.waiting)}
        counts["failed"] = len(scheduler.failed)
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        if notes:
            parts.append(f"{len(notes)} in the queue ({', '.join(filter(None, reasons))})")
        left = [*scheduler.waiting, *scheduler.running.values()]
        if (least := least_seconds(left, self._slots)) is not None:
            unknown = sum(job.expected is None for job in left)
            parts.append(f"{duration(least)} left{f' and {unknown} jobs of unknown time' if unknown else ''}")
        return Text("  ·  ".join(parts), style="bold")

    def _table(self) -> Table:
        """One row per running job: epoch, accuracy, speed, time spent."""
        table = Table.grid(padding=(0, 2))
        for key, job in self._scheduler.running.items():
            if job.state is State.QUEUED:
                continue
            status, spent = job.folder.status(), duration(time.monotonic() - self._started_at[key])
            if status.get("state") != "running":
                table.add_row(job.name, "ending" if status.get("state") == "done" else "starting", "", "", spent)
                continue
            numbers = {name: value for name, value in status.items() if is_number(value)}
            job.epoch = int(numbers.get("epoch", 0))
            accuracy = f"{numbers['test_accuracy']:.2f} %" if "test_accuracy" in numbers else ""
            speed = f"{numbers['images_per_second']:,.0f} images/s" if "images_per_second" in numbers else ""
            table.add_row(job.name, job.progress, accuracy, speed, spent)
        return table


def beside_published(plan: Plan, published: Mapping[RunKey, Record]) -> list[str]:
    """A table of the runs of a plan that are finished here and published; empty if there are none.

    published: the published records. A line below the table says whether their environments differ.
    """
    known = [job for job in plan.runs if run_key(job.recipe) in published]
    found = [(job, job.folder.record(job.recipe), published[run_key(job.recipe)]) for job in known]
    found = [(job, here, there) for job, here, there in found if here is not None]
    if not found:
        return []
    rows = []
    for job, here, there in found:
        name = " ".join([here.id, *job.settings])
        difference = "" if here.diverged or there.diverged else f"{here.accuracy - there.accuracy:+.2f}"
        rows.append((name, here.seed, accuracy_text(here), accuracy_text(there), difference))
    table = tabulate(rows, ["recipe", "seed", "here", "published", "difference"], disable_numparse=True)
    lines = ["accuracies beside the published ones of the same recipe and seed:", *table.splitlines()]
    here, there = ({_environment_text(one) for one in own} for own in list(zip(*found, strict=True))[1:])
    if here != there:
        lines.append(
            f"other hardware, threads, libraries or precision, so results may differ: here {'; '.join(sorted(here))};"
            f" published {'; '.join(sorted(there))}"
        )
    return lines


def _environment_text(record: Record) -> str:
    """`Record.environment` in words."""
    hardware, libraries, processes, precision, compiled = record.environment
    versions = ", ".join(" ".join(one) for one in libraries)
    return f"{processes} x {hardware}, {precision}, compile {compiled}, {versions}"

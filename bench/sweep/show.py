"""What a sweep shows: on a terminal a table of what runs below the lines of what has ended, elsewhere the lines alone."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.storage import is_number
from bench.sweep.plan import Job, Plan, at_least, duration
from bench.sweep.scheduler import Ended, Outcome, Scheduler

EVERY = 1.0  # s between two looks at what the runs say


class Display:
    """The live display of a sweep.

    Args:
        slots: runs that go on at once.
    """

    def __init__(self, todo: Plan, scheduler: Scheduler, slots: int) -> None:
        self._todo, self._scheduler, self._slots = todo, scheduler, slots
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._began: dict[str, float] = {}
        self._seen: dict[str, tuple[int, float]] = {}  # epoch and time at the first look at what runs
        self._ended: list[Job] = []
        self._drawn = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *how: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live:
            self._live.update(Group(), refresh=True)
            self._live.__exit__(*how)

    def told(self, ended: Ended, final: bool) -> None:
        """A line for what has ended."""
        job = ended.job
        spent = time.monotonic() - self._began.pop(job.key, time.monotonic())
        self._seen.pop(job.key, None)
        if not final:
            why = "another process left it unfinished" if ended.outcome is Outcome.ABANDONED else f"died: {ended.error}"
            self.say(f"{job.name}: {why}; it starts again from its checkpoint")
            return
        self._ended.append(job)
        total = len(self._todo.jobs)
        counted = f"[{len(self._ended):>{len(str(total))}}/{total}]"
        if ended.outcome is not Outcome.DONE:
            self.say(f"{counted} {job.name}: FAILED: {ended.error}")
            return
        record, said = job.folder.record(job.target), "in the cache"
        if record is not None:
            said = "diverged" if record.get("diverged") else f"{record['last_accuracy']:.2f} %"
            self._todo.estimates.add(record)
            self._expect()
        self.say(f"{counted} {job.name}: {said}  ({duration(spent)})")

    def _expect(self) -> None:
        """What runs took, and take, says how long those like them will."""
        for job in (*self._scheduler.waiting, *self._scheduler.running.values()):
            job.expected = self._todo.estimates.of(job.target)

    def say(self, line: str) -> None:
        """A line that stays, above the table."""
        self._console.print(line)
        self._console.file.flush()

    def passed(self) -> None:
        """Draw what runs, once a second."""
        now = time.monotonic()
        for key, job in self._scheduler.running.items():
            if job.state != "queued":
                self._began.setdefault(key, now)
        if self._live and now - self._drawn >= EVERY:
            self._drawn = now
            table = self._running()
            self._live.update(Group(self.summary(), table), refresh=True)

    def summary(self) -> Text:
        """One line: how many cells are in which state, and the time left."""
        scheduler, counts = self._scheduler, Counter()
        counts["done"] = len(self._todo.recorded) + sum(
            not job.is_teacher and job.key in scheduler.done for job in self._ended
        )
        notes = [job.note for job in scheduler.running.values() if job.state == "queued"]
        queued = Counter(note.partition("(")[2].rstrip(")") for note in notes)
        counts["running"] = len(scheduler.running) - queued.total()
        counts["failed"] = len(scheduler.failed)
        counts["waiting"] = len(scheduler.waiting)
        told = [f"{counts['done']}/{len(self._todo.cells)} cells done"]
        told += [f"{counts[name]} {name}" for name in ("running", "waiting", "failed") if counts[name]]
        told += [f"{queued.total()} in the queue ({', '.join(filter(None, queued))})"] * bool(queued)
        left = [*scheduler.waiting, *scheduler.running.values()]
        unknown = sum(job.seconds is None for job in left)
        if (least := at_least(left, self._slots)) is not None:
            told.append(f"{duration(least)} left{f' and {unknown} jobs of unknown time' if unknown else ''}")
        return Text("  ·  ".join(told), style="bold")

    def _running(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for job in self._scheduler.running.values():
            if job.state == "queued":
                continue
            status, spent = job.folder.status(), time.monotonic() - self._began[job.key]
            if status.get("state") != "running":
                table.add_row(job.name, "starts", "", "", duration(spent))
                continue
            numbers = {name: value for name, value in status.items() if is_number(value)}
            epoch, epochs = int(numbers.get("epoch", 0)), job.target.train.epochs
            since, then = self._seen.get(job.key, (epoch, 0.0))
            if epoch > since:
                job.epoch = epoch
                self._todo.estimates.see(job.target, (self._drawn - then) / (epoch - since))
            elif epoch < since or not then:  # the first look, or the first since it started anew
                self._seen[job.key] = epoch, self._drawn
            accuracy = f"{numbers['test_accuracy']:.2f} %" if "test_accuracy" in numbers else ""
            speed = f"{numbers['images_per_second']:,.0f} images/s" if "images_per_second" in numbers else ""
            table.add_row(job.name, f"epoch {epoch}/{epochs}", accuracy, speed, duration(spent))
        self._expect()
        return table

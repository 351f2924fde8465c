"""Which job starts next, and what becomes of those that end. It knows neither clocks nor processes: an executor has them.

List scheduling: whenever there is room, the first job of a list that may start does. Teachers come first, the one on which
most work hangs before the others; then cells, the longest expected first. With m slots it takes, whatever the order and
however wrong the expectations, at most  W / m + (1 - 1/m) C, where W is all work and C the longest chain of a teacher and a
cell (Graham, Bounds on multiprocessing timing anomalies, 1969): take the cell that ends last. Before it started, a slot
was idle only while its teacher trained, for otherwise the cell, or its teacher, would have been started there. So the slots
were all busy but for C - (that cell) at the most, and then did nothing that is not in W. Where other work keeps the slots
busy while teachers train, nothing is idle before the last cell starts, and the time is at most W / m + (that cell).
A job that died is put before all others, so it takes the slot that it has just left: its attempts, one after the other,
are one job of the sum of their times in W and C.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import mean
from typing import Any, Protocol

ELSEWHERE = ("running", "queued")  # begun by another sweep


class Outcome(Enum):
    """What became of a job that was started."""

    DONE = "recorded, or the teacher kept"
    DIED = "ended without a record: worth another try, which goes on from its checkpoint"
    REFUSED = "what would be the same the next time: bad input, a teacher that diverged"
    ABANDONED = "another sweep's process had it, and has left it unfinished: not an attempt of this sweep"


@dataclass(frozen=True)
class Ended:
    """A job that has ended, and why where it is not done."""

    job: Any
    outcome: Outcome
    error: str = ""


class Executor(Protocol):
    """What runs jobs: the processes of this machine, a cluster, or a simulation.

    queues: it takes jobs whose teachers are still to be trained, in the order of the list, and holds each until its teacher is
        there (a cluster's dependencies); else it is only given what can start at once.
    """

    queues: bool

    def room(self) -> int:
        """How many more jobs it takes now."""

    def start(self, jobs: Sequence[Any]) -> None:
        """Start these, or submit them together. A job may come again after it has ended."""

    def follow(self, job: Any) -> None:
        """Watch a job that another process has already started, and tell its end like the others'."""

    def ended(self) -> list[Ended]:
        """What has ended since the last call. Where nothing has, it lets a moment pass, a second at the most."""

    def cancel(self, jobs: Sequence[Any]) -> None:
        """Give up jobs that were started and have become pointless, since their teacher failed; they are not told again."""

    def stop(self, asked: Callable[[], int]) -> None:
        """End all that it started, by the stop signal, and return when nothing of it runs any more. When `asked()`, the
        number of times that the user has asked, reaches 2, at once and hard."""


class Scheduler:
    """The list of jobs: anything with a `key`, what it `needs` (the key of a teacher's job, or None), the `seconds` it is
    expected to take (None: unknown), whether it `is_teacher`, and a `state`, of which only those of ELSEWHERE count.

    Args:
        retries: how often a job that died is started again.
        queues: the executor's.
    """

    def __init__(self, jobs: Sequence[Any], retries: int = 1, queues: bool = False) -> None:
        known = [job.seconds for job in jobs if job.seconds is not None]
        usual = mean(known) if known else 1.0
        self._seconds = {job.key: usual if job.seconds is None else job.seconds for job in jobs}
        self._hanging: dict[str | None, float] = defaultdict(float)
        for job in jobs:
            self._hanging[job.needs] += self._seconds[job.key]
        self._retries, self._queues = retries, queues
        self._keys = {job.key for job in jobs}  # of a teacher that is no job there is nothing to wait for
        self.elsewhere = [job for job in jobs if job.state in ELSEWHERE]
        self.waiting = sorted((job for job in jobs if job.state not in ELSEWHERE), key=self._rank)
        self.running: dict[str, Any] = {job.key: job for job in self.elsewhere}
        self.attempts: Counter[str] = Counter()
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}

    def _rank(self, job: Any) -> tuple[bool, float]:
        return not job.is_teacher, -(self._hanging[job.key] if job.is_teacher else self._seconds[job.key])

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        return not self.waiting and not self.running

    def next(self, room: int) -> list[Any]:
        """The jobs to start now, at most `room`; they count as running from here on."""
        chosen = []
        for job in self.waiting:
            if len(chosen) >= room:
                break
            if self._queues or job.needs is None or job.needs in self.done or job.needs not in self._keys:
                chosen.append(job)
        for job in chosen:
            self.waiting.remove(job)
            self.running[job.key] = job
            self.attempts[job.key] += 1
        return chosen

    def end(self, ended: Ended) -> list[Ended]:
        """Take in how a job ended. Returns what is final by it: the job, unless it is tried again, and with a teacher that
        failed the cells that need it."""
        job, key = ended.job, ended.job.key
        del self.running[key]
        if ended.outcome is Outcome.DONE:
            self.done.add(key)
            return [ended]
        if ended.outcome is Outcome.ABANDONED:
            self.attempts[key] = 0
        if ended.outcome is Outcome.ABANDONED or (ended.outcome is Outcome.DIED and self.attempts[key] <= self._retries):
            self.waiting.insert(0, job)
            return []
        final = [ended]
        if job.is_teacher:
            hanging = [other for other in (*self.waiting, *self.running.values()) if other.needs == key]
            final += [Ended(other, Outcome.REFUSED, "its teacher could not be trained") for other in hanging]
            self.waiting = [other for other in self.waiting if other.needs != key]
            self.running = {name: other for name, other in self.running.items() if other.needs != key}
        self.failed |= {one.job.key: one.error for one in final}
        return final


def drive(
    scheduler: Scheduler,
    executor: Executor,
    told: Callable[[Ended, bool], None] = lambda ended, final: None,
    passed: Callable[[], None] = lambda: None,
    asked: Callable[[], int] = lambda: 0,
) -> None:
    """Run all jobs, or stop them all when `asked()` is more than 0, or anything goes wrong here.

    Args:
        told: is given what ends, and whether that is final.
        passed: is called every moment, to draw what runs.
    """
    try:
        for job in scheduler.elsewhere:
            executor.follow(job)
        while not scheduler.finished and not asked():
            if jobs := scheduler.next(executor.room()):
                executor.start(jobs)
            for ended in executor.ended():
                running = set(scheduler.running)
                final = scheduler.end(ended)
                for one in final or [ended]:
                    told(one, bool(final))
                executor.cancel([one.job for one in final[1:] if one.job.key in running])
            passed()
    finally:
        executor.stop(asked)

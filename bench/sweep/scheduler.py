"""Which job starts next, and what follows from each result. Clocks and processes are the executor's.

List scheduling: whenever a slot is free, the first job in the list that may start is started. Teachers come first, the one
with the most dependent work before the others; then runs, the longest expected first. Whatever the order, and however wrong
the expectations, m slots take at most  W / m + (1 - 1/m) C, where W is all work and C the longest chain of a teacher and a
run (Graham, Bounds on multiprocessing timing anomalies, 1969): before the run that ends last, a slot is idle only while the
teacher of that run trains. A job that died is put at the head of the list, so it takes the slot that it has just left, and
all its attempts together count as one job in W and C.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Protocol

from bench.sweep.job import Job, JobResult, Outcome, State

STARTED_ELSEWHERE = (State.RUNNING, State.QUEUED)


class Executor(Protocol):
    """What runs jobs: processes of this machine, a cluster, or a simulation.

    queues: whether it takes jobs before their teachers are trained and holds them back until then, as a cluster does.
    """

    queues: bool

    def free_slots(self) -> int:
        """The number of jobs that it can take now."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs, or submit them together. A job that has ended may be started again."""

    def attach(self, job: Job) -> None:
        """Watch a job that another process has started, and report its end like those of the others."""

    def poll(self) -> list[JobResult]:
        """The results since the last call. If there are none, it waits a moment, at most a second."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Give up started jobs whose teacher failed. `poll` does not report them."""

    def stop(self, stop_requests: Callable[[], int]) -> None:
        """End the jobs that it started, and return when they have ended.

        At two `stop_requests()`, jobs of this machine are killed, and jobs of a cluster are not waited for. Without a
        request, a cluster keeps its jobs.
        """


class Scheduler:
    """The list of jobs. Of a job it uses `key`, `needs`, `seconds_left`, `is_teacher` and `state`.

    Attributes:
        attached: the jobs that another sweep has started.
        waiting: the jobs to start, in order.
        running: those that run or are submitted, by key.
        done, failed: keys, and the error of each failed job.
    """

    def __init__(self, jobs: Sequence[Job], retries: int = 1, queues: bool = False) -> None:
        """retries: how often a job that died is started again. queues: the executor's."""
        known = {job.key: job.seconds_left for job in jobs if job.seconds_left is not None}
        typical = mean(known.values()) if known else 1.0
        self._seconds = {job.key: known.get(job.key, typical) for job in jobs}
        self._dependent_seconds: dict[str | None, float] = defaultdict(float)
        for job in jobs:
            self._dependent_seconds[job.needs] += self._seconds[job.key]
        self._retries, self._queues = retries, queues
        self.attached = [job for job in jobs if job.state in STARTED_ELSEWHERE]
        self.waiting = sorted((job for job in jobs if job.state not in STARTED_ELSEWHERE), key=self._rank)
        self.running: dict[str, Job] = {job.key: job for job in self.attached}
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self._attempts: Counter[str] = Counter()

    def _rank(self, job: Job) -> tuple[bool, float]:
        return not job.is_teacher, -(self._dependent_seconds if job.is_teacher else self._seconds)[job.key]

    @property
    def finished(self) -> bool:
        """Whether no job runs or waits."""
        return not self.waiting and not self.running

    def next(self, free_slots: int) -> list[Job]:
        """The jobs to start now, which count as running from here on."""
        untrained = set() if self._queues else self._seconds.keys() - self.done
        chosen = list(itertools.islice((job for job in self.waiting if job.needs not in untrained), free_slots))
        for job in chosen:
            self.waiting.remove(job)
            self.running[job.key] = job
            self._attempts[job.key] += 1
        return chosen

    def end(self, result: JobResult) -> list[JobResult]:
        """Take in a result. Returns the final results: none if the job is tried again, else this one.

        If a teacher fails, the results of the runs that need it are returned too.
        """
        job, key, outcome = result.job, result.job.key, result.outcome
        del self.running[key]
        if outcome is Outcome.DONE:
            self.done.add(key)
            return [result]
        if outcome is Outcome.ABANDONED:
            self._attempts[key] = 0
        if outcome is not Outcome.REFUSED and self._attempts[key] <= self._retries:
            self.waiting.insert(0, job)
            return []
        final = [result]
        if job.is_teacher:
            dependents = [other for other in (*self.waiting, *self.running.values()) if other.needs == key]
            final += [JobResult(other, Outcome.REFUSED, "its teacher could not be trained") for other in dependents]
            self.waiting = [other for other in self.waiting if other.needs != key]
            self.running = {name: other for name, other in self.running.items() if other.needs != key}
        self.failed |= {one.job.key: one.error for one in final}
        return final


def drive(
    scheduler: Scheduler,
    executor: Executor,
    on_result: Callable[[JobResult, bool], None] = lambda result, final: None,
    on_tick: Callable[[], None] = lambda: None,
    stop_requests: Callable[[], int] = lambda: 0,
    detach: bool = False,
) -> None:
    """Run all jobs. Stop them all if `stop_requests()` is not 0, or after an error here.

    Args:
        on_result: called with each result, and whether it is final.
        on_tick: called at least once a second, to draw what runs.
        detach: return after the first jobs are started; only for executors that queue them.
    """
    try:
        for job in scheduler.attached:
            executor.attach(job)
        while not scheduler.finished and not stop_requests():
            if jobs := scheduler.next(executor.free_slots()):
                executor.start(jobs)
            if detach:
                break
            for result in executor.poll():
                running = set(scheduler.running)
                final = scheduler.end(result)
                for one in final or [result]:
                    on_result(one, bool(final))
                executor.cancel([one.job for one in final[1:] if one.job.key in running])
            on_tick()
    finally:
        executor.stop(stop_requests)

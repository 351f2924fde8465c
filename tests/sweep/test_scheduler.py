"""The scheduler itself, driven by a simulated machine: lengths, deaths and kills of the sweep at random."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.sweep.job import JobResult, Outcome, State
from bench.sweep.scheduler import Scheduler, drive


@dataclass(eq=False)
class Job:
    key: str
    needs: str | None = None
    is_teacher: bool = False
    seconds_left: float | None = None  # what the plan expects
    length: float = 1.0  # the seconds that it takes
    state: State = State.TO_RUN


@dataclass
class Machine:
    """An executor with a clock of its own. A run that dies has lost what came after its last checkpoint."""

    slots: int
    rng: random.Random
    deaths: float = 0.0  # probability that a run dies
    left: dict[str, float] = field(default_factory=dict)
    recorded: Counter = field(default_factory=Counter)
    work: Counter = field(default_factory=Counter)  # seconds by key, with those of attempts that died
    most_deaths: int = 3
    queues: bool = False
    now: float = 0.0
    stops: int = 0

    def __post_init__(self):
        self.running, self.died, self.number = [], Counter(), 0

    def free_slots(self):
        return self.slots - len(self.running)

    def start(self, jobs):
        for job in jobs:
            assert job.key not in [other.key for _, _, other, *_ in self.running] and not self.recorded[job.key]
            assert job.needs is None or self.recorded[job.needs], "before its teacher was trained"
            spent, outcome = self.left.setdefault(job.key, job.length), Outcome.DONE
            if self.rng.random() < self.deaths and self.died[job.key] < self.most_deaths:
                spent, outcome = self.rng.uniform(0, spent), Outcome.DIED
                self.died[job.key] += 1
            self.number += 1
            heapq.heappush(self.running, (self.now + spent, self.number, job, outcome, self.now))
        assert len(self.running) <= self.slots

    def poll(self):
        if not self.running:
            return []
        self.now, _, job, outcome, began = heapq.heappop(self.running)
        self.recorded[job.key] += outcome is Outcome.DONE
        self.work[job.key] += self.now - began
        if outcome is Outcome.DIED:
            self.left[job.key] -= self.rng.choice([0, 0.5, 1]) * (self.now - began)
        return [JobResult(job, outcome, "" if outcome is Outcome.DONE else "SIGKILL")]

    def cancel(self, jobs):
        assert not jobs

    def stop(self, stop_requests):
        self.stops += 1
        for _, _, job, _, began in self.running:  # they save their state and end
            self.work[job.key] += self.now - began
            self.left[job.key] -= self.now - began
        self.running = []


def suite(rng: random.Random, runs: int, teachers: int, shortest: float = 0.1, like_suites: bool = False) -> list[Job]:
    """Teachers, and runs of which some need one; the plan knows the lengths of some jobs, and some wrongly."""
    jobs = [Job(f"g{i}", is_teacher=True, length=rng.uniform(shortest, 1 if like_suites else 10)) for i in range(teachers)]
    for i in range(runs):
        guided = teachers and (i % 2 if like_suites else rng.random() < 0.7)
        jobs.append(Job(f"c{i}", needs=f"g{rng.randrange(teachers)}" if guided else None, length=rng.uniform(shortest, 10)))
    for job in jobs:
        job.seconds_left = rng.choice([None, job.length, job.length * rng.uniform(0.1, 3)])
    return jobs


def chain(machine: Machine, jobs: list[Job]) -> float:
    """The longest chain of a teacher and a run that needs it, in the time that they took."""
    return max(machine.work[job.key] + machine.work.get(job.needs, 0.0) for job in jobs)


SEEDS = st.integers(0, 2**32)


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.integers(1, 64), st.integers(1, 400), st.sampled_from([0, 0.05, 0.5]), st.booleans())
def test_every_run_is_recorded_once_within_the_bounds(seed, slots, runs, deaths, like_suites):
    rng = random.Random(seed)
    jobs = suite(rng, runs + 200 * like_suites, rng.randrange(like_suites, 7), like_suites=like_suites)
    machine = Machine(slots, rng, deaths)
    drive(Scheduler(jobs, retries=machine.most_deaths), machine)
    assert set(machine.recorded.values()) == {1} and set(machine.recorded) == {job.key for job in jobs}
    work, longest = sum(machine.work.values()), chain(machine, jobs)
    assert machine.now <= (work / slots + (1 - 1 / slots) * longest) * (1 + 1e-9)
    if like_suites:  # every second run has no teacher, and these keep the slots busy while the shorter teachers train
        assert machine.now <= (max(work / slots, longest) + max(machine.work.values())) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, slots=st.integers(1, 16), runs=st.integers(1, 80))
@example(seed=0, slots=4, runs=40)
def test_a_sweep_that_is_stopped_again_and_again_ends_like_one_that_is_not(seed, slots, runs):
    rng = random.Random(seed)
    jobs = suite(rng, runs, 3)
    machine = Machine(slots, rng, deaths=0.1)
    for _ in range(1000):
        until = machine.now + rng.uniform(0, 20)
        left = [job for job in jobs if not machine.recorded[job.key]]
        scheduler = Scheduler(left, retries=machine.most_deaths)
        drive(scheduler, machine, stop_requests=lambda until=until: machine.now > until)
        if scheduler.finished:
            break
    assert scheduler.finished and set(machine.recorded.values()) == {1} and len(machine.recorded) == len(jobs)
    assert sum(machine.work.values()) >= sum(job.length for job in jobs) * (1 - 1e-9)


def test_longest_first_and_the_teacher_with_the_most_dependent_work():
    jobs = [
        Job("short", seconds_left=1),
        Job("long", seconds_left=9),
        Job("g0", is_teacher=True),
        Job("g1", is_teacher=True),
    ]
    jobs += [Job("a", "g0", seconds_left=2), Job("b", "g1", seconds_left=2), Job("c", "g1", seconds_left=2)]
    scheduler = Scheduler(jobs)
    assert [job.key for job in scheduler.next(3)] == ["g1", "g0", "long"]
    scheduler.end(JobResult(jobs[3], Outcome.DONE))
    assert [job.key for job in scheduler.next(9)] == ["b", "c", "short"]  # those of the other teacher not yet


def test_a_job_that_dies_is_retried_and_a_refused_one_is_not():
    run, other = Job("run"), Job("other")
    scheduler = Scheduler([run, other], retries=2)
    for attempt in range(3):
        assert scheduler.next(1) == [run]  # before the others
        final = scheduler.end(JobResult(run, Outcome.DIED, "SIGKILL"))
        assert bool(final) == (attempt == 2)
    assert scheduler.next(1) == [other] and scheduler.end(JobResult(other, Outcome.REFUSED, "no such file"))
    assert scheduler.finished and scheduler.failed == {"run": "SIGKILL", "other": "no such file"}


@pytest.mark.parametrize("queues", [False, True])
def test_a_teacher_that_fails_fails_its_runs_and_no_others(queues):
    jobs = [Job("g", is_teacher=True), Job("a", "g"), Job("b", "g"), Job("free")]

    class Cluster(Machine):
        cancelled = ()

        def start(self, started):
            self.running += started

        def poll(self):
            job = self.running.pop(0)
            return [JobResult(job, Outcome.REFUSED if job.key == "g" else Outcome.DONE, "diverged")]

        def cancel(self, given_up):
            self.cancelled += tuple(job.key for job in given_up)
            self.running = [job for job in self.running if job not in given_up]

    cluster = Cluster(10, random.Random(0), queues=queues)
    scheduler, lines = Scheduler(jobs, queues=queues), []
    drive(scheduler, cluster, lambda result, final: lines.append((result.job.key, result.error)))
    assert set(scheduler.failed) == {"g", "a", "b"} and scheduler.done == {"free"}
    assert lines[:3] == [("g", "diverged"), *[(key, "its teacher could not be trained") for key in ("a", "b")]]
    assert cluster.cancelled == (("a", "b") if queues else ())


def test_a_run_of_another_process_is_attached_and_taken_over_if_abandoned():
    jobs = [Job("theirs", state=State.RUNNING), Job("left", state=State.RUNNING), Job("ours")]
    attached = []

    class Shared(Machine):
        def attach(self, job):
            attached.append(job)

        def poll(self):
            if attached:
                job = attached.pop(0)
                return [JobResult(job, Outcome.DONE if job.key == "theirs" else Outcome.ABANDONED)]
            return super().poll()

    machine = Shared(1, random.Random(0))
    scheduler = Scheduler(jobs)
    drive(scheduler, machine)
    assert scheduler.done == {"theirs", "left", "ours"} and set(machine.recorded) == {"left", "ours"}


def test_an_error_stops_all_runs():
    machine = Machine(2, random.Random(0))

    def wrong(result, final):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        drive(Scheduler([Job("a"), Job("b"), Job("c")]), machine, wrong)
    assert machine.stops == 1 and not machine.running

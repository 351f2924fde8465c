"""The scheduler itself, driven by a simulated machine: lengths, deaths and kills of the sweep at random."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.sweep.scheduler import Ended, Outcome, Scheduler, drive


@dataclass(eq=False)
class Job:
    key: str
    needs: str | None = None
    is_teacher: bool = False
    seconds: float | None = None  # what the plan expects
    length: float = 1.0  # what it takes
    state: str = "to run"


@dataclass
class Machine:
    """An executor with a clock of its own. A run that dies has lost what came after its last checkpoint."""

    slots: int
    draw: random.Random
    deaths: float = 0.0  # how often a run dies
    left: dict[str, float] = field(default_factory=dict)
    recorded: Counter = field(default_factory=Counter)
    work: Counter = field(default_factory=Counter)  # seconds by key, re-run ones counted
    most_deaths: int = 3
    queues: bool = False
    now: float = 0.0
    stops: int = 0

    def __post_init__(self):
        self.running, self.died, self.number = [], Counter(), 0

    def room(self):
        return self.slots - len(self.running)

    def start(self, jobs):
        for job in jobs:
            assert job.key not in [other.key for _, _, other, *_ in self.running] and not self.recorded[job.key]
            assert job.needs is None or self.recorded[job.needs], "before its teacher was there"
            spent, outcome = self.left.setdefault(job.key, job.length), Outcome.DONE
            if self.draw.random() < self.deaths and self.died[job.key] < self.most_deaths:
                spent, outcome = self.draw.uniform(0, spent), Outcome.DIED
                self.died[job.key] += 1
            self.number += 1
            heapq.heappush(self.running, (self.now + spent, self.number, job, outcome, self.now))
        assert len(self.running) <= self.slots

    def ended(self):
        if not self.running:
            return []
        self.now, _, job, outcome, began = heapq.heappop(self.running)
        self.recorded[job.key] += outcome is Outcome.DONE
        self.work[job.key] += self.now - began
        if outcome is Outcome.DIED:
            self.left[job.key] -= self.draw.choice([0, 0.5, 1]) * (self.now - began)
        return [Ended(job, outcome, "" if outcome is Outcome.DONE else "SIGKILL")]

    def cancel(self, jobs):
        assert not jobs

    def stop(self, asked):
        self.stops += 1
        for _, _, job, _, began in self.running:  # they save and leave
            self.work[job.key] += self.now - began
            self.left[job.key] -= self.now - began
        self.running = []


def suite(draw: random.Random, cells: int, teachers: int, shortest: float = 0.1, like_suites: bool = False) -> list[Job]:
    """Teachers, and cells of which some need one of them; the plan knows the lengths of some of them, and some wrongly."""
    jobs = [Job(f"g{i}", is_teacher=True, length=draw.uniform(shortest, 1 if like_suites else 10)) for i in range(teachers)]
    for i in range(cells):
        guided = teachers and (i % 2 if like_suites else draw.random() < 0.7)
        jobs.append(
            Job(f"c{i}", needs=f"g{draw.randrange(teachers)}" if guided else None, length=draw.uniform(shortest, 10))
        )
    for job in jobs:
        job.seconds = draw.choice([None, job.length, job.length * draw.uniform(0.1, 3)])
    return jobs


def chain(machine: Machine, jobs: list[Job]) -> float:
    """The longest teacher with a cell that needs it, as they really went."""
    return max(machine.work[job.key] + machine.work.get(job.needs, 0.0) for job in jobs)


SEEDS = st.integers(0, 2**32)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, slots=st.integers(1, 64), cells=st.integers(1, 400), deaths=st.sampled_from([0, 0.05, 0.5]))
def test_every_cell_is_recorded_once_within_grahams_bound(seed, slots, cells, deaths):
    draw = random.Random(seed)
    jobs = suite(draw, cells, draw.randrange(0, 8))
    machine = Machine(slots, draw, deaths)
    drive(Scheduler(jobs, retries=machine.most_deaths), machine)
    assert set(machine.recorded.values()) == {1} and set(machine.recorded) == {job.key for job in jobs}
    bound = sum(machine.work.values()) / slots + (1 - 1 / slots) * chain(machine, jobs)
    assert machine.now <= bound * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, slots=st.integers(1, 64), cells=st.integers(200, 600), deaths=st.sampled_from([0, 0.05, 0.3]))
def test_a_suite_takes_at_most_the_lower_bound_and_the_longest_cell(seed, slots, cells, deaths):
    # as suites are: every second cell has no teacher, and these keep the slots busy while teachers, which are shorter, train
    draw = random.Random(seed)
    jobs = suite(draw, cells, draw.randrange(1, 6), like_suites=True)
    machine = Machine(slots, draw, deaths)
    drive(Scheduler(jobs, retries=machine.most_deaths), machine)
    lower = max(sum(machine.work.values()) / slots, chain(machine, jobs))
    assert machine.now <= (lower + max(machine.work.values())) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, slots=st.integers(1, 16), cells=st.integers(1, 80))
@example(seed=0, slots=4, cells=40)
def test_a_sweep_that_is_stopped_again_and_again_ends_like_one_that_is_not(seed, slots, cells):
    draw = random.Random(seed)
    jobs = suite(draw, cells, 3)
    machine = Machine(slots, draw, deaths=0.1)
    for _ in range(1000):
        until = machine.now + draw.uniform(0, 20)
        left = [job for job in jobs if not machine.recorded[job.key]]
        scheduler = Scheduler(left, retries=machine.most_deaths)
        drive(scheduler, machine, asked=lambda until=until: machine.now > until)
        if scheduler.finished:
            break
    assert scheduler.finished and set(machine.recorded.values()) == {1} and len(machine.recorded) == len(jobs)
    assert sum(machine.work.values()) >= sum(job.length for job in jobs) * (1 - 1e-9)


def test_longest_first_and_the_teacher_on_which_most_hangs():
    jobs = [Job("short", seconds=1), Job("long", seconds=9), Job("g0", is_teacher=True), Job("g1", is_teacher=True)]
    jobs += [Job("a", "g0", seconds=2), Job("b", "g1", seconds=2), Job("c", "g1", seconds=2)]
    scheduler = Scheduler(jobs)
    assert [job.key for job in scheduler.next(3)] == ["g1", "g0", "long"]
    scheduler.end(Ended(jobs[3], Outcome.DONE))
    assert [job.key for job in scheduler.next(9)] == ["b", "c", "short"]  # of the other teacher not yet


def test_what_dies_is_tried_again_so_often_and_what_is_refused_is_not():
    cell, other = Job("cell"), Job("other")
    scheduler = Scheduler([cell, other], retries=2)
    for attempt in range(3):
        assert scheduler.next(1) == [cell]  # before the others
        final = scheduler.end(Ended(cell, Outcome.DIED, "SIGKILL"))
        assert bool(final) == (attempt == 2)
    assert scheduler.next(1) == [other] and scheduler.end(Ended(other, Outcome.REFUSED, "no such file"))
    assert scheduler.finished and scheduler.failed == {"cell": "SIGKILL", "other": "no such file"}


@pytest.mark.parametrize("queues", [False, True])
def test_a_teacher_that_fails_takes_its_cells_with_it_and_no_others(queues):
    jobs = [Job("g", is_teacher=True), Job("a", "g"), Job("b", "g"), Job("free")]

    class Cluster(Machine):
        cancelled = ()

        def start(self, started):
            self.running += started

        def ended(self):
            job = self.running.pop(0)
            return [Ended(job, Outcome.REFUSED if job.key == "g" else Outcome.DONE, "diverged")]

        def cancel(self, given_up):
            self.cancelled += tuple(job.key for job in given_up)
            self.running = [job for job in self.running if job not in given_up]

    cluster = Cluster(10, random.Random(0), queues=queues)
    scheduler, told = Scheduler(jobs, queues=queues), []
    drive(scheduler, cluster, lambda ended, final: told.append((ended.job.key, ended.error)))
    assert set(scheduler.failed) == {"g", "a", "b"} and scheduler.done == {"free"}
    assert told[:3] == [
        ("g", "diverged"),
        ("a", "its teacher could not be trained"),
        ("b", "its teacher could not be trained"),
    ]
    assert cluster.cancelled == (("a", "b") if queues else ())


def test_what_another_process_runs_is_followed_and_taken_over_when_it_is_left():
    jobs = [Job("theirs", state="running"), Job("left", state="running"), Job("ours")]
    followed = []

    class Shared(Machine):
        def follow(self, job):
            followed.append(job)

        def ended(self):
            if followed:
                job = followed.pop(0)
                return [Ended(job, Outcome.DONE if job.key == "theirs" else Outcome.ABANDONED)]
            return super().ended()

    machine = Shared(1, random.Random(0))
    scheduler = Scheduler(jobs)
    drive(scheduler, machine)
    assert scheduler.done == {"theirs", "left", "ours"} and set(machine.recorded) == {"left", "ours"}


def test_all_is_stopped_when_something_goes_wrong():
    machine = Machine(2, random.Random(0))

    def wrong(ended, final):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        drive(Scheduler([Job("a"), Job("b"), Job("c")]), machine, wrong)
    assert machine.stops == 1 and not machine.running

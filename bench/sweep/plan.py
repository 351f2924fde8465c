"""What is left to do and what it costs: every run with its state, and the teachers that unfinished runs need.

Needs no torch, no GPU and, unless runs are finished, no data.
"""

from __future__ import annotations

import functools
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cli import count, duration
from bench.config.schema import TEACHER_PASS_KEYS, Recipe, RecipeError
from bench.data.preflight import Preflight
from bench.data.sources import MissingDataset
from bench.data.store import current_fingerprint
from bench.locks import is_held
from bench.runs.folder import RunFolder
from bench.runs.record import Record, RunKey, accuracy_text, check_same_images, run_key, stale_parts
from bench.sweep.estimates import Estimates
from bench.sweep.job import Job, State, job_key
from bench.sweep.squeue import read_queue_states
from bench.train.teacher_cache import cached_teacher_record

TEACHER_PREFIXES = ("teacher.", "data.", "augment.")  # of varied keys that a teacher's recipe may have too
TEACHER_USE_PREFIXES = tuple(f"teacher.{name}=" for name in TEACHER_PASS_KEYS)  # of keys for the use of a teacher


@dataclass(frozen=True)
class Plan:
    """All runs, ordered by seed, and each teacher that the unfinished ones need, once.

    problems: why runs cannot run, each sentence once. downloads: the datasets that the others will download.
    """

    runs: list[Job]
    teachers: list[Job]
    problems: list[str] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> list[Job]:
        """What is left to do and can be done, teachers first."""
        jobs = (*self.teachers, *self.runs)
        return [job for job in jobs if not job.is_finished and job.state is not State.CANNOT_RUN]


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan: its recipe with its seed, and what `Job` says about options and settings."""

    recipe: Recipe
    options: Sequence[str] = ()
    settings: Sequence[str] = ()


def make_plan(
    planned: Iterable[PlannedRun],
    results: str | Path,
    data_dir: str | Path = "data",
    stale: bool = False,
    published: Mapping[RunKey, Record] | None = None,
    processes: int = 1,
    measured: Iterable[Record] = (),
) -> Plan:
    """The plan of runs. Of several runs with the same recipe and seed, the first counts.

    Args:
        results: the results folder; only runs in it count as finished.
        data_dir: the folder of local datasets, with which records are compared.
        stale: whether runs that are recorded with other code are to be run again.
        published: records; what is not finished here and has one of the same images is left out.
        processes: of a run.
        measured: published records, whose times are used for runs if no similar run is finished here.

    Raises:
        RecipeError: a record is damaged, or of other images than its dataset has now.
    """
    estimates = Estimates(measured)
    runs: list[Job] = []
    begun: list[Job] = []
    teachers: dict[str, Job] = {}
    fingerprint = functools.cache(lambda data: current_fingerprint(data, data_dir))
    preflight = Preflight(data_dir)
    training_images = functools.cache(preflight.training_images)
    checked: dict[tuple[str, str], RecipeError | None] = {}  # by id and hash, since one recipe has many seeds
    seen = set()
    for one in planned:
        recipe = one.recipe
        if (run := job_key(recipe)) in seen:
            continue
        seen.add(run)
        job = Job(recipe, False, RunFolder(results, recipe), estimates, one.options, one.settings)
        runs.append(job)
        has_begun = job.folder.path.is_dir()
        record = job.folder.record(recipe) if has_begun else None
        if record is not None:
            check_same_images(record, fingerprint(recipe.data))
            estimates.add(record)
            _take_record(job, record, stale)
            if job.is_finished:
                continue
        committed = published.get(run_key(recipe)) if published else None
        if committed is not None and fingerprint(recipe.data) in (None, committed.dataset.fingerprint):
            job.state, job.note, job.accuracy = State.PUBLISHED, accuracy_text(committed), committed.accuracy
            continue
        if has_begun:
            if record is None:
                _read_status(job)
            begun.append(job)
        if (name := (recipe.id, recipe.hash)) not in checked:
            checked[name] = preflight.problem(recipe, processes)
        if (problem := checked[name]) is not None and job.state is not State.RUNNING:
            missing = isinstance(problem, MissingDataset)
            job.state = State.CANNOT_RUN
            job.note = "dataset is missing" if missing else f"{str(problem).partition(': ')[0]}: see below"
            continue
        job.training_images = training_images(recipe.data, recipe.data)
        if recipe.teacher is not None and recipe.teacher.sha256 is None:
            teacher = job_key(recipe.teacher)
            if teacher not in teachers:
                teachers[teacher] = _teacher_job(one, results, estimates)
                teachers[teacher].training_images = training_images(recipe.data, recipe.teacher.data)
            if not teachers[teacher].is_finished:
                job.needs = teacher
                if job.state in (State.TO_RUN, State.RESUMABLE):
                    job.state = State.WAITING
    read_queue_states([*begun, *(job for job in teachers.values() if not job.is_finished)])
    problems = list(dict.fromkeys(str(problem) for problem in checked.values() if problem is not None))
    return Plan(runs, list(teachers.values()), problems, list(preflight.downloads.values()))


def _take_record(job: Job, record: Record, stale: bool) -> None:
    """Let a job be finished by its record. With `stale`, it replaces a record of other code instead."""
    parts = stale_parts(record, job.recipe)
    if parts and stale:
        job.replaces, job.note = record, f"{State.STALE} ({'; '.join(parts)})"
        return
    job.state = State.STALE if parts else State.DIVERGED if record.diverged else State.FINISHED
    job.accuracy = record.accuracy
    job.note = ", ".join(filter(None, ("" if record.diverged else accuracy_text(record), "; ".join(parts))))


def _teacher_job(run: PlannedRun, results: str | Path, estimates: Estimates) -> Job:
    """The teacher of a run: finished if it is in the cache."""
    teacher = run.recipe.teacher
    settings = [text for text in run.settings if text.startswith(TEACHER_PREFIXES)]
    own = [text for text in settings if not text.startswith(TEACHER_USE_PREFIXES)]
    job = Job(run.recipe, True, RunFolder(results, teacher), estimates, run.options, own)
    if (record := cached_teacher_record(teacher)) is None:
        _read_status(job)
        return job
    job.state, job.accuracy, job.note = State.FINISHED, record.accuracy, f"in the cache, {accuracy_text(record)}"
    return job


def _read_status(job: Job) -> None:
    """Set state, note and epoch of a job without a record from its status.json.

    "running" there may be of a process that was killed: only the lock shows whether it still runs.
    """
    status = job.folder.status()
    state, epoch = status.get("state"), status.get("epoch")
    if type(epoch) is int and 0 <= epoch <= job.target.train.epochs:
        job.epoch = epoch
    if state == "running" and is_held(job.folder.path):
        job.state, job.note = State.RUNNING, f"{job.progress} on {status.get('host')}"
    elif state in ("running", "stopped"):
        job.state, job.note = State.RESUMABLE, job.progress
    elif state in ("failed", "diverged"):  # a teacher that diverged is trained again; a run that diverged has a record
        error = status.get("error") or "diverged"
        job.state, job.note = State.FAILED, (str(error).strip().splitlines() or [""])[-1]


def processor_hours(jobs: Sequence[Job]) -> dict[str, float]:
    """The {"GPU-hours", "core-hours"} that jobs will take. Jobs of unknown time are left out."""
    hours: Counter[str] = Counter()
    for job in jobs:
        if job.expected is not None:
            hours[f"{job.expected.unit}-hours"] += job.seconds_left * job.expected.processors / 3600
    return dict(hours)


def least_seconds(jobs: Sequence[Job], slots: int) -> float | None:
    """The least time that jobs take in a number of slots, in seconds. Jobs of unknown time are left out; None: all are.

    It is the larger of the work divided by the slots and the longest chain of a teacher and a run that needs it.
    """
    known = {job.key: job.seconds_left for job in jobs if job.seconds_left is not None}
    if not known:
        return None
    chains = (known[job.key] + known.get(job.needs, 0.0) for job in jobs if job.key in known)
    return max(sum(known.values()) / slots, *chains)


def left_to_train(jobs: Sequence[Job]) -> tuple[int, int | None]:
    """The (epochs, training images) that are left of jobs. The images are None if those of one are unknown."""
    left = [(job.target.train.epochs - job.epoch, job.images_per_epoch) for job in jobs]
    images = None if any(per_epoch is None for _, per_epoch in left) else sum(math.prod(pair) for pair in left)
    return sum(epochs for epochs, _ in left), images


def summary(plan: Plan, slots: int, options: Sequence[str] = ()) -> list[str]:
    """Lines that say how many runs are in which state, and what the others will cost.

    Args:
        slots: number of runs at the same time.
        options: words that a command on these recipes needs, for folders.
    """
    jobs, counts = plan.jobs, Counter(job.state for job in plan.runs)
    lines = [f"{count(len(plan.runs), 'run')}: " + ", ".join(f"{counts[s]} {s}" for s in State if counts[s])]
    lines += [f"cannot run: {problem}" for problem in plan.problems] + plan.downloads
    if plan.teachers:
        trained = sum(job.is_finished for job in plan.teachers)
        lines.append(f"{count(len(plan.teachers), 'teacher')}: {trained} trained, {len(plan.teachers) - trained} to train")
    if counts[State.STALE]:
        lines.append(f"{State.STALE}: {count(counts[State.STALE], 'run')}; --stale runs them again")
    if not jobs:
        return lines
    epochs, images = left_to_train(jobs)
    lines.append(f"left to train: {count(epochs, 'epoch')}" + (f", about {images:,} training images" if images else ""))
    if (least := least_seconds(jobs, slots)) is not None:
        spent = " and ".join(f"{value:.3g} {unit}" for unit, value in processor_hours(jobs).items())
        lines.append(f"expected: {spent}, at least {duration(least)} with {count(slots, 'run')} at a time")
    expected = [job.expected for job in jobs if job.expected is not None]
    if machines := dict.fromkeys(one.machine for one in expected if one.machine):
        lines.append(f"?: from published runs on {'; '.join(machines)}, since no similar run is finished here")
    if not all(one.exact for one in expected):
        lines.append("~: measured on the same model, dataset and image size with other guidance or settings")
    if unknown := [job for job in jobs if job.expected is None]:
        one = unknown[0]
        measured = ["python", "-m", "bench", "speed", "--recipe", one.recipe.id, *one.options, *options]
        lines += [
            f"time: unknown for {len(unknown)} of {count(len(jobs), 'job')}, since no similar run is finished here. It is"
            " about the training images divided by the images/s of",
            f"  {shlex.join(measured)}",
        ]
    return lines


def as_text(plan: Plan, slots: int, options: Sequence[str] = ()) -> str:
    """The plan for people: one line per teacher and run, then the `summary`, whose arguments these are."""
    rows = [("state", "recipe", "variant", "seed", "time left", "")]
    for job in (*plan.teachers, *plan.runs):
        time = ""
        if not job.is_finished and job.state is not State.CANNOT_RUN:
            time = "unknown" if job.expected is None else f"{job.expected.mark}{duration(job.seconds_left)}"
        seed = f"{'teacher ' if job.is_teacher else ''}{job.target.seed}"
        rows.append((job.state, job.target.id, " ".join(job.settings), seed, time, job.note))
    if not any(job.settings for job in plan.runs):
        rows = [(*row[:2], *row[3:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # tabulate takes a second for thousands of rows
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in rows]
    return "\n".join([*table, "", *summary(plan, slots, options)])


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan for programs, as `plan --json` prints it."""

    def row(job: Job) -> dict[str, Any]:
        return {
            "id": job.target.id,
            "seed": job.target.seed,
            "hash": job.target.hash,
            "settings": list(job.settings),
            "options": list(job.options),
            "state": job.state,
            "note": job.note,
            "accuracy": job.accuracy,
            "epochs": job.target.train.epochs,
            "epochs_done": job.target.train.epochs if job.is_finished else job.epoch,
            "images_per_epoch": job.images_per_epoch,
            "seconds_left": job.seconds_left,
            "same_recipe_measured": None if job.expected is None else job.expected.exact,
            "measured_on": None if job.expected is None else job.expected.machine or "here",
        }

    left: dict[str, float | None] = {unit: round(value, 3) for unit, value in processor_hours(plan.jobs).items()}
    left["unknown"] = sum(job.expected is None for job in plan.jobs)
    left["epochs"], left["training_images"] = left_to_train(plan.jobs)
    rows = {"runs": [row(job) for job in plan.runs], "teachers": [row(job) for job in plan.teachers]}
    return {**rows, "left": left, "problems": plan.problems, "downloads": plan.downloads}

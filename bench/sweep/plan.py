"""What is left to do and what it costs: every run with its state, and the teachers that unfinished runs need.

Needs no torch, no GPU and, unless runs are finished, no data.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.cli import duration
from bench.config.schema import Data, Recipe
from bench.data.store import current_fingerprint
from bench.locks import is_held
from bench.runs.folder import RunFolder
from bench.runs.record import check_same_images, stale_parts
from bench.sweep.job import Estimates, Job, State, job_key
from bench.sweep.squeue import read_queue_states
from bench.train.teacher_cache import cached_teacher_record


@dataclass(frozen=True)
class Plan:
    """All runs, ordered by seed, and each teacher that the unfinished ones need, once."""

    runs: list[Job]
    teachers: list[Job]

    @property
    def jobs(self) -> list[Job]:
        """What is left to do, teachers first."""
        return [job for job in (*self.teachers, *self.runs) if not job.is_finished]


def make_plan(
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    results: str | Path,
    data_dir: str | Path = "data",
    stale: bool = False,
) -> Plan:
    """The plan of recipes x seeds.

    Args:
        recipes: of any seed.
        results: the results folder; only runs in it count as finished.
        data_dir: the folder of local datasets, with which records are compared.
        stale: whether runs that are recorded with other code are to be run again.

    Raises:
        RecipeError: a record is damaged, or of other images than its dataset has now.
    """
    estimates = Estimates()
    runs: list[Job] = []
    begun: list[Job] = []
    teachers: dict[str, Job] = {}
    fingerprints: dict[Data, str | None] = {}
    folder_names: dict[Path, set[str]] = {}
    for seed, base in product(seeds, recipes):
        recipe = base.with_seed(seed)
        job = Job(recipe, False, RunFolder(results, recipe), estimates)
        runs.append(job)
        parent = job.folder.path.parent
        if parent not in folder_names:  # one listing for all seeds: thousands of runs that have not begun cost nothing
            folder_names[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if job.folder.path.name in folder_names[parent]:
            if (record := job.folder.record(recipe)) is not None:
                if recipe.data not in fingerprints:
                    fingerprints[recipe.data] = current_fingerprint(recipe.data, data_dir)
                check_same_images(record, fingerprints[recipe.data])
                estimates.add(record)
                parts = stale_parts(record, recipe)
                if not (parts and stale):
                    job.state = State.STALE if parts else State.DIVERGED if record.diverged else State.FINISHED
                    accuracy = "" if record.diverged else f"{record.last_accuracy:.2f} %"
                    job.note = ", ".join(filter(None, (accuracy, "; ".join(parts))))
                    continue
                job.replaces, job.note = record, f"{State.STALE} ({'; '.join(parts)})"
            else:
                _read_status(job)
            begun.append(job)
        if recipe.teacher is not None:
            key = job_key(recipe.teacher)
            if key not in teachers:
                teachers[key] = Job(recipe, True, RunFolder(results, recipe.teacher), estimates)
                if (record := cached_teacher_record(recipe.teacher)) is not None:
                    teachers[key].state = State.FINISHED
                    teachers[key].note = f"in the cache, {record.last_accuracy:.2f} %"
                else:
                    _read_status(teachers[key])
            if not teachers[key].is_finished:
                job.needs = key
                if job.state in (State.TO_RUN, State.RESUMABLE):
                    job.state = State.WAITING
    read_queue_states([*begun, *(job for job in teachers.values() if not job.is_finished)])
    return Plan(runs, list(teachers.values()))


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


def images_per_epoch(recipe: Recipe) -> int | None:
    """The number of training images of an epoch, estimated without the dataset; None: unknown."""
    data, batch = recipe.data, recipe.train.batch_size
    count = data.train_images
    if count is not None:
        count *= 1 - data.holdout
        if data.subset is not None and data.classes is not None:
            count *= data.subset / data.classes
    if data.train_limit is not None:
        count = data.train_limit if count is None else min(count, data.train_limit)
    return None if count is None else int(count) // batch * batch  # the last incomplete batch is dropped


def summary(plan: Plan, slots: int) -> list[str]:
    """Lines that say how many runs are in which state, and what the others will cost.

    Args:
        slots: number of runs at the same time.
    """
    jobs, counts = plan.jobs, Counter(job.state for job in plan.runs)
    lines = [f"{_plural(len(plan.runs), 'run')}: " + ", ".join(f"{counts[s]} {s}" for s in State if counts[s])]
    if plan.teachers:
        trained = sum(job.is_finished for job in plan.teachers)
        lines.append(
            f"{_plural(len(plan.teachers), 'teacher')}: {trained} trained, {len(plan.teachers) - trained} to train"
        )
    if counts[State.STALE]:
        lines.append(f"{State.STALE}: {_plural(counts[State.STALE], 'run')}; --stale runs them again")
    if not jobs:
        return lines
    epochs = [job.target.train.epochs - job.epoch for job in jobs]
    images = [images_per_epoch(job.target) for job in jobs]
    lines.append(f"left to train: {sum(epochs):,} epochs")
    if None not in images:
        total = sum(count * per_epoch for count, per_epoch in zip(epochs, images, strict=True))
        lines[-1] += f", about {total:,} training images"
    if (least := least_seconds(jobs, slots)) is not None:
        spent = " and ".join(f"{value:.3g} {unit}" for unit, value in processor_hours(jobs).items())
        lines.append(f"expected: {spent}, at least {duration(least)} with {_plural(slots, 'run')} at a time")
    if any(job.expected is not None and not job.expected.exact for job in jobs):
        lines.append("~: measured on the same model and dataset with other guidance or settings")
    if unknown := [job.recipe for job in jobs if job.expected is None]:
        lines += [
            f"time: unknown for {len(unknown)} of {len(jobs)} jobs, since no similar run is finished here. It is the number"
            " of training images divided by images/s, which this measures:",
            f"  python -m bench speed --recipe {unknown[0].id} --protocol {unknown[0].protocol}",
        ]
    return lines


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def as_text(plan: Plan, slots: int) -> str:
    """The plan for people: one line per teacher and run, then the `summary`."""
    rows = [("state", "recipe", "seed", "time left", "")]
    for job in (*plan.teachers, *plan.runs):
        time = ""
        if not job.is_finished:
            time = "unknown" if job.expected is None else ("" if job.expected.exact else "~") + duration(job.seconds_left)
        seed = f"{'teacher ' if job.is_teacher else ''}{job.target.seed}"
        rows.append((job.state, job.target.id, seed, time, job.note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # tabulate takes a second for thousands of rows
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in rows]
    return "\n".join([*table, "", *summary(plan, slots)])


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan for programs, as `plan --json` prints it."""

    def row(job: Job) -> dict[str, Any]:
        return {
            "id": job.target.id,
            "seed": job.target.seed,
            "hash": job.target.hash,
            "state": job.state,
            "note": job.note,
            "seconds_left": job.seconds_left,
            "same_recipe_measured": None if job.expected is None else job.expected.exact,
        }

    left = {unit: round(value, 3) for unit, value in processor_hours(plan.jobs).items()}
    left["unknown"] = sum(job.expected is None for job in plan.jobs)
    return {"runs": [row(job) for job in plan.runs], "teachers": [row(job) for job in plan.teachers], "left": left}

"""What there is to do: every cell with its state, the teachers that the missing ones need, and how long all that will take.

Nothing here needs torch, a GPU or, unless something is recorded, the data.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.config.schema import Recipe, RecipeError
from bench.locks import is_held
from bench.runs.folder import RunFolder
from bench.sweep.estimates import Estimate, Estimates
from bench.sweep.squeue import mark
from bench.train.teacher_cache import cached_teacher_record

STATES = ("recorded", "running", "queued", "resumable", "failed", "waiting for a teacher", "to run")


@dataclass(eq=False)
class Job:
    """One process to start: a cell, or the training of a teacher that cells wait for.

    Attributes:
        recipe: of the cell; for a teacher, of one cell that it teachers.
        needs: the `key` of the teacher's job, or None where there is nothing to wait for.
        state: one of STATES.
        note: what there is to say beside it: an accuracy, an epoch, an error.
        epoch: how many are behind it.
        cluster_id: its job's in a cluster's queue; empty: it is in none.
        expected: of a whole run; None: unknown.
    """

    key: str
    recipe: Recipe
    is_teacher: bool
    needs: str | None
    folder: RunFolder
    state: str = "to run"
    note: str = ""
    epoch: int = 0
    cluster_id: str = ""
    expected: Estimate | None = None

    @property
    def target(self) -> Recipe:
        """The recipe that is trained."""
        return self.recipe.teacher if self.is_teacher else self.recipe

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.target.id} seed {self.target.seed}"

    @property
    def seconds(self) -> float | None:
        """What is left of it; None: unknown."""
        if self.expected is None:
            return None
        return self.expected.seconds * max(0.0, 1 - self.epoch / self.target.train.epochs)

    def command(self, launch: Sequence[str], script: Path | str, options: Sequence[str]) -> list[str]:
        """The command that does this job: `launch` is Python, or a launcher of it; `options` go to every job alike."""
        own = ["--recipe", self.recipe.id, "--seed", str(self.recipe.seed)]
        return [*launch, str(script), *own, *options, *(["--teacher-only"] if self.is_teacher else [])]


@dataclass(frozen=True)
class Plan:
    """All cells, by seed, and the teachers that the unfinished ones need, each once."""

    cells: list[Job]
    teachers: list[Job]
    estimates: Estimates

    @property
    def recorded(self) -> list[Job]:
        """The cells that are finished, those that diverged among them."""
        return [job for job in self.cells if job.state == "recorded"]

    @property
    def jobs(self) -> list[Job]:
        """What is left, teachers first."""
        return [job for job in (*self.teachers, *self.cells) if job.state != "recorded"]


def plan(recipes: Sequence[Recipe], seeds: Sequence[int], results: str | Path, data_dir: str | Path = "data") -> Plan:
    """The plan of recipes x seeds.

    Args:
        recipes: of any seed.
        results: the folder that holds runs/; only what is recorded there counts as done.
        data_dir: where the datasets are that records are compared with.

    Raises:
        RecipeError: a record is damaged, or of other images than its dataset has now.
    """
    estimates, cells, teachers, fingerprints, listed, begun = Estimates(), [], {}, {}, {}, []
    for seed, base in product(seeds, recipes):
        recipe = base.with_seed(seed)
        job = Job(f"{recipe.id} {recipe.hash} {seed}", recipe, False, None, RunFolder(results, recipe))
        parent = str(job.folder.path.parent)
        if parent not in listed:  # once for all seeds: thousands of cells that have not begun cost no look each
            listed[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if job.folder.path.name in listed[parent]:
            record = job.folder.record(recipe)
            if record is not None:
                _check_same_images(recipe, record, data_dir, fingerprints)
                estimates.add(record)
                job.state = "recorded"
                job.note = "diverged" if record.get("diverged") else f"{record['last_accuracy']:.2f} %"
            else:
                _look_into(job)
                begun.append(job)
        cells.append(job)
        if recipe.teacher is not None and job.state != "recorded":
            key = f"{recipe.teacher.id} {recipe.teacher.hash} {recipe.teacher.seed}"
            if key not in teachers:
                teachers[key] = _teacher_job(key, recipe, results)
            if teachers[key].state != "recorded":
                job.needs = key
                if job.state in ("to run", "resumable"):
                    job.state = "waiting for a teacher"
    mark([*begun, *teachers.values()])
    for job in (*cells, *teachers.values()):
        job.expected = estimates.of(job.target)
    return Plan(cells, list(teachers.values()), estimates)


def _teacher_job(key: str, recipe: Recipe, results: str | Path) -> Job:
    """The job of a recipe's teacher: recorded when a trained one is kept in the cache."""
    job = Job(key, recipe, True, None, RunFolder(results, recipe.teacher))
    if (record := cached_teacher_record(recipe.teacher)) is not None:
        job.state, job.note = "recorded", f"kept, {record.get('last_accuracy')} %"
    else:
        _look_into(job)
    return job


def _look_into(job: Job) -> None:
    """State, note and epoch of what is not recorded, by its status.json. One that says `running` may be of a process that
    was killed: the system knows whether it holds the lock."""
    status = job.folder.status()
    epoch, epochs, error = status.get("epoch"), job.target.train.epochs, status.get("error")
    if type(epoch) is int and 0 <= epoch <= epochs:
        job.epoch = epoch
    if status.get("state") == "running" and is_held(job.folder.path):
        job.state, job.note = "running", f"epoch {job.epoch}/{epochs} on {status.get('host')}"
    elif status.get("state") in ("running", "stopped"):
        job.state, job.note = "resumable", f"epoch {job.epoch}/{epochs}"
    elif status.get("state") in ("failed", "diverged"):  # a teacher that diverged; a cell that did is recorded
        job.state, job.note = "failed", (str(error or "diverged").strip().splitlines() or [""])[-1]


def _check_same_images(recipe: Recipe, record: dict[str, Any], data_dir: str | Path, known: dict[Any, str | None]) -> None:
    from bench.data.store import check_same_images, current_fingerprint

    if recipe.data not in known:
        known[recipe.data] = current_fingerprint(recipe.data, data_dir)
    check_same_images(recipe, record, known[recipe.data])


def hours(jobs: Sequence[Job]) -> tuple[dict[str, float], int]:
    """(GPU-hours and core-hours that the jobs still take, how many of them are not in it since nothing like them has been
    measured)."""
    total, unknown = Counter(), 0
    for job in jobs:
        if job.expected is None:
            unknown += 1
        else:
            total[f"{job.expected.unit}-hours"] += job.seconds * job.expected.processors / 3600
    return dict(total), unknown


def at_least(jobs: Sequence[Job], slots: int) -> float | None:
    """Seconds that the jobs take in so many slots at the least, those unknown left out: the work shared evenly, or the
    longest teacher with the longest cell that waits for it. None where nothing is known."""
    known = {job.key: job.seconds for job in jobs if job.seconds is not None}
    if not known:
        return None
    chains = (job.seconds + known.get(job.needs, 0.0) for job in jobs if job.seconds is not None)
    return max(sum(known.values()) / slots, *chains)


def duration(seconds: float) -> str:
    """As 45 s, 12 min, 3.4 h, 2.1 days."""
    for most, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def as_dict(todo: Plan) -> dict[str, Any]:
    """The plan for programs: what `plan --json` prints."""

    def row(job: Job) -> dict[str, Any]:
        exact = job.expected.exact if job.expected is not None else None
        told = {"id": job.target.id, "seed": job.target.seed, "hash": job.target.hash, "state": job.state, "note": job.note}
        return {**told, "seconds": 0 if job.state == "recorded" else job.seconds, "same_recipe_measured": exact}

    total, unknown = hours(todo.jobs)
    return {
        "cells": list(map(row, todo.cells)),
        "teachers": list(map(row, todo.teachers)),
        "left": {**{unit: round(value, 3) for unit, value in total.items()}, "unknown": unknown},
    }


def as_text(todo: Plan, slots: int) -> str:
    """The plan for people: a line a cell and a teacher, then how many are in which state, and what is left to do.

    Args:
        slots: runs that go on at once.
    """

    def row(job: Job) -> tuple[str, ...]:
        time = "unknown" if job.seconds is None else ("" if job.expected.exact else "~") + duration(job.seconds)
        seed = f"{'teacher ' if job.is_teacher else ''}{job.target.seed}"
        return job.state, job.target.id, seed, "" if job.state == "recorded" else time, job.note

    rows = [("state", "recipe", "seed", "time left", ""), *(row(job) for job in (*todo.teachers, *todo.cells))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    out = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in rows]  # tabulate takes a second for thousands
    out.append("")
    counts = Counter(job.state for job in todo.cells)
    out.append(f"{len(todo.cells)} cells: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    if todo.teachers:
        kept = sum(job.state == "recorded" for job in todo.teachers)
        teachers = f"{len(todo.teachers)} teacher{'s' * (len(todo.teachers) > 1)}"
        out.append(f"{teachers}: {kept} trained, {len(todo.teachers) - kept} to train")
    if todo.jobs:
        (total, unknown), least = hours(todo.jobs), at_least(todo.jobs, slots)
        told = [f"{value:.3g} {unit}" for unit, value in total.items()]
        if least is not None:
            told.append(f"at least {duration(least)} with {slots} run{'s' * (slots > 1)} at a time here")
        if unknown:
            told.append(f"unknown for {unknown} of {len(todo.jobs)} runs, since nothing like them is recorded here")
        out.append(f"left: {', '.join(told)}")
        if any(job.expected is not None and not job.expected.exact for job in todo.jobs):
            out.append("~: measured on the same model and dataset under other guidance or settings")
    return "\n".join(out)


def check_seeds(seeds: int | None, otherwise: Sequence[int]) -> Sequence[int]:
    """0 to seeds - 1, or the others where none are asked for."""
    if seeds is not None and seeds < 1:
        raise RecipeError(f"--seeds {seeds}: must be 1 or more")
    return otherwise if seeds is None else range(seeds)

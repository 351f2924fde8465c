"""What is left to do: every run with its state, and the teachers that unfinished runs need.

Needs no torch, no GPU and, unless runs are finished, no data.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bench.config.schema import Data, Recipe
from bench.data.store import current_fingerprint
from bench.locks import is_held
from bench.runs.folder import RunFolder
from bench.runs.record import check_same_images
from bench.sweep.estimates import Estimates
from bench.sweep.job import Job, State, job_key
from bench.sweep.squeue import read_queue_states
from bench.train.teacher_cache import cached_teacher_record


@dataclass(frozen=True)
class Plan:
    """All runs, ordered by seed, and each teacher that the unfinished ones need, once."""

    runs: list[Job]
    teachers: list[Job]
    estimates: Estimates

    @property
    def finished(self) -> list[Job]:
        """The finished runs, with those that diverged."""
        return [job for job in self.runs if job.is_finished]

    @property
    def jobs(self) -> list[Job]:
        """What is left to do, teachers first."""
        return [job for job in (*self.teachers, *self.runs) if not job.is_finished]


def make_plan(recipes: Sequence[Recipe], seeds: Sequence[int], results: str | Path, data_dir: str | Path = "data") -> Plan:
    """The plan of recipes x seeds.

    Args:
        recipes: of any seed.
        results: the results folder; only runs in it count as finished.
        data_dir: the folder of local datasets, with which records are compared.

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
        job = Job(recipe, False, RunFolder(results, recipe))
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
                job.state = State.DIVERGED if record.diverged else State.FINISHED
                job.note = "" if record.diverged else f"{record.last_accuracy:.2f} %"
                continue
            _read_status(job)
            begun.append(job)
        if recipe.teacher is not None:
            key = job_key(recipe.teacher)
            if key not in teachers:
                teachers[key] = _teacher_job(recipe, results)
            if not teachers[key].is_finished:
                job.needs = key
                if job.state in (State.TO_RUN, State.RESUMABLE):
                    job.state = State.WAITING
    read_queue_states([*begun, *(job for job in teachers.values() if not job.is_finished)])
    for job in (*runs, *teachers.values()):
        job.expected = estimates.of(job.target)
    return Plan(runs, list(teachers.values()), estimates)


def _teacher_job(recipe: Recipe, results: str | Path) -> Job:
    """The job of a recipe's teacher. It is finished if a trained one is in the cache."""
    job = Job(recipe, True, RunFolder(results, recipe.teacher))
    if (record := cached_teacher_record(recipe.teacher)) is not None:
        job.state, job.note = State.FINISHED, f"in the cache, {record.last_accuracy:.2f} %"
    else:
        _read_status(job)
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

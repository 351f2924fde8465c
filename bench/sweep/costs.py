"""What a plan costs, and how it is printed: for people, and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.cli import duration
from bench.config.schema import Recipe
from bench.sweep.job import Job, State
from bench.sweep.plan import Plan


def processor_hours(jobs: Sequence[Job]) -> tuple[dict[str, float], int]:
    """({"GPU-hours", "core-hours"} that jobs will take, number of jobs of unknown time, which are not included)."""
    total, unknown = Counter(), 0
    for job in jobs:
        if job.expected is None:
            unknown += 1
        else:
            total[f"{job.expected.unit}-hours"] += job.seconds_left * job.expected.processors / 3600
    return dict(total), unknown


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
    counts = Counter(job.state for job in plan.runs)
    lines = [f"{_plural(len(plan.runs), 'run')}: " + ", ".join(f"{counts[s]} {s}" for s in State if counts[s])]
    if plan.teachers:
        trained = sum(job.is_finished for job in plan.teachers)
        lines.append(
            f"{_plural(len(plan.teachers), 'teacher')}: {trained} trained, {len(plan.teachers) - trained} to train"
        )
    if not plan.jobs:
        return lines
    epochs = sum(job.target.train.epochs - job.epoch for job in plan.jobs)
    images = [images_per_epoch(job.target) for job in plan.jobs]
    if None not in images:
        seen = sum(n * (job.target.train.epochs - job.epoch) for n, job in zip(images, plan.jobs, strict=True))
        lines.append(f"left to train: {epochs:,} epochs, about {seen:,} training images")
    else:
        lines.append(f"left to train: {epochs:,} epochs")
    (hours, unknown), least = processor_hours(plan.jobs), least_seconds(plan.jobs, slots)
    if least is not None:
        spent = " and ".join(f"{value:.3g} {unit}" for unit, value in hours.items())
        lines.append(f"expected: {spent}, at least {duration(least)} with {_plural(slots, 'run')} at a time")
        if any(job.expected is not None and not job.expected.exact for job in plan.jobs):
            lines.append("~: measured on the same model and dataset with other guidance or settings")
    if unknown:
        first = next(job.recipe for job in plan.jobs if job.expected is None)
        lines += [
            f"time: unknown for {unknown} of {len(plan.jobs)} jobs, since no similar run is finished here. It is the number"
            " of training images divided by images/s, which this measures:",
            f"  python -m bench speed --recipe {first.id} --protocol {first.protocol}",
        ]
    return lines


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def as_text(plan: Plan, slots: int) -> str:
    """The plan for people: one line per teacher and run, then the `summary`."""

    def row(job: Job) -> tuple[str, ...]:
        time = ""
        if not job.is_finished:
            seconds = job.seconds_left
            time = "unknown" if seconds is None else ("" if job.expected.exact else "~") + duration(seconds)
        return job.state, job.target.id, f"{'teacher ' if job.is_teacher else ''}{job.target.seed}", time, job.note

    rows = [("state", "recipe", "seed", "time left", ""), *map(row, (*plan.teachers, *plan.runs))]
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

    hours, unknown = processor_hours(plan.jobs)
    left = {**{unit: round(value, 3) for unit, value in hours.items()}, "unknown": unknown}
    return {"runs": list(map(row, plan.runs)), "teachers": list(map(row, plan.teachers)), "left": left}

"""Estimates of what runs will cost, from similar finished runs: of this machine or, if it has none, published runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from bench.config.names import split_id
from bench.config.schema import Recipe, RecipeError
from bench.runs.finished import seedless_recipe
from bench.runs.record import Record


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a run.

    seconds: from start to end.
    processors, unit: how many it uses meanwhile, "GPU" or "core".
    exact: measured on the same recipe with another seed; otherwise on the same model, dataset and image size with other
        guidance or settings.
    machine: the hardware of published runs; empty if it was measured here.
    """

    seconds: float
    processors: int
    unit: str
    exact: bool
    machine: str = ""

    @property
    def mark(self) -> str:
        """What stands before the time: "?" for published runs, "~" for other guidance or settings."""
        return "?" * bool(self.machine) + "~" * (not self.exact)


class _Measured(NamedTuple):
    seconds: float  # per epoch, with its evaluation
    images: int | None  # of an epoch
    processors: int
    unit: str
    machine: str


_Times = dict[str | tuple[Any, ...], list[_Measured]]


class Estimates:
    """The measured times by recipe hash and by (model, dataset, image size). Runs that diverged are left out.

    published: records of published runs, used for a recipe if nothing similar was measured here.
    """

    def __init__(self, published: Iterable[Record] = ()) -> None:
        self._here: _Times = defaultdict(list)
        self._published: _Times = defaultdict(list)
        self._known: dict[tuple[str, int | None], Estimate | None] = {}  # since thousands of runs ask again and again
        for record in published:
            _add(self._published, record, str(record.hardware))

    def add(self, record: Record) -> None:
        """Add a run that has finished here, and the teacher that it was guided by."""
        _add(self._here, record)
        self._known.clear()

    def of(self, recipe: Recipe, images: int | None) -> Estimate | None:
        """The expected cost of a whole run of a recipe; None if nothing similar was measured.

        images: of an epoch, if they are known. A similar run's time is scaled by them.
        """
        key = recipe.hash, images
        if key not in self._known:
            self._known[key] = _estimate(self._here, recipe, images) or _estimate(self._published, recipe, images)
        return self._known[key]


def _kind(recipe: Recipe) -> tuple[str, str, int]:
    """(model, dataset, image size) of a recipe: recipes that have them in common are similar."""
    return (*split_id(recipe.id, recipe.model.role)[:2], recipe.model.image_size)


def _add(times: _Times, record: Record, machine: str = "") -> None:
    """Add a run and its teacher, unless it diverged or its recipe cannot be read here."""
    if record.diverged:
        return
    per_process, unit = record.hardware.per_process
    try:
        student = seedless_recipe(record)
    except RecipeError:
        return
    for run, recipe, processes in ((record, student, record.world_size), (record.teacher, student.teacher, 1)):
        if None in (run, recipe) or None in (run.seconds, run.epochs):  # unknown of a teacher from a file
            continue
        # a teacher may be trained on other images than the student
        limit = recipe.data.train_limit
        images = record.dataset.train_images if limit == student.data.train_limit else limit
        images = None if images is None else images // recipe.train.batch_size * recipe.train.batch_size
        measured = _Measured(run.seconds / max(1, run.epochs), images, processes * per_process, unit, machine)
        times[run.hash].append(measured)
        times[_kind(recipe)].append(measured)


def _estimate(times: _Times, recipe: Recipe, images: int | None) -> Estimate | None:
    """The median of the times of a recipe, else of similar ones; None if there are none."""
    exact = recipe.hash in times
    measured = times.get(recipe.hash if exact else _kind(recipe))
    if not measured:
        return None
    last = measured[-1]
    per_epoch = median(
        one.seconds * (images / one.images if images and one.images and not exact else 1)
        for one in measured
        if one.machine == last.machine
    )
    return Estimate(recipe.train.epochs * per_epoch, last.processors, last.unit, exact, last.machine)

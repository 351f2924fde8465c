"""What runs will cost, from the times of finished ones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from bench.config.names import split_id
from bench.config.schema import Recipe
from bench.runs.record import Record


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a run.

    seconds: from start to end.
    processors, unit: how many it uses meanwhile, "GPU" or "core".
    exact: measured on the same recipe with another seed; otherwise on the same model, dataset and image size with other
        guidance or settings.
    """

    seconds: float
    processors: int
    unit: str
    exact: bool


class _Measured(NamedTuple):
    seconds: float  # per epoch, with its evaluation
    images: int | None  # of an epoch
    processors: int
    unit: str


class Estimates:
    """The measured times by recipe hash and by (model, dataset, image size). Runs that diverged are left out."""

    def __init__(self) -> None:
        self._measured: dict[str | tuple[Any, ...], list[_Measured]] = defaultdict(list)
        self._known: dict[tuple[str, int | None], Estimate | None] = {}  # since thousands of runs ask again and again

    def add(self, record: Record) -> None:
        """Add a finished run, and the teacher that it was guided by."""
        if record.diverged:
            return
        on_cpu = record.hardware.device == "cpu"
        per_process, unit = (record.hardware.threads, "core") if on_cpu else (1, "GPU")
        student, teacher = record.recipe, record.recipe.get("teacher")
        for run, recipe, processes in ((record, student, record.world_size), (record.teacher, teacher, 1)):
            if run is None or None in (run.seconds, run.epochs):  # unknown of a teacher from a file
                continue
            limit, batch = recipe["data"]["train_limit"], recipe["train"]["batch_size"]
            # a teacher may be trained on other images than the student
            images = record.dataset.train_images if limit == student["data"]["train_limit"] else limit
            images = None if images is None else images // batch * batch
            measured = _Measured(run.seconds / max(1, run.epochs), images, processes * per_process, unit)
            self._measured[run.hash].append(measured)
            self._measured[(*split_id(run.id)[:2], recipe["model"]["image_size"])].append(measured)
        self._known.clear()

    def of(self, recipe: Recipe, images: int | None) -> Estimate | None:
        """The expected cost of a whole run of a recipe; None if nothing similar was measured.

        images: of an epoch, if they are known. A similar run's time is scaled by them.
        """
        key = recipe.hash, images
        if key not in self._known:
            exact = recipe.hash in self._measured
            similar = (*split_id(recipe.id)[:2], recipe.model.image_size)
            measured = self._measured.get(recipe.hash if exact else similar)
            estimate = None
            if measured:
                per_epoch = median(
                    one.seconds * (images / one.images if images and one.images and not exact else 1) for one in measured
                )
                estimate = Estimate(recipe.train.epochs * per_epoch, measured[-1].processors, measured[-1].unit, exact)
            self._known[key] = estimate
        return self._known[key]

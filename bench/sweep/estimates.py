"""How long runs take, from the records of similar runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from bench.config.names import split_id
from bench.config.schema import Recipe
from bench.runs.record import Record, TeacherSummary


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a run.

    seconds: from start to end.
    processors, unit: how many it uses meanwhile, "GPU" or "core".
    exact: measured on the same recipe with another seed; otherwise on the same model and dataset with other guidance or
        settings.
    """

    seconds: float
    processors: int
    unit: str
    exact: bool


class Estimates:
    """The measured seconds per epoch, by recipe hash and by (model, dataset). Runs that diverged are left out."""

    def __init__(self) -> None:
        # values: (seconds per epoch, processors, unit)
        self._finished: dict[str | tuple[str, ...], list[tuple[float, int, str]]] = defaultdict(list)
        self._running: dict[str | tuple[str, ...], tuple[float, int, str]] = {}
        self._known: dict[str, Estimate | None] = {}  # by recipe hash, since thousands of runs ask again and again

    def add(self, record: Record) -> None:
        """Add a finished run, and the teacher that it was guided by."""
        if record.diverged:
            return
        on_cpu = record.hardware.device == "cpu"
        per_process, unit = (record.hardware.threads, "core") if on_cpu else (1, "GPU")
        self._add(record, record.world_size * per_process, unit)
        if record.teacher is not None:
            self._add(record.teacher, per_process, unit)

    def _add(self, record: Record | TeacherSummary, processors: int, unit: str) -> None:
        measured = record.seconds / max(1, record.epochs), processors, unit
        for key in (record.hash, _model_and_dataset(record.id)):
            self._finished[key].append(measured)
        self._known.clear()

    def add_running(self, recipe: Recipe, epoch_seconds: float) -> None:
        """Add the speed of a run that has not ended; it is used only if there is no record."""
        for key in (recipe.hash, _model_and_dataset(recipe.id)):
            self._running[key] = epoch_seconds, 1, "core"
        self._known.clear()

    def of(self, recipe: Recipe) -> Estimate | None:
        """The expected cost of a whole run of a recipe; None if nothing similar was measured."""
        if recipe.hash not in self._known:
            self._known[recipe.hash] = self._estimate(recipe)
        return self._known[recipe.hash]

    def _estimate(self, recipe: Recipe) -> Estimate | None:
        for key in (recipe.hash, _model_and_dataset(recipe.id)):
            found = self._finished.get(key) or ([self._running[key]] if key in self._running else [])
            if found:
                seconds = recipe.train.epochs * median(epoch for epoch, _, _ in found)
                return Estimate(seconds, *found[-1][1:], exact=key == recipe.hash)
        return None


def _model_and_dataset(recipe_id: str) -> tuple[str, ...]:
    """(model, dataset) of a student's or a teacher's id."""
    return split_id(recipe_id)[:2]

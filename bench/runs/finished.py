"""A finished run with its history: from its folder, or from a line of records.jsonl. Needs no pandas."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.compose import recipe_from_dict
from bench.config.schema import Recipe, RecipeError
from bench.runs.record import (
    Record,
    RunKey,
    history_columns,
    read_history,
    read_record,
    record_from_dict,
    run_key,
    stale_parts,
)
from bench.storage import from_json

ROUNDING = 1e-4  # of accuracies in histories, in %
NULL_GPU = "null GPU"  # the device of runs in tests/gpu, which computes nothing
History = dict[str, list[float | None]]  # {column of `history_columns`: one value per epoch}


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a suite with its history."""

    suite: str
    record: Record
    history: History

    @property
    def name(self) -> str:
        """The run as errors name it."""
        return f"record {self.record.id} seed {self.record.seed}"

    @property
    def key(self) -> RunKey:
        """See `run_key`."""
        return run_key(self.record)

    @property
    def contradiction(self) -> str | None:
        """A sentence if the record was changed (id, seed or hash are not its recipe's, or accuracies not its history's), or
        is of the null GPU."""
        record, accuracies = self.record, self.history["test_accuracy"]
        if record.hardware.device == NULL_GPU:
            return f"{self.name}: it ran on the null GPU of the tests, which computes nothing, so it is no result"
        if problem := _history_problem(self.history, record.epochs):
            return f"{self.name}: its history{problem}"
        if record.recipe.get("seed") != record.seed or not 0 <= record.seed < 2**63:
            return f"{self.name}: its seed is not that of its recipe"
        if record.recipe.get("id") != record.id:
            return f"{self.name}: its id is not that of its recipe"
        try:
            recipe = seedless_recipe(record)
        except RecipeError as error:
            return f"{self.name}: its recipe cannot be read ({error})"
        if recipe.hash != record.hash:
            return f"{self.name}: its hash {record.hash[:8]} is not that of its recipe, {recipe.hash[:8]}"
        if (record.teacher and record.teacher.hash) != (recipe.teacher and recipe.teacher.hash):
            return f"{self.name}: its teacher is not that of its recipe"
        evaluated = [accuracy for accuracy in accuracies if accuracy is not None]
        if not record.diverged:
            if record.epochs != recipe.train.epochs:
                return f"{self.name}: it has {record.epochs} of the {recipe.train.epochs} epochs of its recipe"
            if (record.last_accuracy, record.best_accuracy) != (accuracies[-1], max(evaluated)):
                return f"{self.name}: its last or best accuracy is not that of its history"
            if record.raw_accuracy != self.history.get("raw_accuracy", [None])[-1]:
                return f"{self.name}: its raw accuracy is not that of its history"
            if accuracies[record.best_epoch - 1] != record.best_accuracy:
                return f"{self.name}: its best epoch is not that of its history"
        images = record.dataset.test_images
        for accuracy in evaluated:
            if abs(accuracy - 100 * round(accuracy * images / 100) / images) > ROUNDING:
                return f"{self.name}: {accuracy} % of {images} test images is not a whole number of images"
        return None

    def to_line(self) -> str:
        """The line of records.jsonl."""
        return json.dumps({**self.record.to_dict(), "history": self.history}, allow_nan=False) + "\n"


def run_from_folder(folder: Path, suite: str = "") -> FinishedRun:
    """The run in a folder. Raises RecipeError if its record or history is damaged."""
    record, rows = read_record(folder / "record.json"), read_history(folder / "history.csv")
    return FinishedRun(suite, record, {name: [row[name] for row in rows] for name in history_columns(rows[0])})


def run_from_line(line: str, suite: str, where: str) -> FinishedRun:
    """The run in a line of records.jsonl. where: the line, for errors. Raises RecipeError if it is none."""
    try:
        content = from_json(line)
    except ValueError:
        raise RecipeError(f"{where}: not JSON") from None
    record = record_from_dict(content, where)
    history = content.get("history")
    if problem := _history_problem(history, record.epochs):
        raise RecipeError(f"{where}: not a record: history{problem}")
    return FinishedRun(suite, record, {name: history[name] for name in history_columns(history)})


def is_stale(record: Record, recipe: Recipe | None = None) -> bool:
    """Whether a record was made by code that computes something else than this code, as far as its recipe can be read.

    recipe: as the registry composes it, with the user's own files; None: that of the record.
    """
    try:
        return bool(stale_parts(record, recipe or seedless_recipe(record)))
    except RecipeError:
        return False


def seedless_recipe(record: Record) -> Recipe:
    """The recipe of a record, but with seed 0: the seed is not hashed, so all seeds share one recipe in the cache."""
    return _read_recipe(json.dumps({**record.recipe, "seed": 0}))


@functools.lru_cache(maxsize=4096)
def _read_recipe(recipe: str) -> Recipe:
    """A recipe in JSON. Raises RecipeError."""
    return recipe_from_dict(json.loads(recipe), "recipe")


def _history_problem(history: Any, epochs: int) -> str | None:
    """What is wrong with a history from JSON, as the end of a sentence."""
    if not isinstance(history, dict):
        return " is missing"
    for name in history_columns(history):
        values = history.get(name)
        if not isinstance(values, list) or len(values) != epochs:
            return f".{name} is not a list of {epochs} values"
        if not set(map(type, values)) <= {int, float, type(None)} or max(map(abs, filter(None, values)), default=0) > 1e300:
            return f".{name} has a value that is not a number"
    if history["epoch"] != list(range(1, epochs + 1)):
        return f".epoch does not count from 1 to {epochs}"
    accuracies = history["test_accuracy"]
    if accuracies[-1] is None or not all(value is None or 0 <= value <= 100 for value in accuracies):
        return ".test_accuracy is not a list of numbers from 0 to 100, or none, that ends with a number"
    return None

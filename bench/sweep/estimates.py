"""How long recipes take, from the records of like ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.config.names import split_id
from bench.config.schema import Recipe


@dataclass(frozen=True)
class Estimate:
    """What is expected of a run.

    seconds: from start to end.
    processors, unit: how many it occupies meanwhile, "GPU" or "core".
    exact: measured on the same recipe under another seed; else on the same model and dataset under other guidance or
        settings.
    """

    seconds: float
    processors: int
    unit: str
    exact: bool


class Estimates:
    """The measured seconds of an epoch, by recipe hash and by model and dataset. Runs that diverged measured nothing."""

    def __init__(self) -> None:
        self._by_hash: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
        self._by_pair: dict[tuple[str, ...], list[tuple[float, int, str]]] = defaultdict(list)
        self._under_way: dict[str | tuple[str, ...], tuple[float, int, str]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a run's record, and what it says of the teacher that it had."""
        if record.get("diverged"):
            return
        hardware = record["hardware"]
        unit = "core" if hardware["device"] == "cpu" else "GPU"
        processors = record["world_size"] * (hardware["threads"] if unit == "core" else 1)
        self._add(record, processors, unit)
        if (teacher := record.get("teacher")) is not None and "hash" in teacher:
            self._add(teacher, hardware["threads"] if unit == "core" else 1, unit)

    def _add(self, record: Mapping[str, Any], processors: int, unit: str) -> None:
        measured = record["seconds"] / max(1, record["epochs"]), processors, unit
        self._by_hash[record["hash"]].append(measured)
        self._by_pair[_pair(record["id"])].append(measured)

    def see(self, recipe: Recipe, epoch_seconds: float) -> None:
        """Take in how a run does that has not ended yet; records count more."""
        self._under_way[recipe.hash] = self._under_way[_pair(recipe.id)] = epoch_seconds, 1, "core"

    def of(self, recipe: Recipe) -> Estimate | None:
        """What is expected of a whole run of a recipe; None where nothing like it has been measured."""
        for key, by in ((recipe.hash, self._by_hash), (_pair(recipe.id), self._by_pair)):
            found = by.get(key) or ([self._under_way[key]] if key in self._under_way else [])
            if found:
                seconds = recipe.train.epochs * median(epoch for epoch, _, _ in found)
                return Estimate(seconds, *found[-1][1:], exact=key == recipe.hash)
        return None


def _pair(recipe_id: str) -> tuple[str, ...]:
    """(model, dataset) of a student's id, which is longer by its guidance, or of a teacher's."""
    return split_id(recipe_id)[:2]

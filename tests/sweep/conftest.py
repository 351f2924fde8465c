"""The suite quick, with results and a cache of the test's own, and invented records of its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.config.registry import Registry
from bench.config.schema import Recipe
from bench.data.store import current_fingerprint
from bench.locks import cache_folder
from bench.runs.folder import RunFolder
from bench.runs.record import Hardware, Record
from bench.storage import write_json
from bench.sweep.plan import Plan, PlannedRun, make_plan
from tests.helpers.synthetic import make_run


@dataclass
class Quick:
    """baseline, guided: the recipes of the suite."""

    baseline: Recipe
    guided: Recipe
    results: Path

    def folder(self, recipe: Recipe) -> RunFolder:
        return RunFolder(self.results, recipe)

    def plan(self, seeds: Sequence[int] = (0,), recipes: Sequence[Recipe] | None = None) -> Plan:
        recipes = [self.baseline, self.guided] if recipes is None else recipes
        return make_plan([PlannedRun(one.with_seed(seed)) for seed in seeds for one in recipes], self.results)

    def invent(self, recipe: Recipe, *, diverged: bool = False, **changes: object) -> Record:
        """The record of a run of one thread that ends at 89.44 %; changes: fields that shall differ."""
        changes = {"hardware": Hardware("cpu", "Synthetic CPU", 1), "teacher": None, **changes}
        record = make_run("quick", recipe, [89.44] * recipe.train.epochs, diverged=diverged, **changes).record
        dataset = dataclasses.replace(record.dataset, fingerprint=current_fingerprint(recipe.data, "data"))
        return dataclasses.replace(record, dataset=dataset)

    def finish(self, recipe: Recipe, **changes: object) -> None:
        """Let a run be finished, or a teacher be in the cache."""
        record = self.invent(recipe, **changes)
        if recipe.model.role == "student":
            self.folder(recipe).write_record(record)
            return
        folder = cache_folder() / "teachers" / f"{recipe.model.name}-{recipe.data.name}-0123456789abcdef"
        write_json(folder / "record.json", record.to_dict())
        (folder / "model.safetensors").touch()


@pytest.fixture
def quick(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    registry = Registry()
    suite = registry.suite("quick")
    return Quick(*(registry.compose(one, suite=suite) for one in suite.ids), tmp_path / "results")

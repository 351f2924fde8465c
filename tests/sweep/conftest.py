"""The suite quick, with results and a cache of the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.config.registry import Registry
from bench.config.schema import Recipe
from bench.runs.folder import RunFolder
from bench.sweep.plan import Plan, make_plan
from tests.sweep.invented import record_of


@dataclass
class Quick:
    """baseline, guided: the recipes of the suite."""

    baseline: Recipe
    guided: Recipe
    results: Path

    def folder(self, recipe: Recipe) -> RunFolder:
        return RunFolder(self.results, recipe)

    def record(self, recipe: Recipe, **changes: object) -> None:
        """Let a run be finished."""
        self.folder(recipe).write_record(record_of(recipe, **changes))

    def plan(self, seeds: Sequence[int] = (0,), recipes: Sequence[Recipe] | None = None) -> Plan:
        return make_plan([self.baseline, self.guided] if recipes is None else recipes, seeds, self.results)


@pytest.fixture
def quick(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    registry = Registry()
    suite = registry.suite("quick")
    return Quick(*(registry.compose(one, suite=suite) for one in suite.ids), tmp_path / "results")

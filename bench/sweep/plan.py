"""What a suite still has to do: its cells, and the guides that the missing ones need."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.reading import shown
from bench.recipes import Registry, Suite
from bench.records import RunFolder
from bench.schema import Recipe, RecipeError


@dataclass(frozen=True)
class Job:
    """One process to start: a cell of the suite, or the training of a guide that cells wait for.

    needs: the `key` of the guide's job, or None.
    """

    key: str
    recipe: Recipe  # of the cell; for a guide, of one cell that it guides
    is_guide: bool
    needs: str | None
    folder: RunFolder

    @property
    def name(self) -> str:
        """As it is printed."""
        recipe = self.recipe.guide if self.is_guide else self.recipe
        return f"{recipe.id} seed {recipe.seed}"

    def command(self, python: str, script: Path, suite: str, options: Sequence[str] = ()) -> list[str]:
        """The command that does this job; `options` go to every job alike (folders, recipes of one's own)."""
        own = ["--recipe", self.recipe.id, "--suite", suite, "--seed", str(self.recipe.seed)]
        return [python, str(script), *own, *options, *(["--guide-only"] if self.is_guide else [])]


@dataclass(frozen=True)
class Plan:
    """The cells that are recorded and the jobs that are left, guides first."""

    recorded: list[Job]
    jobs: list[Job]


def plan(
    registry: Registry,
    suite: Suite,
    results: str | Path,
    seeds: int | None = None,
    filters: Sequence[str] = (),
    data_dir: str | Path = "data",
) -> Plan:
    """What is to do for a suite.

    Args:
        results: the folder that holds runs/; only what is recorded there counts as done.
        seeds: 0 to seeds - 1 instead of the suite's own.
        data_dir: where the datasets are that records are compared with.
        filters: texts or globs; a cell is kept when its id holds one of them. None keeps all.
    """
    if seeds is not None and seeds < 1:
        raise RecipeError(f"--seeds {seeds}: must be 1 or more")
    recorded, guides, cells = [], {}, []
    for seed in range(seeds) if seeds is not None else suite.seeds:
        for recipe_id in suite.ids:
            if filters and not any(fnmatch.fnmatchcase(recipe_id, f"*{text}*") for text in filters):
                continue
            recipe = registry.compose(recipe_id, suite=suite, seed=seed)
            guide, needs = recipe.guide, None
            if guide is not None:
                needs = f"{guide.id} {guide.hash} {guide.seed}"
            folder = RunFolder(results, recipe)
            cell = Job(f"{recipe.id} {recipe.hash} {seed}", recipe, False, needs, folder)
            if (record := folder.record(recipe)) is not None:
                from bench.data.store import check_same_images

                check_same_images(recipe, record, data_dir)
                recorded.append(cell)
                continue
            cells.append(cell)
            if needs and needs not in guides:
                guides[needs] = Job(needs, recipe, True, None, RunFolder(results, guide))
    if not recorded and not cells:
        asked = ", ".join(map(shown, filters))
        raise RecipeError(f"--filter {asked}: no cell of suite {suite.name} matches; they are {', '.join(suite.ids)}")
    return Plan(recorded, [*guides.values(), *cells])

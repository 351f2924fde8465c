"""Published numbers, and which of them a recipe's runs may be compared with.

`published.csv` beside this file has one number per row: the work, the method, what it was measured on, and where it was
read (`source`). `provenance` is `first-hand` (the authors' own), `second-hand` (quoted by others) or `independent rerun`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from bench.config.names import split_id
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError

# Names in the literature of the methods `baseline` and `guided`. A method name with another teacher is another method.
_METHODS = {"baseline": ("baseline", "baseline (tiny-transformers aug)"), "guided": ("LG",)}
MARKS = {"first-hand": "", "independent rerun": "‡", "second-hand": "†"}  # by provenance, the preferred first


@dataclass(frozen=True)
class Published:
    """One published number: top1 is the accuracy of the best test epoch, in %; gain is over the work's own baseline."""

    work: str
    method: str
    model: str
    dataset: str
    resolution: str  # px
    epochs: str
    top1: float
    gain: float | None
    provenance: str
    source: str

    @property
    def mark(self) -> str:
        """The mark in tables of a number that is not its authors' own."""
        return MARKS[self.provenance]


@functools.cache
def numbers() -> tuple[Published, ...]:
    """All rows of published.csv."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [f.name for f in fields(Published)]
    return tuple(
        Published(
            **{name: row[name] for name in names}
            | {"top1": float(row["top1"]), "gain": float(row["gain"]) if row["gain"] else None}
        )
        for row in rows
    )


def numbers_of_cell(model: str, dataset: str) -> list[Published]:
    """All published numbers of a student on a dataset, of any method."""
    return [row for row in numbers() if (row.model, row.dataset) == (model, dataset)]


def comparable_numbers(registry: Registry, recipes: Mapping[str, Recipe]) -> dict[str, list[Published]]:
    """The published numbers that each recipe reproduces, by id, the authors' own first.

    A recipe has none unless its hash is that of the same id under the protocol `paper`: any difference in what is hashed
    (teacher, resolution, epochs, pixels …) makes it another experiment.
    """
    return {recipe_id: _comparable(registry, recipe) for recipe_id, recipe in recipes.items()}


def _comparable(registry: Registry, recipe: Recipe) -> list[Published]:
    try:
        published_recipe = registry.compose(recipe.id, "paper")
    except RecipeError:  # not possible under the published protocol
        return []
    if recipe.hash != published_recipe.hash:
        return []
    model, dataset, method = split_id(recipe.id)
    size, epochs = str(recipe.model.image_size), str(recipe.train.epochs)
    found = [
        row
        for row in numbers_of_cell(model, dataset)
        if row.method in _METHODS.get(method, ()) and (row.resolution, row.epochs) == (size, epochs)
    ]
    return sorted(found, key=lambda row: (list(MARKS).index(row.provenance), not row.work.startswith("LG ")))

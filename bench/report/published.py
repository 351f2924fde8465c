"""Published numbers, and which of them a record may be held against.

`published.csv` beside this file: one number a row with the work, the method, what it was measured on, and where it was read
(`source`). `provenance` is `first-hand` (the authors' own), `second-hand` (quoted by others) or `independent rerun`.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass, fields
from pathlib import Path

from bench.config.schema import Recipe

# How works name what `baseline` and `guided` are here. A method that names another teacher is another method.
_METHODS = {"baseline": ("baseline", "baseline (tiny-transformers aug)"), "guided": ("LG",)}
_ORDER = ("first-hand", "independent rerun", "second-hand")
MARKS = {"first-hand": "", "independent rerun": "‡", "second-hand": "†"}


@dataclass(frozen=True)
class Published:
    """One number: the best test epoch's accuracy, in %."""

    work: str
    method: str
    model: str
    dataset: str
    resolution: str  # px
    epochs: str
    top1: float
    provenance: str
    source: str

    @property
    def mark(self) -> str:
        """What tables put behind a number that is not its authors' own."""
        return MARKS[self.provenance]


@functools.cache
def numbers() -> tuple[Published, ...]:
    """Every row of published.csv."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [f.name for f in fields(Published)]
    return tuple(Published(**{name: row[name] for name in names} | {"top1": float(row["top1"])}) for row in rows)


def of_cell(model: str, dataset: str) -> list[Published]:
    """All there is for a student on a dataset, of any method."""
    return [row for row in numbers() if (row.model, row.dataset) == (model, dataset)]


def comparable(recipe: Recipe, published_recipe: Recipe | None) -> list[Published]:
    """The numbers that a recipe reproduces, the authors' own first; none unless it is the published recipe unchanged.

    Args:
        published_recipe: of the same id under the protocol `paper`. Any difference in what is hashed (teacher, resolution,
            epochs, pixels …) makes a comparison one of different experiments.
    """
    if published_recipe is None or recipe.hash != published_recipe.hash:
        return []
    model, dataset, guidance = recipe.id.partition("/")[0], recipe.data.name, recipe.id.rpartition("/")[2]
    size, epochs = str(recipe.model.image_size), str(recipe.train.epochs)
    found = [
        row
        for row in of_cell(model, dataset)
        if row.method in _METHODS.get(guidance, ()) and (row.resolution, row.epochs) == (size, epochs)
    ]
    return sorted(found, key=lambda row: (_ORDER.index(row.provenance), not row.work.startswith("LG ")))

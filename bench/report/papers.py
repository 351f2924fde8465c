"""Numbers that papers have published, and which of them a recipe's runs may be compared with.

`papers.csv` beside this file has one number per row: the work, the method, what it was measured on, and where it was
read (`source`). `top1` is the accuracy of the best test epoch in %, `gain` is over the work's own baseline, in points.
`provenance` is `first-hand` (the authors' own), `second-hand` (quoted by others) or `independent rerun`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from bench.config.names import split_id
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError

# Names in the literature of the methods `baseline` and `guided`. A paper's method with another teacher is not one of them.
_METHODS = {"baseline": ("baseline", "baseline (tiny-transformers aug)"), "guided": ("LG",)}
_COMPARED = ["model", "dataset", "method", "resolution", "epochs"]  # equal in a number and a recipe that reproduces it
MARKS = {"first-hand": "", "independent rerun": "‡", "second-hand": "†"}  # by provenance, the preferred first


@functools.cache
def numbers() -> pd.DataFrame:
    """All rows of papers.csv, the authors' own first, and among equals those of arXiv 2207.10026."""
    rows = pd.read_csv(Path(__file__).with_name("papers.csv"), dtype={"resolution": "str", "epochs": "str"})
    by_provenance = rows["provenance"].map(list(MARKS).index)
    order = by_provenance * 2 + ~rows["work"].str.startswith("LG ")
    return rows.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def published_frame(registry: Registry, recipes: Iterable[Recipe]) -> pd.DataFrame:
    """The published numbers of the students and datasets of these recipes, of any method, in the order of `numbers`.

    Recipes that use only a part of the classes add no numbers.

    comparable_to, hash: of the recipe that reproduces the number, or missing. A recipe reproduces none unless its hash is
    that of the same id under the protocol `paper`: any difference in what is hashed (teacher, resolution, epochs, pixels …)
    makes it another experiment.
    """
    comparable, cells = [], set()
    for recipe in recipes:
        model, dataset, method = split_id(recipe.id)
        if recipe.data.subset is None:  # else no published number is of these classes
            cells.add((model, dataset))
        if method in _METHODS and _is_published(registry, recipe):
            size, epochs = str(recipe.model.image_size), str(recipe.train.epochs)
            comparable += [(model, dataset, name, size, epochs, recipe.id, recipe.hash) for name in _METHODS[method]]
    columns = pd.DataFrame(comparable, columns=[*_COMPARED, "comparable_to", "hash"], dtype="str").drop_duplicates()
    found = [cell in cells for cell in zip(numbers()["model"], numbers()["dataset"], strict=True)]
    return numbers()[found].merge(columns, on=_COMPARED, how="left")


def _is_published(registry: Registry, recipe: Recipe) -> bool:
    try:
        return recipe.hash == registry.compose(recipe.id, "paper").hash
    except RecipeError:  # not possible under the published protocol
        return False

"""The definition of a suite beside its records: `results/<suite>/suite.yaml` has the content of the suite's file.

With it, results can be drawn where the suite, or a model or method in it, is in nobody's recipes any more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from bench.config.compose import recipe_from_dict
from bench.config.names import NAME
from bench.config.parse import read_file
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import GUIDED_ONLY, RESERVED, Suite, SuiteEntry, read_suite
from bench.runs.finished import FinishedRun
from bench.storage import write_text

FILE = "suite.yaml"
_HEAD = "# The definition of the suite of these results, the content of its file in recipes/suites.\n"


def stored_suites(folder: str | Path) -> list[str]:
    """The suites that have records below `results/` or `results/local/`, sorted."""
    if not os.path.isdir(folder):  # also answers for names that no folder can have
        return []
    names = (path.parent.name for path in Path(folder).glob("*/records.jsonl"))
    return sorted(name for name in names if re.fullmatch(NAME, name) and name not in RESERVED)


def is_known(registry: Registry, name: str) -> bool:
    """Whether a suite has a file in the recipes."""
    return name in registry.names("suites")


def find_suite(registry: Registry, name: str, *folders: Path) -> Suite:
    """A suite: the registry's, else that of the first of these folders of results that has its definition.

    Raises:
        RecipeError: nobody has it, or it is damaged.
    """
    if not is_known(registry, name) and re.fullmatch(NAME, name):  # another name is no folder of results
        for folder in folders:
            if (suite := stored_suite(folder, name)) is not None:
                return suite
    return registry.suite(name)


def stored_suite(folder: Path, name: str) -> Suite | None:
    """The suite that the suite.yaml in a folder defines; None if there is none. Raises RecipeError if it is damaged."""
    path = folder / FILE
    return read_suite(name, read_file(path, str(path)), str(path)) if os.path.exists(path) else None


def write_definition(suite: Suite, folder: Path) -> None:
    """Write suite.yaml, unless the folder has this definition."""
    stored = stored_suite(folder, suite.name)
    if stored is None or stored.content != suite.content:
        write_text(folder / FILE, _HEAD + yaml.safe_dump(dict(suite.content), sort_keys=False, allow_unicode=True))


def suite_recipes(registry: Registry, suite: Suite, runs: Iterable[FinishedRun] = ()) -> list[tuple[SuiteEntry, Recipe]]:
    """The entries of a suite with their recipes, seed 0.

    Where the registry does not have the suite, or a part of it, the recipes are those of its runs. Of an unknown suite, an
    entry is left out if it has no run and the registry does not have all its parts.

    Raises:
        RecipeError: a recipe of a known suite cannot be composed, and has no run.
    """
    try:
        if suite.file is None or is_known(registry, suite.file):
            return registry.suite_recipes(suite)
    except RecipeError:
        if not (runs := list(runs)):
            raise
    runs = list(runs)
    return [(entry, recipe) for entry in suite.entries if (recipe := _recipe(registry, suite, entry, runs)) is not None]


def recipes_by_key(registry: Registry, suite: Suite, runs: Iterable[FinishedRun] = ()) -> dict[tuple[str, str], Recipe]:
    """{(id, hash): recipe} of `suite_recipes`, in the same order. Entries with the same recipe appear once."""
    return {(recipe.id, recipe.hash): recipe for _, recipe in suite_recipes(registry, suite, runs)}


def _recipe(registry: Registry, suite: Suite, entry: SuiteEntry, runs: Sequence[FinishedRun]) -> Recipe | None:
    """The recipe of an entry; None if neither the registry nor a record has it.

    It is the registry's if a run has its hash, else that of the first run that fits the entry, else the registry's. If the
    registry can compose the entry, only runs that carry the name of the suite are tried.
    """
    composed = None
    with suppress(RecipeError):
        composed = registry.suite_recipe(suite, entry)
    if composed is not None and any(run.key[:2] == (entry.id, composed.hash) for run in runs):
        return composed
    rows = [one for one in suite.entries if (one.id, one.variant) == (entry.id, entry.variant) and one.overrides]
    for run in runs:
        if composed is not None and run.suite != suite.name:
            continue
        record = run.record
        # a run that also fits a row with more settings belongs to that row
        of_others = any(len(one.overrides) > len(entry.overrides) and _is_of(record.recipe, one) for one in rows)
        is_of = (record.id, record.protocol) == (entry.id, suite.protocol) and _is_of(record.recipe, entry)
        if is_of and not of_others:
            with suppress(RecipeError):  # `mismatches` says that it cannot be read
                return recipe_from_dict(record.recipe, f"record {record.id}").with_seed(0)
    return composed


def _is_of(recipe: Mapping[str, Any], entry: SuiteEntry) -> bool:
    """Whether the recipe of a record has the varied values of an entry; a run without a teacher has no keys of one."""
    for path, given in entry.overrides:
        if path.startswith(GUIDED_ONLY) and path.partition(".")[0] not in recipe:
            continue
        value: object = recipe
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value != given.value:
            return False
    return True

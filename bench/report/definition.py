"""The definition of a suite beside its records: `results/<suite>/suite.yaml` has the content of the suite's file.

With it, results can be drawn where the suite, or a model or method in it, is in nobody's recipes any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import yaml

from bench.config.compose import recipe_from_dict
from bench.config.names import NAME
from bench.config.parse import read_file
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite, read_suite
from bench.runs.folder import LOCAL
from bench.runs.record import Record
from bench.storage import write_text

FILE = "suite.yaml"
RESERVED = (LOCAL, "runs", "slurm")  # folders of results/ and results/local/ that are not a suite's
_HEAD = "# The definition of the suite of these results, the content of its file in recipes/suites.\n"

Content = Mapping[str, Any]  # of a suite's file


class HasRecord(Protocol):
    """A run with its record."""

    record: Record


def stored_suites(folder: str | Path) -> list[str]:
    """The suites that have records below `results/` or `results/local/`, sorted."""
    names = (path.parent.name for path in Path(folder).glob("*/records.jsonl"))
    return sorted(name for name in names if re.fullmatch(NAME, name) and name not in RESERVED)


def is_known(registry: Registry, name: str) -> bool:
    """Whether a suite has a file in the recipes."""
    return name in registry.names("suites")


def find_suite(registry: Registry, name: str, *folders: Path) -> tuple[Suite, Content]:
    """A suite and its definition: the registry's, else that in the first of these folders that has a suite.yaml.

    Raises:
        RecipeError: nobody has it, it is damaged, or its name is reserved.
    """
    if name in RESERVED:
        raise RecipeError(f"suite {name}: the name is that of a folder of results/local: give the suite another name")
    if not is_known(registry, name):
        for folder in folders:
            if (content := stored_definition(folder)) is not None:
                return read_suite(name, content, str(folder / FILE)), content
    return registry.suite(name), registry.suite_content(name)


def stored_suite(registry: Registry, folder: Path) -> Suite:
    """The suite of a folder of results by its suite.yaml, or by its name if it has none. Raises RecipeError."""
    content = stored_definition(folder)
    return registry.suite(folder.name) if content is None else read_suite(folder.name, content, str(folder / FILE))


def stored_definition(folder: Path) -> Content | None:
    """The content of the suite.yaml in a folder; None if there is none. Raises RecipeError if it is damaged."""
    path = folder / FILE
    return read_file(path, str(path)) if path.exists() else None


def write_definition(content: Content, folder: Path) -> None:
    """Write suite.yaml, unless the folder has this definition."""
    if stored_definition(folder) != content:
        write_text(folder / FILE, _HEAD + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def suite_recipes(registry: Registry, suite: Suite, runs: Iterable[HasRecord] = ()) -> dict[str, Recipe]:
    """{id: recipe} of a suite, seed 0, in its order.

    Where the registry does not have the suite, or a part of it, the recipes are those of its runs. Of an unknown suite, an
    id is left out if it has no run and the registry does not have all its parts.

    Raises:
        RecipeError: a recipe of a known suite cannot be composed, and has no run.
    """
    known, out = is_known(registry, suite.name), {}
    records = {run.record.id: run.record for run in reversed(list(runs))}
    for recipe_id in suite.ids:
        record = records.get(recipe_id)
        try:
            if known or record is None:
                out[recipe_id] = registry.compose(recipe_id, suite=suite)
        except RecipeError:
            if known and record is None:
                raise
        if recipe_id not in out and record is not None:
            with suppress(RecipeError):  # `mismatches` says that it cannot be read
                out[recipe_id] = recipe_from_dict(record.recipe, f"record {recipe_id}").with_seed(0)
    return out

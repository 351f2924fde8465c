"""The command that repeats a recipe: what has to be said beyond its id and protocol."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError


def command(recipe: Recipe, world_size: int = 1, gpu: bool = False) -> str | None:
    """The command line that runs a recipe from the repository's root with the recipes of this suite, one line, quoted for
    a shell. None where they do not give it: its model, dataset, guidance or protocol is somebody's own file."""
    assignments = settings(recipe)
    if assignments is None:
        return None
    launcher = ["python"]
    if world_size > 1:
        several = ["accelerate", "launch", "--num_processes"] if gpu else ["torchrun", "--nproc_per_node"]
        launcher = [*several, str(world_size)]
    words = [*launcher, "bench/run.py", "--recipe", recipe.id, "--protocol", recipe.protocol, "--seed", str(recipe.seed)]
    words += [word for text in assignments for word in ("--set", text)]
    return shlex.join(words)


def settings(recipe: Recipe) -> list[str] | None:
    """The `key=value` texts for `--set` that make its id and protocol this very recipe, or None."""
    registry, said = Registry(), []

    def composed() -> Recipe:
        return registry.compose(recipe.id, recipe.protocol, said, seed=recipe.seed)

    try:
        if recipe.teacher is not None and composed().teacher.model.name != recipe.teacher.model.name:
            said.append(f"teacher.model.name={_written(recipe.teacher.model.name)}")
        said += _differences(recipe, composed())
        if recipe.teacher is not None:
            said += [f"teacher.{text}" for text in _differences(recipe.teacher, composed().teacher, seed=True)]
        return said if composed() == recipe else None
    except (RecipeError, AttributeError):  # the second: it is guided here and not there
        return None


def _differences(wanted: Recipe, there: Recipe, seed: bool = False) -> list[str]:
    there_flat = _flat(there.to_dict())
    skipped = {"id", "protocol", "hash", *(() if seed else ("seed",))}
    return [
        f"{key}={_written(value)}"
        for key, value in _flat(wanted.to_dict()).items()
        if key not in skipped and not (key in there_flat and there_flat[key] == value)
    ]


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.epochs": 3}, the teacher's left out."""
    out = {}
    for name, value in content.items():
        if name != "teacher":
            out |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return out


def _written(value: Any) -> str:
    """A value as --set reads it: plain where YAML takes it for the text that it is, else as JSON."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value, re.ASCII) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value)

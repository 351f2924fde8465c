"""The command that repeats a recipe: the settings that it needs beyond its id and protocol."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from bench.config.registry import Registry
from bench.config.schema import TEACHER_DATA_KEYS, Recipe, RecipeError

# keys that decide which other keys there are, or their defaults
_STRUCTURE = ("teacher.model.name", "guidance.method")
# keys of `Recipe.to_dict` that follow from others, beside a teacher's data keys, which are its student's
_NOT_SETTABLE = ("id", "protocol", "hash", "model.role", "data.name")


def command(recipe: Recipe, world_size: int = 1, gpu: bool = False) -> str | None:
    """The command line that runs a recipe in the repository's root, quoted for a shell.

    None if the suite's own recipe files do not give it: the model, dataset, guidance or protocol is in a user's file.
    """
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
    """The `key=value` texts for `--set` that turn a recipe's id and protocol into it; None if there are none."""
    registry, wanted = Registry(), _settable(recipe)

    def composed(chosen: Mapping[str, Any]) -> Recipe | None:
        try:
            return registry.compose(recipe.id, recipe.protocol, _texts(chosen), seed=recipe.seed)
        except RecipeError:
            return None

    chosen: dict[str, Any] = {}
    of_teacher = [key for key in wanted if key.startswith("teacher.")]
    # a teacher takes some keys from its student unless they are set, so its own come last
    for keys in (_STRUCTURE, [key for key in wanted if key not in of_teacher], of_teacher):
        if (partial := composed(chosen)) is None:
            break
        present = _settable(partial)
        chosen |= {k: wanted[k] for k in keys if k in wanted and (k not in present or present[k] != wanted[k])}
    if composed(chosen) == recipe:
        return _texts(chosen)
    # The recipes in between need not be valid. All keys together are; then drop those that change nothing.
    if composed(wanted) != recipe:
        return None
    for key in list(wanted):
        fewer = {other: value for other, value in wanted.items() if other != key}
        if composed(fewer) == recipe:
            wanted = fewer
    return _texts(wanted)


def _settable(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe that `--set` may have, as {"teacher.train.epochs": 2}."""
    out = {}
    for key, value in flat(recipe.to_dict()):
        inner = key.removeprefix("teacher.")
        of_teacher = inner != key
        shared = of_teacher and inner.startswith("data.") and inner[5:] not in (*TEACHER_DATA_KEYS, "train_limit")
        if inner not in _NOT_SETTABLE and not shared and (of_teacher or inner not in ("seed", "model.name")):
            out[key] = value
    return out


def flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The keys of nested content with their values, as [("train.epochs", 2)]."""
    out = []
    for name, value in content.items():
        out += flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return out


def _texts(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    """A value as `--set` reads it: a word if YAML reads it as that text, else in quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[A-Za-z][\w./+-]*", value, re.ASCII) and yaml.safe_load(value) == value:
        return value
    return yaml.safe_dump(value, default_style='"', width=float("inf")).rstrip("\n")

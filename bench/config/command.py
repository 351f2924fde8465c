"""The command that repeats a recipe: the settings that it needs beyond its id and protocol."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields

from bench.config.parse import flatten, set_text
from bench.config.registry import Registry
from bench.config.schema import TEACHER_DATA_KEYS, Data, Recipe, RecipeError

# keys of `Recipe.to_dict` that follow from others; a teacher's images are those of its student, but for their number
_NOT_SETTABLE = {
    *("id", "protocol", "hash", "seed", "model.name", "model.role", "data.name"),
    *("teacher.id", "teacher.protocol", "teacher.hash", "teacher.model.role"),
    *(f"teacher.data.{f.name}" for f in fields(Data) if f.name not in (*TEACHER_DATA_KEYS, "train_limit")),
}


def command(recipe: Recipe, world_size: int = 1, gpu: bool = False) -> str | None:
    """The command line that runs a recipe in the repository's root, quoted for a shell.

    None if the suite's own recipe files do not give it: the model, dataset, guidance or protocol is in a user's file.
    """
    assignments = settings(recipe)
    if assignments is None:
        return None
    several = f"accelerate launch --num_processes {world_size}" if gpu else f"torchrun --nproc_per_node {world_size}"
    words = ["bench/run.py", "--recipe", recipe.id, "--protocol", recipe.protocol, "--seed", str(recipe.seed)]
    words += [word for text in assignments for word in ("--set", text)]
    return f"{several if world_size > 1 else 'python'} {shlex.join(words)}"


def settings(recipe: Recipe) -> list[str] | None:
    """The `key=value` texts for `--set` that give this recipe from its id and protocol; None if no texts give it."""
    registry = Registry()

    def composed(texts: Mapping[str, str]) -> Recipe | None:
        try:
            return registry.compose(recipe.id, recipe.protocol, list(texts.values()), seed=recipe.seed)
        except RecipeError:
            return None

    every, plain = _texts(recipe), composed({})
    defaults = _texts(plain) if plain is not None else {}
    needed = {key: text for key, text in every.items() if defaults.get(key) != text}
    if composed(needed) != recipe:  # a teacher takes some keys from its student unless they are set
        needed = every
    if composed(needed) != recipe:
        return None
    for key in list(needed):  # some differ only because of others
        fewer = {other: text for other, text in needed.items() if other != key}
        if composed(fewer) == recipe:
            needed = fewer
    return list(needed.values())


def _texts(recipe: Recipe) -> dict[str, str]:
    """The keys of a recipe that `--set` may have, as {"train.lr": "train.lr=0.1"}."""
    content = recipe.to_dict()
    keys = flatten(content, recipe.id, tuple(content))
    texts = {key: f"{key}={set_text(given.value)}" for key, given in keys.items() if key not in _NOT_SETTABLE}
    if recipe.teacher is not None and recipe.teacher.sha256 is not None:
        del texts["teacher.seed"]
        texts["teacher.weights"] = "teacher.weights=FILE"  # no recipe knows where it is on a machine
    return texts

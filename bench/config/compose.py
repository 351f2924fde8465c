"""Builds a checked recipe from merged keys."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from bench.config.checks import check_recipe
from bench.config.methods import method_names, params_class
from bench.config.names import split_id
from bench.config.parse import RENAMED_METHODS, SourcedValue, check_known, fail_at, flatten, nearest, read_value
from bench.config.schema import (
    SECTIONS,
    SHARED_WITH_TEACHER,
    TEACHER_PASS_KEYS,
    Guidance,
    MethodParams,
    Recipe,
    RecipeError,
    Schedule,
    TeacherPass,
)

Keys = Mapping[str, SourcedValue]


def split_teacher(*layers: Keys) -> tuple[dict[str, SourcedValue], dict[str, SourcedValue]]:
    """Merge layers; later ones win. Returns the recipe's own keys, and those under `teacher.` without that prefix."""
    merged = {path: given for layer in layers for path, given in layer.items()}
    own = {path: given for path, given in merged.items() if not path.startswith("teacher.")}
    return own, {p.removeprefix("teacher."): given for p, given in merged.items() if p.startswith("teacher.")}


def build_teacher(
    recipe_id: str, protocol: str, layers: Keys, teacher_keys: Keys, shared: Keys, *, seed: int | None = None
) -> Recipe:
    """The recipe of a teacher.

    Args:
        layers: the keys of its model, and data and transform of its students.
        teacher_keys: the keys under `teacher.`, which win.
        shared: keys of the student, of which some hold for the teacher too.
        seed: of a teacher that is trained on its own; None: `teacher.seed`.
    """
    shared = {path: shared[path] for path in SHARED_WITH_TEACHER if path in shared}
    own = {path: given for path, given in teacher_keys.items() if path not in TEACHER_PASS_KEYS}
    keys = {**layers, **shared, **own}
    if seed is not None:
        return build_recipe(recipe_id, protocol, keys, seed)
    seed = read_value(Recipe, "seed", keys["seed"], "teacher.seed") if "seed" in keys else 0
    return build_recipe(recipe_id, protocol, keys, seed, written_as=lambda path: "teacher." * (path in own) + path)


def build_recipe(
    recipe_id: str,
    protocol: str,
    keys: Keys,
    seed: int,
    *,
    teacher: Recipe | None = None,
    teacher_keys: Keys | None = None,
    written_as: Callable[[str], str] = lambda path: path,
) -> Recipe:
    """A checked recipe from merged keys.

    Args:
        keys: of the recipe itself.
        teacher: of students that a teacher guides.
        teacher_keys: the keys under `teacher.`, without that prefix.
        written_as: a key as the user wrote it, for errors.
    """
    everything = {**keys, **{f"teacher.{path}": given for path, given in (teacher_keys or {}).items()}}
    sections = {name: read_section(cls, f"{name}.", everything, written_as) for name, cls in SECTIONS.items()}
    role = "teacher" if sections["model"].role == "teacher" else "student"
    model, dataset = split_id(recipe_id, role)[:2]
    sections["model"] = dataclasses.replace(sections["model"], name=model)
    sections["data"] = dataclasses.replace(sections["data"], name=dataset)
    if "guidance.method" in keys:
        methods = str(everything["guidance.method"].value).split("+")
        sections["guidance"] = Guidance(
            "+".join(methods),
            _method_params(methods, everything),
            read_section(Schedule, "guidance.schedule.", everything, written_as),
            read_section(TeacherPass, "teacher.", everything, written_as),
        )
    select = read_value(Recipe, "select", keys["select"], written_as("select")) if "select" in keys else "last"
    recipe = Recipe(recipe_id, protocol, **sections, teacher=teacher, seed=seed, select=select)

    def fail(path: str, problem: str) -> typing.NoReturn:
        fail_at(everything.get(path, SourcedValue(None, f"recipe {recipe_id!r}")), written_as(path), problem)

    check_recipe(recipe, fail)
    return recipe


def without_teacher(method: str) -> bool:
    """Whether none of the methods in the value of `guidance.method` needs a teacher. False for unknown ones."""
    names = method.split("+")
    return set(names) <= set(method_names()) and not any(params_class(name).needs for name in names)


def read_section(cls: type, prefix: str, keys: Keys, written_as: Callable[[str], str] = lambda path: path) -> Any:
    """A section of the schema from the keys with its prefix."""
    paths = {f.name: prefix + f.name for f in fields(cls)}
    return cls(**{n: read_value(cls, n, keys[path], written_as(path)) for n, path in paths.items() if path in keys})


def _method_params(methods: list[str], keys: Keys) -> tuple[MethodParams, ...]:
    """The parameters of each method. Raises RecipeError for an unknown method or a parameter that none of them has."""
    given, known = keys["guidance.method"], method_names()
    for method in methods:
        if method not in known:
            hint = f"; it is now {RENAMED_METHODS[method]}" if method in RENAMED_METHODS else nearest(method, known)
            fail_at(given, "guidance.method", f"got {given.value!r}, allowed: none, {', '.join(known)}{hint}")
    if len(set(methods)) < len(methods):
        fail_at(given, "guidance.method", f"got {given.value!r}, in which one method occurs twice")
    prefix = "guidance.params."
    classes = [params_class(method) for method in methods]
    allowed = [f.name for cls in classes for f in fields(cls)]
    if shared := sorted(name for name in allowed if allowed.count(name) > 1):
        problem = f"{given.value!r}: two of these methods have a parameter {shared[0]}, so they cannot join"
        fail_at(given, "guidance.method", problem)
    for path, value in keys.items():
        if path.startswith(prefix) and (name := path.removeprefix(prefix)) not in allowed:
            has = f"its parameters: {', '.join(allowed)}" if allowed else "it has no parameters"
            fail_at(value, path, f"is not a parameter of {given.value}; {has}{nearest(name, allowed)}")
    return tuple(read_section(cls, prefix, keys) for cls in classes)


def recipe_from_dict(content: Any, where: str) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote, as records store it, checked like one that is composed.

    Args:
        where: the file, for errors.

    Raises:
        RecipeError: it is not a recipe of this version of the suite.
    """
    try:
        sections = (*SECTIONS, "guidance")
        keys = flatten({name: content[name] for name in sections if name in content}, where, sections)
        if "select" in content:
            keys["select"] = SourcedValue(content["select"], where)
        for path, value in keys.items():
            check_known(path, value)
        recipe_id, protocol, seed = (
            read_value(Recipe, name, SourcedValue(content[name], where), name) for name in ("id", "protocol", "seed")
        )
        teacher, passes = None, {}
        if "teacher" in content:
            teacher = recipe_from_dict(content["teacher"], where)
            passes = {name: SourcedValue(content["teacher"][name], where) for name in TEACHER_PASS_KEYS}
            keys["guidance.method"]  # KeyError: not a recipe
    except (KeyError, TypeError, RecursionError) as error:
        raise RecipeError(f"{where}: not a recipe of this version of the suite: {error}") from None
    return build_recipe(recipe_id, protocol, keys, seed, teacher=teacher, teacher_keys=passes)

"""Builds a checked recipe from merged keys."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from bench.config.checks import check_recipe
from bench.config.methods import (
    OUTPUTS,
    STUDENT_MAPS,
    builder_names,
    method_names,
    params_class,
    plugin_params,
    stored_params,
)
from bench.config.names import split_id
from bench.config.params import ModelParams, Params, param_keys
from bench.config.parse import SourcedValue, check_known, fail_at, flatten, nearest, read_value
from bench.config.plugins import NAME, NO_PLUGINS, PluginFiles, explained, read_plugin
from bench.config.schema import (
    SECTIONS,
    SHARED_WITH_TEACHER,
    TEACHER_PASS_KEYS,
    TRAINING_KEYS,
    Guidance,
    MethodParams,
    Recipe,
    RecipeError,
    Schedule,
    TeacherPass,
)
from bench.config.teacher_file import check_teacher_keys

Keys = Mapping[str, SourcedValue]


@dataclass(frozen=True)
class Known:
    """The plug-ins that recipes may name.

    files: of the folders that the user named.
    needs, student_maps: for a recipe from a record, whose plug-ins need not be here: the teacher's outputs and the
        student's maps that its methods use.
    """

    files: PluginFiles
    needs: frozenset[str] | None = None
    student_maps: frozenset[str] = frozenset()

    @property
    def is_record(self) -> bool:
        """Whether a plug-in that is not here is accepted."""
        return self.needs is not None


def split_teacher(*layers: Keys) -> tuple[dict[str, SourcedValue], dict[str, SourcedValue]]:
    """Merge layers; later ones win. Returns the recipe's own keys, and those under `teacher.` without that prefix."""
    merged = {path: given for layer in layers for path, given in layer.items()}
    own = {path: given for path, given in merged.items() if not path.startswith("teacher.")}
    return own, {p.removeprefix("teacher."): given for p, given in merged.items() if p.startswith("teacher.")}


def build_teacher(
    recipe_id: str,
    protocol: str,
    layers: Keys,
    teacher_keys: Keys,
    shared: Keys,
    known: Known,
    *,
    seed: int | None = None,
) -> Recipe:
    """The recipe of a teacher.

    Args:
        layers: the keys of its model, and data and transform of its students.
        teacher_keys: the keys under `teacher.`, which win. If they name a file with its weights, it is not trained.
        shared: keys of the student, of which some hold for the teacher too.
        seed: of a teacher that is trained on its own; None: `teacher.seed`.
    """
    shared = {path: shared[path] for path in SHARED_WITH_TEACHER if path in shared}
    own = {path: given for path, given in teacher_keys.items() if path not in TEACHER_PASS_KEYS}
    keys = {**layers, **shared, **own}
    if seed is not None:
        keys = {path: given for path, given in keys.items() if path not in ("weights", "sha256")}
        return build_recipe(recipe_id, protocol, keys, seed, known)
    if check_teacher_keys(own):
        keys = {path: given for path, given in keys.items() if path not in TRAINING_KEYS}
    seed = read_value(Recipe, "seed", keys["seed"], "teacher.seed") if "seed" in keys else 0
    return build_recipe(recipe_id, protocol, keys, seed, known, written_as=lambda path: "teacher." * (path in own) + path)


def build_recipe(
    recipe_id: str,
    protocol: str,
    keys: Keys,
    seed: int,
    known: Known,
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
    builder = sections["model"].builder
    given = everything.get("model.builder", SourcedValue(builder, f"recipe {recipe_id!r}"))
    params = _model_params(given, builder, everything, known, written_as)
    sections["model"] = dataclasses.replace(sections["model"], name=model, params=params)
    sections["data"] = dataclasses.replace(sections["data"], name=dataset)
    if "guidance.method" in keys:
        methods = str(everything["guidance.method"].value).split("+")
        sections["guidance"] = Guidance(
            "+".join(methods),
            _method_params(methods, everything, known),
            read_section(Schedule, "guidance.schedule.", everything, written_as),
            read_section(TeacherPass, "teacher.", everything, written_as),
        )
    of_teacher = ("select", "weights", "sha256")
    own = {name: read_value(Recipe, name, keys[name], written_as(name)) for name in of_teacher if name in keys}
    recipe = Recipe(recipe_id, protocol, **sections, teacher=teacher, seed=seed, **own)

    def fail(path: str, problem: str) -> typing.NoReturn:
        fail_at(everything.get(path, SourcedValue(None, f"recipe {recipe_id!r}")), written_as(path), problem)

    check_recipe(recipe, fail)
    return recipe


def has_teacher(method: str, known: Known) -> bool:
    """Whether a method in the value of `guidance.method` needs a teacher. True if one is unknown."""
    for name in method.split("+"):
        own = known.files.get(("guidance", name))
        if own is None and name not in method_names():
            return True
        if (params_class(name) if own is None else plugin_params(read_plugin("guidance", name, own))).needs:
            return True
    return False


def read_section(cls: type, prefix: str, keys: Keys, written_as: Callable[[str], str] = lambda path: path) -> Any:
    """A section of the schema from the keys with its prefix."""
    paths = {f.name: prefix + f.name for f in fields(cls)}
    return cls(**{n: read_value(cls, n, keys[path], written_as(path)) for n, path in paths.items() if path in keys})


def _model_params(
    given: SourcedValue, builder: str, keys: Keys, known: Known, written_as: Callable[[str], str]
) -> ModelParams:
    """The parameters of a builder. Raises RecipeError for an unknown builder or a parameter that it does not have."""
    prefix, own, shipped = "model.params.", known.files.get(("models", builder)), builder_names()
    values = _under(prefix, keys)
    if builder in shipped:
        cls = params_class(builder, "models")
    elif own is not None:
        cls = plugin_params(read_plugin("models", builder, own))
    elif known.is_record and re.fullmatch(NAME, builder):
        return stored_params(ModelParams, values)
    else:
        builders = shipped + [name for kind, name in known.files if kind == "models"]
        problem = f"got {builder!r}, allowed: {', '.join(builders)}{nearest(builder, builders)}"
        fail_at(given, written_as("model.builder"), problem)
    _check_allowed(prefix, keys, [f.name for f in fields(cls)], builder, written_as)
    return _read_params(cls, prefix, keys, written_as)


def _method_params(methods: list[str], keys: Keys, known: Known) -> tuple[MethodParams, ...]:
    """The parameters of each method. Raises RecipeError for an unknown method or a parameter that none of them has."""
    prefix, given, shipped = "guidance.params.", keys["guidance.method"], method_names()
    own = {name: path for (kind, name), path in known.files.items() if kind == "guidance"}
    classes: dict[str, type[MethodParams] | None] = {}  # None: of a plug-in that is not here
    for method in methods:
        if method in shipped:
            classes[method] = params_class(method)
        elif method in own:
            classes[method] = plugin_params(read_plugin("guidance", method, own[method]))
        elif known.is_record and re.fullmatch(NAME, method):
            classes[method] = None
        else:
            names = [*shipped, *own]
            allowed = f"none, {', '.join(names)}{nearest(method, names)}"
            fail_at(given, "guidance.method", f"got {given.value!r}, allowed: {allowed}")
    if len(classes) < len(methods):
        fail_at(given, "guidance.method", f"got {given.value!r}, in which one method occurs twice")
    values = _under(prefix, keys)
    paths = param_keys({method: [f.name for f in fields(cls)] for method, cls in classes.items() if cls is not None})
    for method, names in paths.items():  # the method before it may not be here
        names.update({name: f"{method}_{name}" for name in names if known.is_record and f"{method}_{name}" in values})
    allowed = [path for names in paths.values() for path in names.values()]
    if shared := sorted(path for path in allowed if allowed.count(path) > 1):
        fail_at(given, "guidance.method", f"{given.value!r}: two parameters would be {shared[0]}, so they cannot join")
    # A record does not say which of several methods has a parameter, and the hash does not depend on it.
    others = {name: value for name, value in values.items() if name not in allowed}
    out = []
    for method, cls in classes.items():
        if cls is not None:
            own = {prefix + name: keys[prefix + path] for name, path in paths[method].items() if path in values}
            written = {prefix + name: prefix + path for name, path in paths[method].items()}
            out.append(_read_params(cls, prefix, own, written.__getitem__))
        else:
            out.append(stored_params(MethodParams, others, known.needs, known.student_maps))
            others = {}
    if others:
        _check_allowed(prefix, keys, allowed, str(given.value))
    return tuple(out)


def _under(prefix: str, keys: Keys) -> dict[str, Any]:
    """The values of the keys with a prefix, without it."""
    return {path.removeprefix(prefix): given.value for path, given in keys.items() if path.startswith(prefix)}


def _check_allowed(
    prefix: str, keys: Keys, allowed: list[str], of: str, written_as: Callable[[str], str] = lambda path: path
) -> None:
    """Raise RecipeError for a parameter that is not among these."""
    for path, value in keys.items():
        if path.startswith(prefix) and (name := path.removeprefix(prefix)) not in allowed:
            has = f"its parameters: {', '.join(allowed)}" if allowed else "it has no parameters"
            fail_at(value, written_as(path), f"is not a parameter of {of}; {has}{nearest(name, allowed)}")


def _read_params(
    cls: type[Params], prefix: str, keys: Keys, written_as: Callable[[str], str] = lambda path: path
) -> Params:
    """Parameters from the keys with a prefix. The defaults of a plug-in are read and checked like given values."""
    if cls.plugin is None:
        return read_section(cls, prefix, keys, written_as)
    values, where = {}, str(cls.plugin.path)
    for f in fields(cls):
        path = prefix + f.name
        if path in keys:
            values[f.name] = read_value(cls, f.name, keys[path], written_as(path))
        elif f.default is MISSING:
            raise RecipeError(f"{where}: the parameter {f.name} has no default: set {written_as(path)}")
        else:
            default = list(f.default) if isinstance(f.default, tuple) else f.default
            values[f.name] = read_value(cls, f.name, SourcedValue(default, where), f"default of {f.name}")
    with explained(cls.plugin):  # it may have checks of its own
        return cls(**values)


def recipe_from_dict(content: Any, where: str, plugins: PluginFiles = NO_PLUGINS) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote, as records store it, checked like one that is composed.

    Plug-ins need not be here: the hash and what the suite's own code needs are in the record. Only their networks and
    methods cannot be built then.

    Args:
        where: the file, for errors.
        plugins: of the folders that the user named. Nothing in a record can name a file.

    Raises:
        RecipeError: it is not a recipe of this version of the suite.
    """
    try:
        sections = (*SECTIONS, "guidance")
        own = {name: dict(content[name]) for name in sections if name in content}
        needs = frozenset(own["guidance"].pop("needs", ())) if "guidance" in own else frozenset()
        student_maps = frozenset(own["guidance"].pop("student_maps", ())) if "guidance" in own else frozenset()
        if not needs <= OUTPUTS or not student_maps <= STUDENT_MAPS:
            raise TypeError("guidance.needs")
        keys = flatten(own, where, sections)
        for path, value in keys.items():
            check_known(path, value)
        keys |= {name: SourcedValue(content[name], where) for name in ("select", "sha256") if name in content}
        recipe_id, protocol, seed = (
            read_value(Recipe, name, SourcedValue(content[name], where), name) for name in ("id", "protocol", "seed")
        )
        teacher, passes = None, {}
        if "teacher" in content:
            teacher = recipe_from_dict(content["teacher"], where, plugins)
            passes = {name: SourcedValue(content["teacher"][name], where) for name in TEACHER_PASS_KEYS}
            keys["guidance.method"]  # KeyError: not a recipe
        known = Known(plugins, needs, student_maps)
        return build_recipe(recipe_id, protocol, keys, seed, known, teacher=teacher, teacher_keys=passes)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{where}: not a recipe of this version of the suite: {error}") from None

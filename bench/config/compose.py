"""Builds a checked recipe from merged keys."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from bench.config.checks import Fail, check_recipe
from bench.config.methods import OUTPUTS, STUDENT_MAPS, params_class, plugin_params, stored_params
from bench.config.names import split_id
from bench.config.params import ModelParams, Params, param_keys
from bench.config.parse import SourcedValue, check_known, fail_at, flatten, nearest, read_value
from bench.config.plugins import NAME, NO_PLUGINS, PACKAGE, PluginFiles, explained, modules_defining, read_plugin
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
    """The methods and builders that recipes may name.

    files: the plug-ins in the folders that the user named.
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

    def names(self, kind: str) -> list[str]:
        """The methods ("guidance") or the builders ("models"), the suite's own first."""
        return modules_defining("build", PACKAGE / kind) + [name for of, name in self.files if of == kind]

    def params(self, kind: str, name: str) -> type[Params] | None:
        """The class `Params` of a method or a builder; None if it is not here."""
        if (kind, name) in self.files:
            return plugin_params(read_plugin(kind, name, self.files[kind, name]))
        return params_class(name, kind) if name in self.names(kind) else None

    def may_lack(self, name: str) -> bool:
        """Whether a method or builder need not be here: it is named by a record, and could be a plug-in's."""
        return self.is_record and re.fullmatch(NAME, name) is not None


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
    seed = read_value(Recipe, "seed", keys["seed"]) if "seed" in keys else 0
    return build_recipe(recipe_id, protocol, keys, seed, known)


def build_recipe(
    recipe_id: str,
    protocol: str,
    keys: Keys,
    seed: int,
    known: Known,
    *,
    teacher: Recipe | None = None,
    teacher_keys: Keys | None = None,
) -> Recipe:
    """A checked recipe from merged keys.

    Args:
        keys: of the recipe itself.
        teacher: of students that a teacher guides.
        teacher_keys: the keys under `teacher.`, without that prefix.
    """
    everything = {**keys, **{f"teacher.{path}": given for path, given in (teacher_keys or {}).items()}}

    def fail(path: str, problem: str) -> typing.NoReturn:
        fail_at(everything.get(path, SourcedValue(None, f"recipe {recipe_id!r}", path)), problem)

    sections = {name: read_section(cls, f"{name}.", everything) for name, cls in SECTIONS.items()}
    role = "teacher" if sections["model"].role == "teacher" else "student"
    model, dataset = split_id(recipe_id, role)[:2]
    params = _model_params(sections["model"].builder, everything, known, fail)
    sections["model"] = dataclasses.replace(sections["model"], name=model, params=params)
    sections["data"] = dataclasses.replace(sections["data"], name=dataset)
    if "guidance.method" in keys:
        methods = str(everything["guidance.method"].value).split("+")
        sections["guidance"] = Guidance(
            "+".join(methods),
            _method_params(methods, everything, known),
            read_section(Schedule, "guidance.schedule.", everything),
            read_section(TeacherPass, "teacher.", everything),
        )
    own = {name: read_value(Recipe, name, keys[name]) for name in ("select", "weights", "sha256") if name in keys}
    recipe = Recipe(recipe_id, protocol, **sections, teacher=teacher, seed=seed, **own)
    check_recipe(recipe, fail)
    return recipe


def has_teacher(method: str, known: Known) -> bool:
    """Whether a method in the value of `guidance.method` needs a teacher. True if one is unknown."""
    classes = (known.params("guidance", name) for name in method.split("+"))
    return any(cls is None or cls.needs for cls in classes)


def read_section(cls: type, prefix: str, keys: Keys) -> Any:
    """A section of the schema from the keys with its prefix."""
    paths = {f.name: prefix + f.name for f in fields(cls)}
    return cls(**{name: read_value(cls, name, keys[path]) for name, path in paths.items() if path in keys})


def _model_params(builder: str, keys: Keys, known: Known, fail: Fail) -> ModelParams:
    """The parameters of a builder. Raises RecipeError for an unknown builder or a parameter that it does not have."""
    prefix = "model.params."
    cls = known.params("models", builder)
    if cls is None and known.may_lack(builder):
        return stored_params(ModelParams, _under(prefix, keys))
    if cls is None:
        builders = known.names("models")
        fail("model.builder", f"got {builder!r}, allowed: {', '.join(builders)}{nearest(builder, builders)}")
    names = [f.name for f in fields(cls)]
    _check_allowed(prefix, keys, names, builder)
    return _read_params(cls, {name: prefix + name for name in names}, keys)


def _method_params(methods: list[str], keys: Keys, known: Known) -> tuple[MethodParams, ...]:
    """The parameters of each method. Raises RecipeError for an unknown method or a parameter that none of them has."""
    prefix, given = "guidance.params.", keys["guidance.method"]
    classes = {method: known.params("guidance", method) for method in methods}  # None: of a plug-in that is not here
    for method, cls in classes.items():
        if cls is None and not known.may_lack(method):
            allowed = known.names("guidance")
            fail_at(given, f"got {given.value!r}, allowed: none, {', '.join(allowed)}{nearest(method, allowed)}")
    if len(classes) < len(methods):
        fail_at(given, f"got {given.value!r}, in which one method occurs twice")
    values = _under(prefix, keys)
    paths = param_keys({method: [f.name for f in fields(cls)] for method, cls in classes.items() if cls is not None})
    for method, names in paths.items():  # an earlier method with the same parameter may be a plug-in that is not here
        names.update({name: f"{method}_{name}" for name in names if known.is_record and f"{method}_{name}" in values})
    allowed = [path for names in paths.values() for path in names.values()]
    if shared := sorted(path for path in allowed if allowed.count(path) > 1):
        fail_at(given, f"{given.value!r}: two parameters would be {shared[0]}, so they cannot join")
    # A record does not say which of several methods has a parameter, and the hash does not depend on it.
    others = {name: value for name, value in values.items() if name not in allowed}
    out = []
    for method, cls in classes.items():
        if cls is not None:
            out.append(_read_params(cls, {name: prefix + path for name, path in paths[method].items()}, keys))
        else:
            out.append(stored_params(MethodParams, others, known.needs, known.student_maps))
            others = {}
    if others:
        _check_allowed(prefix, keys, allowed, str(given.value))
    return tuple(out)


def _under(prefix: str, keys: Keys) -> dict[str, Any]:
    """The values of the keys with a prefix, without it."""
    return {path.removeprefix(prefix): given.value for path, given in keys.items() if path.startswith(prefix)}


def _check_allowed(prefix: str, keys: Keys, allowed: list[str], of: str) -> None:
    """Raise RecipeError for a parameter that is not among these."""
    for name in _under(prefix, keys):
        if name not in allowed:
            has = f"its parameters: {', '.join(allowed)}" if allowed else "it has no parameters"
            fail_at(keys[prefix + name], f"is not a parameter of {of}; {has}{nearest(name, allowed)}")


def _read_params(cls: type[Params], paths: Mapping[str, str], keys: Keys) -> Params:
    """Parameters from their keys. The defaults of a plug-in are read and checked like given values.

    paths: {parameter: its key}.
    """
    values = {name: read_value(cls, name, keys[path]) for name, path in paths.items() if path in keys}
    if cls.plugin is None:
        return cls(**values)
    where = str(cls.plugin.path)
    for f in fields(cls):
        if f.name not in values and f.default is MISSING:
            raise RecipeError(f"{where}: the parameter {f.name} has no default: set {paths[f.name]}")
        if f.name not in values:
            default = list(f.default) if isinstance(f.default, tuple) else f.default
            values[f.name] = read_value(cls, f.name, SourcedValue(default, where, f"default of {f.name}"))
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
        for given in keys.values():
            check_known(given)
        keys |= {name: SourcedValue(content[name], where, name) for name in ("select", "sha256") if name in content}
        recipe_id, protocol, seed = (
            read_value(Recipe, name, SourcedValue(content[name], where, name)) for name in ("id", "protocol", "seed")
        )
        teacher, passes = None, {}
        if "teacher" in content:
            teacher = recipe_from_dict(content["teacher"], where, plugins)
            passes = {name: SourcedValue(content["teacher"][name], where, f"teacher.{name}") for name in TEACHER_PASS_KEYS}
            keys["guidance.method"]  # KeyError: not a recipe
        known = Known(plugins, needs, student_maps)
        return build_recipe(recipe_id, protocol, keys, seed, known, teacher=teacher, teacher_keys=passes)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{where}: not a recipe of this version of the suite: {error}") from None

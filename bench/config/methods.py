"""The parameters of guidance methods and of builders of networks, read without importing torch.

A method is one file, bench/guidance/METHOD.py, a builder bench/models/BUILDER.py, or either is a user's own file. Its class
`Params` says which parameters it has. The file imports torch, and composing a recipe must not, since listing and planning
have to answer at once. So the class is read from the source.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

from bench.config.params import ModelParams, Params, Plugin
from bench.config.parse import field_types, is_readable
from bench.config.plugins import MARK, PACKAGE, explained, modules_defining
from bench.config.schema import MethodParams, RecipeError, key

# the names that a class `Params` may use, beside Python's built-in ones
NAMES = {
    **{"ClassVar": ClassVar, "Literal": Literal, "dataclass": dataclass, "key": key},
    **{"MethodParams": MethodParams, "ModelParams": ModelParams},
}
BASES = {"guidance": MethodParams, "models": ModelParams}
OUTPUTS = {"maps", "logits"}
STUDENT_MAPS = {"chosen", "all"}
P = TypeVar("P", bound=Params)


def method_names() -> list[str]:
    """The guidance methods of the suite that a recipe can name."""
    return modules_defining("build", PACKAGE / "guidance")


def builder_names() -> list[str]:
    """The builders of networks of the suite that a recipe can name."""
    return modules_defining("build", PACKAGE / "models")


@functools.cache
def params_class(name: str, kind: str = "guidance") -> type[Params]:
    """The class `Params` of a method of the suite, or with the kind "models" of a builder, which need not have one."""
    path = PACKAGE / kind / f"{name}.py"
    if (node := _class_in(path.read_text(encoding="utf-8"))) is None:
        return BASES[kind]
    params = _run_class(node, str(path), {})
    # pickle finds no class by this name
    params.__reduce__ = lambda self: (_restored, (params_class, (name, kind), vars(self)))
    return params


@functools.cache
def plugin_params(plugin: Plugin) -> type[Params]:
    """The class `Params` of a plug-in. A builder need not have one: it has no parameters then.

    Raises RecipeError if the class is missing or cannot hold parameters.
    """
    base, node = BASES[plugin.kind], _class_in(plugin.source)
    if node is None:
        if base is MethodParams:
            raise RecipeError(f"{plugin.path}: has no class Params(MethodParams), which a method needs")
        params = dataclasses.make_dataclass("Params", (), bases=(base,), frozen=True)
    else:
        with explained(plugin):
            params = _run_class(node, str(plugin.path), {MARK: plugin})
        if problem := _problem(params, base):
            raise RecipeError(f"{plugin.path} line {node.lineno}: class Params {problem}")
    params.own, params.plugin = True, plugin
    params.__reduce__ = lambda self: (_restored, (plugin_params, (plugin,), vars(self)))
    return params


def stored_params(
    base: type[P],
    values: Mapping[str, Any],
    needs: frozenset[str] = frozenset(),
    student_maps: frozenset[str] = frozenset(),
) -> P:
    """The parameters of a plug-in as a record has them, without its file. Raises TypeError if they cannot be ones."""
    if wrong := [name for name in values if hasattr(base, name)]:
        raise TypeError(f"{wrong[0]} is not a parameter")
    namespace: dict[str, object] = {"own": True}
    if base is MethodParams:
        layers = next((maps for maps in ("chosen", "all") if maps in student_maps), None)
        namespace |= {"needs": needs, "student_layers": layers}
    params = dataclasses.make_dataclass("Params", list(values), bases=(base,), frozen=True, namespace=namespace)
    return params(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _class_in(source: str) -> ast.ClassDef | None:
    """The class `Params` of a file."""
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Params"]
    return classes[-1] if classes else None


def _run_class(node: ast.ClassDef, path: str, names: Mapping[str, object]) -> type[Params]:
    """The class that a definition makes, with no other code of its file."""
    future = ast.parse("from __future__ import annotations").body  # annotations stay text and are read in this module
    namespace = {**NAMES, **names, "__name__": __name__}
    exec(compile(ast.Module([*future, node], []), path, "exec"), namespace)
    return namespace["Params"]


def _problem(params: type, base: type[Params]) -> str | None:
    """What is wrong with the class `Params` of a plug-in, as the end of a sentence."""
    if not (isinstance(params, type) and issubclass(params, base) and "__dataclass_fields__" in vars(params)):
        return f"must be @dataclass(frozen=True) class Params({base.__name__})"
    for field in fields(params):
        if hasattr(base, field.name):
            return f"has a parameter {field.name}, a name that {base.__name__} uses"
        try:
            readable = is_readable(field_types(params)[field.name])
        except Exception:  # an annotation is any expression
            readable = False
        if not readable:
            return (
                f"has a parameter {field.name} of type {field.type}, allowed are int, float, bool, str, Literal[...],"
                " tuple[...] of int, float or str, and any of these with | None"
            )
    if base is MethodParams:
        if not ("needs" in vars(params) and isinstance(params.needs, (set, frozenset)) and params.needs <= OUTPUTS):
            return 'must have needs: ClassVar[frozenset[str]] = frozenset({"maps"}), or {"logits"}, both, or empty'
        if params.student_layers not in (None, *STUDENT_MAPS):
            return 'must have student_layers "chosen", "all" or None'
    return None


def _restored(class_of: Callable[..., type[Params]], arguments: tuple[object, ...], values: dict[str, object]) -> Params:
    return class_of(*arguments)(**values)

"""Reads values from YAML files and the command line and checks them against the schema's types.

An error is one sentence: where the value was written, what was given, what is allowed.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from bench.config.schema import SECTIONS, TEACHER_DATA_KEYS, TEACHER_PASS_KEYS, RecipeError, Schedule


@dataclass(frozen=True)
class SourcedValue:
    """A value with the place where it was written, for errors."""

    value: Any
    where: str  # a file, or "--set"
    path: str = ""  # its key there


PARAMS = ("guidance.params", "model.params")  # sections whose keys a method or builder declares


def nearest(name: object, allowed: Iterable[str]) -> str:
    """The end of an error's sentence: the most similar allowed name, if one is similar."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def short_repr(value: object) -> str:
    """A value as errors quote it: its Python form, at most 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]} …"


def fail_at(given: SourcedValue, problem: str) -> typing.NoReturn:
    """Raise RecipeError for a value, naming its key and where it was written."""
    raise RecipeError(f"{given.where}: {given.path}: {problem}")


field_types = functools.cache(typing.get_type_hints)  # {field: type} of a dataclass


def inner_type(hint: Any) -> Any:
    """The type T of `T | None`; None for a type that does not accept None."""
    if not isinstance(hint, types.UnionType):
        return None
    return next(part for part in typing.get_args(hint) if part is not types.NoneType)


def _describe(hint: Any) -> str:
    if (optional := inner_type(hint)) is not None:
        return f"{_describe(optional)} or null"
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        count = "" if Ellipsis in inner else f"{len(inner)} "
        return f"a list of {count}{ {str: 'texts', float: 'numbers', int: 'whole numbers'}[inner[0]] }"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]


def is_readable(hint: Any) -> bool:
    """Whether values of a type can be read from files and the command line."""
    if (optional := inner_type(hint)) is not None:
        return set(typing.get_args(hint)) == {optional, types.NoneType} and is_readable(optional)
    if typing.get_origin(hint) is Literal:
        return all(isinstance(value, str) for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        return inner[:1] in [(int,), (float,), (str,)] and set(inner[1:]) <= {inner[0], Ellipsis}
    return hint in (int, float, bool, str)


def _convert(value: Any, hint: Any, from_text: bool) -> Any:
    """`value` converted to the type `hint`; raises TypeError if it does not fit.

    Text from a command line may be a number in any form that Python reads. In a file YAML has typed it already.
    """
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value is False:
            value = "off"  # YAML 1.1 reads the word as false
        if isinstance(value, str) and value in typing.get_args(hint):
            return value
        raise TypeError
    if (optional := inner_type(hint)) is not None:
        return None if value is None else _convert(value, optional, from_text)
    if origin is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list) or (Ellipsis not in inner and len(value) != len(inner)):
            raise TypeError
        return tuple(_convert(v, inner[0], from_text) for v in value)
    # YAML 1.1 reads 5e-4 as text
    if hint is float and (type(value) is int or (from_text and isinstance(value, str))):
        try:
            value = float(value)
        except (ValueError, OverflowError):
            raise TypeError from None
    if type(value) is not hint or (hint is float and not math.isfinite(value)) or (hint is str and "\0" in value):
        raise TypeError
    return value


def read_value(section: type, name: str, given: SourcedValue) -> Any:
    """The value of one key, converted and checked against its type and range.

    Args:
        section: the dataclass that has the key.
        name: of the key in it.
    """
    hint = field_types(section)[name]
    try:
        value = _convert(given.value, hint, from_text=given.where == "--set")
    except TypeError:
        advice = ""
        if hint is float and isinstance(given.value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", given.value):
            mantissa, exponent = re.split("[eE]", given.value)
            advice = f" (YAML reads {given.value} as text: write {mantissa}.0e{exponent})"
        elif typing.get_origin(hint) is Literal:
            advice = nearest(given.value, typing.get_args(hint))
        fail_at(given, f"got {short_repr(given.value)}, allowed is {_describe(hint)}{advice}")
    spec = section.__dataclass_fields__[name].metadata
    low, high = spec.get("low"), spec.get("high")
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or isinstance(number, str):
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            fail_at(given, f"got {short_repr(given.value)}, allowed is {bounds}")
    return value


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, which would overwrite silently, and without aliases, which could make a small file
    grow to any size in memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            problem = f"*{event.anchor} refers to another place, which is not allowed in recipes: write the value out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                problem = f"key {short_repr(key_node.value)} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, where: str) -> Any:
    """Plain data from YAML text. A syntax error becomes one sentence that names `where` and the line."""
    try:
        content = yaml.load(text, _PlainLoader)
        # refuses numbers of thousands of digits, endless nesting, and characters that no file can hold
        json.dumps(content, default=str, ensure_ascii=False).encode()
        return content
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, LookupError, AttributeError) as error:
        # PyYAML's constructors raise the others: impossible dates and numbers, keys that are lists, `!!bool x`, `!!int ""`
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        parts = (getattr(error, "context", None), getattr(error, "problem", None))
        problem = ", ".join(part for part in parts if part) or str(error).partition("\n")[0] or type(error).__name__
        problem = "nested too deep" if isinstance(error, RecursionError) else problem
        raise RecipeError(f"{where}{line}: not valid YAML: {problem}") from None


def parse_set(assignments: Sequence[str]) -> dict[str, SourcedValue]:
    """`--set key.path=value` arguments as {key path: value}. Values are read as YAML, then converted to the key's type."""
    out = {}
    for text in assignments:
        path, sep, value = text.partition("=")
        if not sep or not path.strip():
            raise RecipeError(f"--set {short_repr(text)}: must be key.path=value, as in --set train.epochs=2")
        path = path.strip()
        out[path] = SourcedValue(read_yaml(value, f"--set {short_repr(path)}") if value else "", "--set", path)
    return out


def set_text(value: Any) -> str:
    """A value as `--set` reads it: a word if YAML reads it as that text, else in quotes."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(set_text, value))}]"
    if not isinstance(value, str):
        return json.dumps(value, default=str)  # a date, for example, which no key accepts
    if re.fullmatch(r"[A-Za-z][\w./+:-]*", value, re.ASCII) and yaml.safe_load(value) == value:
        return value
    return yaml.safe_dump(value, default_style='"', width=float("inf")).rstrip("\n")


def flatten(content: Any, where: str, allowed: Sequence[str], prefix: str = "") -> dict[str, SourcedValue]:
    """A nested mapping as {"train.epochs": value}. Unknown sections are refused.

    Args:
        where: the file, for errors.
        allowed: the sections that this kind of file may have.
    """
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: {prefix.rstrip('.') or 'the file'} must hold keys, got {short_repr(content)}")
    out = {}
    for name, value in content.items():
        path = f"{prefix}{name}"
        if not isinstance(name, str) or "." in name:
            raise RecipeError(f"{where}: {prefix}{short_repr(name)} is not a key: write a: {{b: 1}} for a.b")
        if not prefix and name not in allowed:
            sections = f"{', '.join(allowed)}{nearest(name, allowed)}"
            raise RecipeError(f"{where}: {path} is not a section here; allowed: {sections}")
        is_section = path in (*SECTIONS, "guidance", "guidance.schedule", *PARAMS)
        if isinstance(value, Mapping) or is_section:
            out.update(flatten(value, where, allowed, path + "."))
        else:
            out[path] = SourcedValue(value, where, path)
    return out


# {section: its keys}; the keys of parameters depend on the method or builder, so `compose` checks them
_KEYS = {section: [f.name for f in fields(cls)] for section, cls in (*SECTIONS.items(), ("guidance.schedule", Schedule))}
_KEYS["guidance"] = ["method"]
_KEYS["model"].remove("params")
_TEACHER_KEYS = ("seed", "select", "weights", "sha256", *TEACHER_PASS_KEYS)


def check_known(given: SourcedValue) -> None:
    """Raise RecipeError for a key that no recipe has, in a sentence that says what is allowed."""
    inner = given.path.removeprefix("teacher.")
    for_teacher = inner != given.path
    section, _, name = inner.rpartition(".")
    if for_teacher and (section.startswith("guidance") or inner in ("data.name", "model.role")):
        fail_at(given, "is not a key of a teacher, which is not guided itself and shares the student's dataset")
    own_data = (*TEACHER_DATA_KEYS, "train_limit")
    if for_teacher and section == "data" and name not in own_data and name in _KEYS["data"]:
        fail_at(given, f"is not a key of a teacher, which sees the student's images; its own: {', '.join(own_data)}")
    # whether a recipe may set `seed` or `select` is decided where it is composed
    if inner in ("seed", "select") or (for_teacher and inner in _TEACHER_KEYS) or section in PARAMS:
        return
    if name in _KEYS.get(section, ()):
        return
    if section in _KEYS or inner in _KEYS:
        section = section if section in _KEYS else inner
        known = _KEYS[section] + ["params.<name>"] * (section in ("guidance", "model"))
        known += ["schedule.<name>"] * (section == "guidance")
        fail_at(given, f"is not a key; allowed under {section}: {', '.join(known)}{nearest(name, known)}")
    every = [f"{s}.{key}" for s, keys in _KEYS.items() for key in keys] + list(_TEACHER_KEYS) * for_teacher
    sections = ", ".join([*SECTIONS, *_TEACHER_KEYS] if for_teacher else [*SECTIONS, "guidance", "teacher"])
    fail_at(given, f"is not a key; it must be under {sections}{nearest(inner, every)}")


def read_text(path: Path, where: str) -> str:
    """The text of a file. Raises RecipeError, naming `where`, if it is not a plain file of UTF-8."""
    if path.exists() and not path.is_file():  # a folder, or a pipe or a device, whose reading may never end
        raise RecipeError(f"{where}: is not a plain file")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}: cannot be read: {error}") from None


def read_file(path: Path, where: str) -> Mapping[str, Any]:
    """The keys in a YAML file. Raises RecipeError, naming `where`, for anything that is not a plain file of keys."""
    content = read_yaml(read_text(path, where), where)
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: must hold keys, got {short_repr(content)}")
    return content

"""Values as users write them, in YAML files and on the command line, to values of the schema's types; what does not fit is
refused in one sentence that says where it was written, what was given and what is allowed."""

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

from bench.schema import GUIDES_OWN_DATA, SECTIONS, Data, RecipeError


@dataclass(frozen=True)
class Given:
    """A value together with where it was written, so that an error can say so."""

    value: Any
    where: str  # a file, or "--set"


def nearest(name: object, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """A value as errors quote it: as Python writes it, not more than a line of it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]} …"


def fail_at(given: Given, path: str, problem: str) -> typing.NoReturn:
    raise RecipeError(f"{given.where}: {path}: {problem}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(h) if h is not types.NoneType else "null" for h in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        count = "" if Ellipsis in inner else f"{len(inner)} "
        return f"a list of {count}{ {str: 'texts', float: 'numbers', int: 'whole numbers'}[inner[0]] }"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]


def _convert(value: Any, hint: Any, from_text: bool) -> Any:
    """`value` as `hint` wants it; raises TypeError where it does not fit. Text from a command line may spell a number in
    any way Python reads; in a file YAML has typed it already and a text stays a text."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value is False:
            value = "off"  # which is how YAML 1.1 reads the word
        if isinstance(value, str) and value in typing.get_args(hint):
            return value
        raise TypeError
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(h for h in typing.get_args(hint) if h is not types.NoneType), from_text)
    if origin is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list) or (Ellipsis not in inner and len(value) != len(inner)):
            raise TypeError
        return tuple(_convert(v, inner[0], from_text) for v in value)
    if hint is float and from_text and isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 takes 5e-4 for a text; on a command line everything is text
        except ValueError:
            raise TypeError from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise TypeError from None
    if type(value) is not hint or (hint is float and not math.isfinite(value)) or (hint is str and "\0" in value):
        raise TypeError
    return value


_types = functools.cache(typing.get_type_hints)  # of a section's keys


@functools.cache
def _specs(section: type) -> dict[str, Mapping[str, Any]]:
    return {f.name: f.metadata for f in fields(section)}


def read_value(section: type, name: str, given: Given, path: str) -> Any:
    """The value of one key, converted and checked against its type and range."""
    hint = _types(section)[name]
    from_text = given.where == "--set"
    try:
        value = _convert(given.value, hint, from_text)
    except TypeError:
        hint_text = _describe(hint)
        advice = ""
        if hint is float and isinstance(given.value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", given.value):
            mantissa, exponent = re.split("[eE]", given.value)
            advice = f" (YAML reads {given.value} as text: write {mantissa}.0e{exponent})"
        elif typing.get_origin(hint) is Literal:
            advice = nearest(given.value, typing.get_args(hint))
        fail_at(given, path, f"got {shown(given.value)}, allowed is {hint_text}{advice}")
    spec = _specs(section)[name]
    low, high = spec.get("low"), spec.get("high")
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or isinstance(number, str):
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            fail_at(given, path, f"got {shown(given.value)}, allowed is {bounds}")
    return value


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error rather than a silent overwrite, and in which nothing refers to
    something else: what is read is as large as it was written."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            problem = f"*{event.anchor} refers to another place, which recipes cannot: write the value out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                problem = f"key {shown(key_node.value)} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, where: str) -> Any:
    """Plain data from YAML; a syntax error becomes one sentence that names `where` and the line."""
    try:
        content = yaml.load(text, _PlainLoader)
        # refuses numbers of thousands of digits, endless nesting, and characters that no file can hold
        json.dumps(content, default=str, ensure_ascii=False).encode()
        return content
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, LookupError, AttributeError) as error:
        # PyYAML's constructors raise the others: impossible dates and numbers, keys that are lists, `!!bool x`, `!!int ""`
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        said = (getattr(error, "context", None), getattr(error, "problem", None))
        problem = ", ".join(part for part in said if part) or str(error).partition("\n")[0] or type(error).__name__
        problem = "nested too deep" if isinstance(error, RecursionError) else problem
        raise RecipeError(f"{where}{line}: not valid YAML: {problem}") from None


def parse_set(assignments: Sequence[str]) -> dict[str, Given]:
    """`--set key.path=value` arguments as {key path: value}; values are read as YAML, then by the type of their key."""
    out = {}
    for text in assignments:
        path, sep, value = text.partition("=")
        if not sep or not path.strip():
            raise RecipeError(f"--set {shown(text)}: must be key.path=value, as in --set train.epochs=2")
        out[path.strip()] = Given(read_yaml(value, f"--set {shown(path)}") if value else "", "--set")
    return out


def flatten(content: Any, where: str, allowed: Sequence[str], prefix: str = "") -> dict[str, Given]:
    """{"train.epochs": Given} from a nested mapping; unknown sections and keys are refused here."""
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: {prefix.rstrip('.') or 'the file'} must hold keys, got {shown(content)}")
    out = {}
    for name, value in content.items():
        path = f"{prefix}{name}"
        if not isinstance(name, str) or "." in name:
            raise RecipeError(f"{where}: {prefix}{shown(name)} is no key: write a: {{b: 1}} for a.b")
        if not prefix and name not in allowed:
            raise RecipeError(f"{where}: {path} is no section here; allowed: {', '.join(allowed)}{nearest(name, allowed)}")
        if isinstance(value, Mapping) or (not prefix and name in SECTIONS):
            out.update(flatten(value, where, allowed, path + "."))
        else:
            out[path] = Given(value, where)
    return out


def check_known(path: str, given: Given) -> None:
    """Refuse a key path that no recipe has."""
    inner = path.removeprefix("guide.")
    section, _, name = inner.partition(".")
    if path != inner and (section == "guidance" or inner in ("data.name", "model.role")):
        fail_at(given, path, "is no key of a guide, which is not guided itself and shares the student's dataset")
    own_data = (*GUIDES_OWN_DATA, "train_limit")
    if path != inner and section == "data" and name not in own_data and name in [f.name for f in fields(Data)]:
        fail_at(given, path, f"is no key of a guide, which sees what its student sees; its own: {', '.join(own_data)}")
    if inner in ("seed", "select"):  # which of the two a recipe on its own may set, `compose` decides
        return
    if section in SECTIONS and name in (known := [f.name for f in fields(SECTIONS[section])]):
        return
    prefix = path[: len(path) - len(inner)]
    if section in SECTIONS:
        given_as = f"{prefix}{section}.{name}" if name else f"{prefix}{section}"
        fail_at(given, given_as, f"is no key; allowed under {section}: {', '.join(known)}{nearest(name, known)}")
    every = [f"{s}.{f.name}" for s, c in SECTIONS.items() for f in fields(c)] + (["seed", "select"] if prefix else [])
    sections = ", ".join([*SECTIONS, "guide"] if not prefix else [*SECTIONS, "seed", "select"])
    fail_at(given, path, f"is no key; it must lie under {sections}{nearest(inner, every)}")


def read_file(path: Path, where: str) -> Mapping[str, Any]:
    if path.exists() and not path.is_file():  # a folder, or a pipe or a device, which may never end
        raise RecipeError(f"{where}: is no plain file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}: cannot be read: {error}") from None
    content = read_yaml(text, where)
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: must hold keys, got {shown(content)}")
    return content

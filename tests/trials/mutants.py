"""Damaged copies of the shipped recipe files, for mutated_recipes.py."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from bench.config.methods import params_class
from bench.config.registry import shipped_recipes
from bench.config.schema import SECTIONS, Schedule, TeacherPass
from tests.helpers.hostile import YAML_VALUES

# Files whose recipes are small are damaged more often, since those that are accepted can be run.
SMALL = ["models/deit_micro", "models/resnet8", "datasets/digits", "guidance/guided", "protocols/quick", "suites/quick"]
SHIPPED = sorted(
    path.relative_to(shipped_recipes()).with_suffix("").as_posix() for path in shipped_recipes().glob("*/*.yaml")
)
CLASSES = {  # the dataclass of each section of keys
    **SECTIONS,
    "params": params_class("locality"),
    "schedule": Schedule,
    "teacher": TeacherPass,
}
TYPOS = ["", "x", "_", " ", ".", "s", "é", "\\0", "\\n"]
ODD_BYTES = [
    b"\0",
    b"\xff",
    b"\t",
    b"\r",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\xed\xa0\x80",
    b"\x1b[31m",
    b"%",
    b"@",
    b"`",
    b"&a ",
    b"*a ",
]
HOLE = "@@"  # where a value, as YAML, is put into the file's JSON


@dataclass
class Mutant:
    """A damaged file in a recipes folder of its own.

    content: of the file; empty if it is not a plain file.
    """

    kind: str
    name: str
    path: Path
    content: bytes
    recipe_id: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}.yaml\n{self.content[:3000].decode('utf-8', 'replace')}"


def mutant(folder: Path, random: Random) -> Mutant:
    """A recipes folder with one damaged copy of a shipped file, under its own name or another."""
    kind, stem = random.choice(SMALL if random.random() < 0.8 else SHIPPED).split("/")
    name = stem if random.random() < 0.3 else "mutant"
    path = folder / kind / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    content = (shipped_recipes() / kind / f"{stem}.yaml").read_bytes()
    how = random.random()
    if how < 0.02:
        _make_no_file(path, random)
        content = b""
    else:
        if how < 0.8:
            content = _change_keys(kind, stem, random) or content
        if how >= 0.77:
            for _ in range(random.choice([1, 1, 2])):
                content = _damage_bytes(content, random)
        path.write_bytes(content)
    ids = {
        "models": f"{name}/digits" + ("" if stem.startswith("resnet") else random.choice(["/guided", "/baseline"])),
        "datasets": f"deit_micro/{name}/guided",
        "guidance": f"deit_micro/digits/{name}",
        "protocols": "deit_micro/digits/guided",
        "suites": "",
    }
    return Mutant(kind, name, path, content, ids[kind], name if kind == "protocols" else "quick")


@functools.cache
def _shipped(kind: str, stem: str) -> dict[str, Any]:
    return yaml.safe_load((shipped_recipes() / kind / f"{stem}.yaml").read_bytes())


def _change_keys(kind: str, stem: str, random: Random) -> bytes:
    """A shipped file after one to three changes of its keys and values."""
    content, out = copy.deepcopy(_shipped(kind, stem)), b""
    if kind == "suites" and random.random() < 0.5:
        teacher = {"train": {"epochs": 2}}
        content["set"] = {"train": {"epochs": 3, "lr": 0.1}, "model": {"depth": 2}, "teacher": teacher}
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        if any(_paths(content)):
            change = random.choice([_replace_value, _replace_value, _add_key, _add_key, _rename_key])
            value = change(content, random)
            # JSON is YAML in which a value can be replaced without regard to indentation
            text = json.dumps(content)
            out = text.replace(f'"{HOLE}"', value).encode("utf-8", "surrogatepass")
            content = json.loads(text.replace(f'"{HOLE}":', '"3":').replace(f'"{HOLE}"', "3"))
    return out


def _paths(content: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value in nested mappings."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield (*path, name)
            yield from _paths(value, (*path, name))


def _at(content: dict[str, Any], path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda inside, name: inside[name], path, content)


def _fields(section: str) -> list[str]:
    return [f.name for f in dataclasses.fields(CLASSES[section])] if section in CLASSES else []


def _replace_value(content: dict[str, Any], random: Random) -> str:
    path = random.choice(list(_paths(content)))
    _at(content, path[:-1])[path[-1]] = HOLE
    section, name = ("", *path)[-2:]
    return _plausible(section, name, random) if name in _fields(section) and random.random() < 0.5 else _any(random)


def _add_key(content: dict[str, Any], random: Random) -> str:
    """Add a key that recipes have and this file may not."""
    target, inner = content, content.get("set" if "seeds" in content else "teacher")
    if isinstance(inner, dict) and random.random() < 0.4:
        target = inner
    likely = [name for name in target if name in CLASSES] + (["train", "model"] if target is not content else [])
    section = random.choice(likely if likely and random.random() < 0.85 else list(CLASSES))
    if section in ("params", "schedule"):
        if not isinstance(target.setdefault("guidance", {}), dict):
            target["guidance"] = {}
        target = target["guidance"]
    if not isinstance(target.setdefault(section, {}), dict):
        target[section] = {}
    name = random.choice(_fields(section))
    target[section][name] = HOLE
    return _plausible(section, name, random) if random.random() < 0.8 else _any(random)


def _rename_key(content: dict[str, Any], random: Random) -> str:
    """Misspell a key, move it, or replace it by something that is not text."""
    *place, name = random.choice(list(_paths(content)))
    inside = _at(content, tuple(place))
    value, how, text = inside.pop(name), random.randrange(3), str(name)
    if how == 0:
        at = random.randrange(len(text) + 1)
        inside[text[:at] + random.choice(TYPOS) + text[at + 1 :]] = value
    elif how == 1:
        groups = [path for path in [(), *_paths(content)] if isinstance(_at(content, path), dict)]
        _at(content, random.choice(groups))[name] = value
    else:
        inside[HOLE] = value
    return _any(random)


def _any(random: Random) -> str:
    return random.choice(YAML_VALUES)


def _plausible(section: str, name: str, random: Random) -> str:
    """A value of a key's type, often at the end of its range, as YAML."""
    cls = CLASSES[section]
    metadata = next(f.metadata for f in dataclasses.fields(cls) if f.name == name)
    hint = typing.get_type_hints(cls)[name]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    numbers = [n for n in (metadata.get("low"), metadata.get("high"), 0, 1, 2, 3, 4, 8, 16, 32) if n is not None]
    if typing.get_origin(hint) is typing.Literal:
        return random.choice(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        modules = ["blocks.0", "blocks.5", "norm", "head", "stages.0", "stages.2", "conv", "patch_embed", ""]
        values = modules if str in typing.get_args(hint) else numbers
        return json.dumps([random.choice(values) for _ in range(random.choice([2, 3, 3]))])
    if hint is bool:
        return random.choice(["true", "false"])
    if hint is str:
        return random.choice(
            ["vit", "deit_tiny_patch16_224", "resnet18", "digits", "label", "train", "locality", "a+b", "x"]
        )
    return str(random.choice(numbers) + (random.choice([0, 0, 0, -1, 1]) if hint is int else random.choice([0.0, 0.25])))


def _damage_bytes(content: bytes, random: Random) -> bytes:
    """A file that is cut short, has bytes too many or too few, or is encoded differently."""
    place, other = (random.randrange(len(content) + 1) for _ in range(2))
    lines = content.splitlines(keepends=True)
    line = random.randrange(len(lines)) if lines else 0
    text = content.decode("utf-8", "replace")
    before, after = lines[:line], lines[line:]
    return random.choice(
        [
            content[:place],
            content[:place] + random.randbytes(random.randrange(1, 5)) + content[place:],
            content[:place] + random.choice(ODD_BYTES) + content[place:],
            content[: min(place, other)] + content[max(place, other) :],
            b"".join([*before, *after[1:]]),
            b"".join([*before, *after[:1], *after]),
            b"".join([*before, b"\t", *after]),
            b"".join([*before, b"  ", *after]),
            b"\xef\xbb\xbf" + content,
            text.encode("utf-16"),
            text.encode("utf-32"),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"  ", b"\t"),
            content + b"\n---\n" + content,
            b"%YAML 9.9\n---\n" + content,
            b"- " * random.randrange(1, 2000) + content,
            b"# " + b"x" * 200_000 + b"\n" + content,
            content + content,
            random.randbytes(200),
            *(b"", b"\n\n# nothing\n", b"---\n...\n", b"just a text", b"[1, 2]"),
        ]
    )


def _make_no_file(path: Path, random: Random) -> None:
    """Put something that is not a plain file under a recipe file's name."""
    how = random.randrange(5)
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    else:
        path.symlink_to({2: path.with_name("nowhere.yaml"), 3: path.name, 4: "/dev/zero"}[how])

"""Damaged copies of the shipped recipe files, for mutated_recipes.py."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from bench.config.registry import shipped_recipes
from tests.helpers.hostile import YAML_VALUES

# Files whose recipes are small are damaged more often, since those that are accepted can be run.
SMALL = ["models/deit_micro", "models/resnet8", "datasets/digits", "guidance/guided", "protocols/quick", "suites/quick"]
CONTENTS = {
    path.relative_to(shipped_recipes()).with_suffix("").as_posix(): yaml.safe_load(path.read_bytes())
    for path in sorted(shipped_recipes().glob("*/*.yaml"))
}
NAMES = [
    "blocks.0",
    "blocks.5",
    "norm",
    "stages.0",
    "conv",
    "vit",
    "deit_tiny_patch16_224",
    "digits",
    "locality",
    "train",
    "",
]
NUMBERS = [-1, 0, 1, 2, 3, 4, 8, 16, 32, 128, 0.0, 0.25, 0.5, 1.0, 0.999999]
TYPOS = ["", "x", "_", " ", ".", "s", "é", "\\0", "\\n"]
ODD_BYTES = ["\0", "\t", "\r", "\x85", "\u2028", "\x1b[31m", "%", "@", "`", "&a ", "*a "]
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
    kind, stem = random.choice(SMALL if random.random() < 0.8 else list(CONTENTS)).split("/")
    name = stem if random.random() < 0.3 else "mutant"
    path = folder / kind / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    content, how = b"", random.random()
    if how < 0.02:
        _make_no_file(path, random)
    else:
        content = (shipped_recipes() / kind / f"{stem}.yaml").read_bytes()
        if how < 0.8:
            content = _change_keys(f"{kind}/{stem}", random)
        if how > 0.77:
            content = _damage_bytes(content, random)
        path.write_bytes(content)
    method = random.choice(["/guided", "/baseline"])
    ids = {
        "models": f"{name}/digits{'' if stem.startswith('resnet') else method}",
        "datasets": f"deit_micro/{name}/guided",
        "guidance": f"deit_micro/digits/{name}",
        "protocols": "deit_micro/digits/guided",
        "suites": "",
    }
    return Mutant(kind, name, path, content, ids[kind], name if kind == "protocols" else "quick")


def paths(content: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value in nested mappings."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield (*path, name)
            yield from paths(value, (*path, name))


def _at(content: dict[str, Any], path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda inside, name: inside[name], path, content)


# {(section, key): a value} of recipe files
KEYS = {path[-2:]: _at(content, path) for content in CONTENTS.values() for path in paths(content) if len(path) > 1}


def _change_keys(file: str, random: Random) -> bytes:
    """A shipped file after one to three changes of its keys and values."""
    content = copy.deepcopy(CONTENTS[file])
    if file.startswith("suites/") and random.random() < 0.5:
        content["set"] = {"train": {"epochs": 3, "lr": 0.1}, "model": {"depth": 2}, "teacher": {"train": {"epochs": 2}}}
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        *place, name = random.choice(list(paths(content)))
        inside, how = _at(content, tuple(place)), random.randrange(5)
        value = random.choice(YAML_VALUES)
        if how <= 1:  # another value
            value = _like(inside[name], random) if random.random() < 0.5 else value
            inside[name] = HOLE
        elif how <= 3:  # another key, which may not be allowed here
            (section, key), example = random.choice(list(KEYS.items()))
            inside = content if section in content or random.random() < 0.5 else inside
            if not isinstance(inside.setdefault(section, {}), dict):
                inside[section] = {}
            inside[section][key] = HOLE
            value = _like(example, random) if random.random() < 0.8 else value
        else:  # a misspelt key, or something that is not text
            moved, at = inside.pop(name), random.randrange(len(str(name)) + 1)
            typo = str(name)[:at] + random.choice(TYPOS) + str(name)[at + 1 :]
            inside[random.choice([typo, HOLE])] = moved
        # JSON is YAML in which a value can be replaced without regard to indentation
        text = json.dumps(content)
        out = text.replace(f'"{HOLE}"', value).encode("utf-8", "surrogatepass")
        content = json.loads(text.replace(f'"{HOLE}":', '"3":').replace(f'"{HOLE}"', "3"))
    return out


def _like(value: object, random: Random) -> str:
    """A value of the same type, as YAML."""
    if isinstance(value, list) and value:
        return "[" + ", ".join(_like(value[0], random) for _ in range(random.choice([2, 3, 3]))) + "]"
    same = [True, False] if isinstance(value, bool) else NAMES if isinstance(value, str) else NUMBERS
    return json.dumps(random.choice([value, *(other for other in same if type(other) is type(value))]))


def _damage_bytes(content: bytes, random: Random) -> bytes:
    """A file that is cut short, has bytes too many or too few, or is encoded differently."""
    first, last = sorted(random.randrange(len(content) + 1) for _ in range(2))
    lines = content.splitlines(keepends=True)
    line = random.randrange(len(lines)) if lines else 0
    text = content.decode("utf-8", "replace")
    odd = random.choice([random.randbytes(4), b"\xff", b"\xed\xa0\x80", random.choice(ODD_BYTES).encode()])
    return random.choice(
        [
            content[:first],
            content[:first] + content[last:],
            content[:first] + odd + content[first:],
            b"".join([*lines[:line], *lines[line + 1 :]]),
            b"".join([*lines[:line], random.choice([b"\t", b"  "]), *lines[line:]]),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"  ", b"\t"),
            text.encode(random.choice(["utf-8-sig", "utf-16", "utf-32"])),
            random.choice([b"\n---\n", b"%YAML 9.9\n---\n", b"- " * 1000, b""]).join([content] * 2),
            random.choice([random.randbytes(200), b"", b"\n\n# nothing\n", b"---\n...\n", b"just a text", b"[1, 2]"]),
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

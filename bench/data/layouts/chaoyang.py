"""Chaoyang as its authors distribute it: `train.json` and `test.json`, lists of {"name", "label"}, beside the images or in
`json/` (Zhu et al., IEEE TMI 2021)."""

from __future__ import annotations

import json

from bench.config.schema import Data, RecipeError
from bench.data.files import Contents, Files, Item

CLASSES = ("normal", "serrated", "adenocarcinoma", "adenoma")


def read(files: Files, data: Data) -> Contents:
    """The official splits."""
    root = files.root_of("train.json", "test.json")
    # Names in lists in json/ are relative to the folder above it.
    base = root.removesuffix("json/") if root.split("/")[-2:-1] == ["json"] else root
    return Contents(*(_items(files, f"{root}{split}.json", base) for split in ("train", "test")), CLASSES)


def _items(files: Files, listed_in: str, base: str) -> list[Item]:
    try:
        entries = [(str(entry["name"]), entry["label"]) for entry in json.loads(files.read(listed_in))]
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f'{files}: {listed_in} is not a list of {{"name", "label"}}: {error!r}') from error
    for name, label in entries:
        if base + name not in files:
            raise RecipeError(f"{files}: {listed_in} names {name!r}, which is not there")
        if type(label) is not int or not 0 <= label < len(CLASSES):
            raise RecipeError(f"{files}: {listed_in}: the label of {name!r} is {label!r}, not 0 to {len(CLASSES) - 1}")
    return files.items(((base + name, label) for name, label in entries))

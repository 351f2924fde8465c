"""Suites: which recipes are compared, with which seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.config.parse import SourcedValue, check_known, flatten, nearest, short_repr
from bench.config.schema import LAYER_SECTIONS, RecipeError

KEYS = ("protocol", "models", "datasets", "guidance", "seeds", "set")


@dataclass(frozen=True)
class Suite:
    """A set of recipes to compare: students x datasets x guidance methods, with seeds, under one protocol.

    overrides: (key, value) pairs that override the protocol.
    """

    name: str
    protocol: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    guidance: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[tuple[str, SourcedValue], ...] = ()

    @property
    def ids(self) -> list[str]:
        """The recipe ids; those of one student and dataset are neighbours."""
        return ["/".join(parts) for parts in itertools.product(self.models, self.datasets, self.guidance)]


def read_suite(name: str, content: Mapping[str, Any], where: str) -> Suite:
    """A suite from the content of its file. Whether the names in it exist is left to the registry.

    Args:
        where: the file, for errors.

    Raises:
        RecipeError: a key is unknown, missing or of a wrong type.
    """
    for entry in content:
        if entry not in KEYS:
            raise RecipeError(
                f"{where}: {short_repr(entry)} is not a key; allowed: {', '.join(KEYS)}{nearest(entry, KEYS)}"
            )
    lists = {}
    for entry, kind in (("models", str), ("datasets", str), ("guidance", str), ("seeds", int)):
        value = content.get(entry)
        if not isinstance(value, list) or not value or any(type(v) is not kind for v in value):
            allowed = "whole numbers" if kind is int else "names"
            raise RecipeError(f"{where}: {entry}: got {short_repr(value)}, allowed is a list of {allowed}")
        if len(set(value)) < len(value):
            raise RecipeError(f"{where}: {entry}: got {short_repr(value)}, in which one occurs twice")
        lists[entry] = tuple(value)
    if not all(0 <= seed < 2**63 for seed in lists["seeds"]):
        raise RecipeError(f"{where}: seeds: got {short_repr(content['seeds'])}, allowed are numbers from 0 to 2**63 - 1")
    if not isinstance(protocol := content.get("protocol"), str):
        raise RecipeError(f"{where}: protocol: got {short_repr(protocol)}, allowed is a name")
    overrides = flatten(content.get("set", {}), where, LAYER_SECTIONS["suites"])
    for path, given in overrides.items():
        check_known(path, given)
    return Suite(name, protocol, **lists, overrides=tuple(overrides.items()))

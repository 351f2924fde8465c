"""The numerics versions of the components that a recipe uses, so that a record made by other mathematics is recognised.

A component is `train`, `data`, a model family (`models.vit`) or a guidance method (`guidance.kd`). Its version is the line
`NUMERICS = 1` in its file. Raise it in the commit that changes results: other mathematics, other random numbers, or another
default of something that no hash covers. Never raise it for refactoring: all records of the component become stale.

What all runs share counts as `train`: bench/rng.py, and in bench/models and bench/guidance what is of no single family or
method. tests/train/test_golden.py fails if results change and no version does.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from bench.config.plugins import PACKAGE
from bench.config.schema import Recipe

NOT_HERE = "not here"  # the version of a user's own file that a record names


def numerics_versions(recipe: Recipe) -> dict[str, object]:
    """{component: version} of all components that a run of a recipe uses, those of its teacher included.

    A version is a whole number. For a user's own file, or a file without a line `NUMERICS = …`, it is "sha256:" and the
    digest of the source. It is NOT_HERE if the file is missing.
    """
    own = {f"{plugin.kind}.{plugin.name}": plugin.digest for plugin in recipe.plugins}
    return {name: own.get(name) or _version(component_file(name)) for name in components(recipe)}


def differences(then: Mapping[str, object], now: Mapping[str, object], words: str = "now") -> list[str]:
    """The components with other versions, as "guidance.kd 1, now 2"; without those whose file is not here now."""
    names = [name for name in {**now, **then} if now.get(name) not in (then.get(name), NOT_HERE)]
    return [f"{name} {_short(then.get(name))}, {words} {_short(now.get(name))}" for name in names]


def components(recipe: Recipe) -> list[str]:
    """The components that a run of a recipe uses, each once."""
    names = ["train", "data", f"models.{recipe.model.builder}"]
    if recipe.guidance is not None:
        names += [f"guidance.{method}" for method in recipe.guidance.method.split("+")]
    if recipe.teacher is not None:
        names += components(recipe.teacher)
    return list(dict.fromkeys(names))


def component_file(component: str) -> Path:
    """The file that has a component's version."""
    path = PACKAGE.joinpath(*component.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _short(version: object) -> str:
    return "none" if version is None else str(version)[:15]  # of a digest the beginning


@functools.cache  # the version of the code that this process has imported, or is about to
def _version(path: Path) -> int | str:
    if not path.is_file():
        return NOT_HERE
    source = path.read_bytes()
    if found := re.search(rb"^NUMERICS = (\d+)\b", source, re.MULTILINE):
        return int(found[1])
    return f"sha256:{hashlib.sha256(source).hexdigest()}"

"""The parameters of guidance methods, read without importing torch.

A method is one file, bench/guidance/METHOD.py. Its class `Params` says which parameters it has. The file imports torch,
and composing a recipe must not, since listing and planning have to answer at once. So the class is read from the source.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from bench.config.schema import MethodParams, key

PACKAGE = Path(__file__).parents[1] / "guidance"
# the names that a class `Params` may use, beside Python's built-in ones
NAMES = {"ClassVar": ClassVar, "Literal": Literal, "MethodParams": MethodParams, "dataclass": dataclass, "key": key}


def method_names() -> list[str]:
    """The guidance methods that a recipe can name."""
    return modules_defining("build", PACKAGE)


@functools.cache
def modules_defining(function: str, package: Path) -> list[str]:
    """The modules in a folder that define a function: the models, methods or layouts that a recipe can name."""
    return sorted(p.stem for p in package.glob("*.py") if f"\ndef {function}(" in p.read_text(encoding="utf-8"))


@functools.cache
def params_class(method: str) -> type[MethodParams]:
    """The class `Params` of a guidance method, one of `method_names()`."""
    path = PACKAGE / f"{method}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Params"]
    future = ast.parse("from __future__ import annotations").body  # annotations stay text and are read in this module
    namespace = {**NAMES, "__name__": __name__}
    exec(compile(ast.Module(future + found, []), str(path), "exec"), namespace)
    params = namespace["Params"]
    params.__reduce__ = lambda self: (_make_params, (method, vars(self)))  # pickle finds no class by this name
    return params


def _make_params(method: str, values: dict[str, object]) -> MethodParams:
    return params_class(method)(**values)

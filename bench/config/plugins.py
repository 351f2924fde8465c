"""The user's own methods and builders: Python files beside the recipes in a folder that `--recipes-dir` names.

    DIR/guidance/NAME.py    a guidance method, as a file in bench/guidance
    DIR/models/NAME.py      a builder of networks, as a file in bench/models

Composing a recipe reads such a file and does not run it, but for its class `Params`. `load` runs it, when a network or a
method is built.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType

from bench.config.params import Plugin
from bench.config.parse import read_text
from bench.config.schema import RecipeError
from bench.storage import first_line

PACKAGE = Path(__file__).parents[1]
KINDS = {"guidance": "method", "models": "builder"}
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"  # + joins methods, and modules of torch have no "."
MARK = "__plugin__"  # a global of the code of plug-ins, by which a traceback shows them
PluginFiles = Mapping[tuple[str, str], Path]  # {(kind, name): file}
NO_PLUGINS: PluginFiles = MappingProxyType({})


@functools.cache
def modules_defining(function: str, package: Path) -> list[str]:
    """The modules in a folder that define a function: the models, methods or layouts that a recipe can name."""
    return sorted(p.stem for p in package.glob("*.py") if f"\ndef {function}(" in p.read_text(encoding="utf-8"))


def find_plugins(folder: Path) -> dict[tuple[str, str], Path]:
    """The plug-ins in a folder. Raises RecipeError if one has the name of a method or builder of the suite."""
    found = {}
    for kind, noun in KINDS.items():
        taken = [*modules_defining("build", PACKAGE / kind), "none"]
        for path in sorted((folder / kind).glob("*.py")):
            if path.stem in taken:
                raise RecipeError(f"{path}: {path.stem} is the name of a {noun} of the suite: rename the file")
            if re.fullmatch(NAME, path.stem):
                found[kind, path.stem] = path
    return found


def read_plugin(kind: str, name: str, path: Path) -> Plugin:
    """A plug-in from its file, which is not run. Raises RecipeError if it is not Python, or has no function `build`."""
    source = read_text(path, str(path))
    try:
        compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f" line {error.lineno}" if error.lineno else ""
        raise RecipeError(f"{path}{line}: not valid Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f"{path}: cannot be read: {first_line(error)}") from None
    body = ast.parse(source).body
    if not any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in body):
        raise RecipeError(f"{path}: has no function build, which a {KINDS[kind]} needs")
    return Plugin(kind, name, path, source)


def absent(key: str, name: str) -> RecipeError:
    """The error for a recipe whose method or builder `name` is a plug-in that is not here. key: the key that names it."""
    return RecipeError(
        f"{key}: {name} is a plug-in whose file is not here: give its folder with --recipes-dir (in Python: recipes_dir)"
    )


@functools.cache
def load(plugin: Plugin) -> ModuleType:
    """Run a plug-in and return it as a module. Raises RecipeError for whatever it raises.

    What is run is the text whose digest is recorded, not the file, which may have changed since.
    """
    module = ModuleType(f"{MARK}.{plugin.kind}.{plugin.name}.{plugin.digest[-8:]}")
    module.__file__ = str(plugin.path)
    setattr(module, MARK, plugin)
    sys.modules[module.__name__] = module  # dataclasses and torch look for it there
    with explained(plugin):
        exec(compile(plugin.source, str(plugin.path), "exec", dont_inherit=True), vars(module))
    return module


@contextmanager
def explained(plugin: Plugin | None) -> Iterator[None]:
    """Turn any error of a plug-in into one sentence with its file and line; None: errors stay as they are."""
    try:
        yield
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        if plugin is None:
            raise
        raise RecipeError(f"{place(error) or plugin.path}: {type(error).__name__}: {first_line(error)}") from error


def place_of(function: Callable[..., object], plugin: Plugin) -> str:
    """The file and line of a function of a plug-in."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{plugin.path} line {code.co_firstlineno}" if code is not None else str(plugin.path)


def place(error: BaseException) -> str | None:
    """The file and line of a plug-in where an error came from; None for errors that did not pass through one."""
    found, traceback = None, error.__traceback__
    while traceback is not None:
        if MARK in traceback.tb_frame.f_globals:
            found = f"{traceback.tb_frame.f_code.co_filename} line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found

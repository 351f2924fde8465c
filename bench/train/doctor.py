"""The verb `doctor`: what this machine has, what is wrong, and whether a recipe or a suite can run on it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch
from packaging.requirements import Requirement

from bench.cli import DONE, PROBLEMS, add_folders, add_settings
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError, Train
from bench.cores import available_cores
from bench.data.sources import locate, missing
from bench.data.store import state
from bench.locks import cache_folder
from bench.train.launch import check_launch, choose_device, choose_precision
from bench.train.preflight import check_recipe

MIN_FREE_GIB = 5  # decoded CIFAR-100 and a dozen runs need less, Flowers-102 needs more
HOW_TO_CHOOSE = {"cache": " with LOCALITY_BENCH_CACHE", "results": " with --results-dir"}
INSTALL = "pip install -c constraints.txt -e ."


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """The options of `doctor`."""
    parser.add_argument("what", nargs="?", metavar="RECIPE or SUITE", help="exit code 1 if it cannot run here")
    add_settings(parser)
    add_folders(parser)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print what there is, and problems with their remedies on stderr."""
    registry = Registry(*arguments.recipes_dir)
    what, recipes = arguments.what, []
    if what is not None and "/" in what:
        recipes = [registry.compose(what, arguments.protocol, arguments.set)]
    elif what is not None:
        suite = registry.suite(what)
        recipes = [registry.compose(recipe_id, suite=suite) for recipe_id in suite.ids]
    lines, problems = examine(registry, recipes, arguments.data_dir or "data", arguments.results_dir)
    print("\n".join(lines))
    for problem in problems:
        print(problem, file=sys.stderr)
    return PROBLEMS if problems else DONE


def examine(
    registry: Registry, recipes: Sequence[Recipe], data_dir: str | Path, results: str | Path
) -> tuple[list[str], list[str]]:
    """Look at libraries, devices, processes, folders and datasets, and at what the recipes need of them.

    Args:
        recipes: those to run here; with none, only the machine is examined.

    Returns:
        (what there is, problems with their remedies), in sentences.
    """
    lines, problems = _libraries()
    for found, wrong in (_devices(), _folders(data_dir, results)):
        lines += found
        problems += wrong
    datasets = (f"{name} ({state(registry.dataset(name), data_dir)})" for name in registry.names("datasets"))
    lines += [f"datasets here: {', '.join(datasets)}", f"trained teachers: {', '.join(_teachers()) or 'none'}"]
    problems += dict.fromkeys(problem for recipe in recipes for problem in _problems(recipe, data_dir))
    if recipes:
        lines.append(f"{len(recipes)} recipe{'s' if len(recipes) > 1 else ''} examined")
    return lines, problems


def _libraries() -> tuple[list[str], list[str]]:
    lines = [f"python {sys.version.split()[0]}"]
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():  # a checkout
        texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        texts = importlib.metadata.requires("locality-bench") or []
    required = [requirement for requirement in map(Requirement, texts) if requirement.marker is None]  # without extras
    problems = []
    for requirement in required:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing: {INSTALL}")
            continue
        lines[0] += f", {requirement.name} {version}"
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} {version} is not {requirement.specifier}: {INSTALL}")
    return lines, problems


def _devices() -> tuple[list[str], list[str]]:
    lines, problems = [], []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        lines.append(f"GPU {i}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not lines:
        lines.append(f"no GPU; {len(available_cores())} CPU cores")
    try:
        device = choose_device(Train())
        precision = choose_precision(Train(), device).used
        lines.append(f"runs go to {device} in {precision} (train.device and train.precision: auto)")
        lines.append(f"{check_launch()} process(es) as launched")
    except RecipeError as error:
        problems.append(str(error))
    return lines, problems


def _folders(data_dir: str | Path, results: str | Path) -> tuple[list[str], list[str]]:
    lines, problems = [], []
    for what, folder, writes in (("cache", cache_folder(), True), ("results", results, True), ("data", data_dir, False)):
        folder = Path(folder)
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        lines.append(f"{what} folder {folder}{'' if folder.exists() else ' (does not exist yet)'}: {free:,.0f} GiB free")
        remedy = f"choose another{HOW_TO_CHOOSE[what]}" if writes else ""
        if writes and not os.access(existing, os.W_OK):
            problems.append(f"the {what} folder {folder} cannot be written: {remedy}")
        elif writes and free < MIN_FREE_GIB:
            problems.append(f"the {what} folder {folder} has {free:.1f} GiB left: free some space, or {remedy}")
    return lines, problems


def _teachers() -> list[str]:
    found = sorted((cache_folder() / "teachers").glob("*/record.json"))
    return [re.sub(r"-[0-9a-f]{16}$", "", path.parent.name) for path in found]


def _problems(recipe: Recipe, data_dir: str | Path) -> list[str]:
    """Why a recipe cannot run here."""
    problems = []
    try:
        check_recipe(recipe, None)
    except RecipeError as error:
        problems.append(f"{recipe.id}: {error}")
    if locate(recipe.data, data_dir) is None and recipe.data.source == "files":
        problems.append(missing(recipe.data, data_dir))
    return problems

"""The verb `doctor`: what this machine has, what is wrong, and whether a recipe or a suite can run on it.

What needs torch is imported and said last, since the import takes seconds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from bench.cli import DONE, PROBLEMS, add_folders, add_selection, count, selected_suites
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError, Train
from bench.cores import available_cores
from bench.data.preflight import Preflight, data_folder
from bench.data.sources import MissingDataset
from bench.data.store import state
from bench.locks import cache_folder
from bench.packages import INSTALL

MIN_FREE_GIB = 5  # decoded CIFAR-100 and a dozen runs need less, Flowers-102 needs more


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """The options of `doctor`."""
    add_selection(parser)
    add_folders(parser)


class Problem(str):
    """A sentence of what is wrong, with the remedy; other sentences say what there is."""


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print what there is, and problems with their remedies on stderr, each as soon as it is found."""
    registry, data_dir = Registry(*arguments.recipes_dir), data_folder(arguments.data_dir)
    asks = arguments.what or arguments.set or arguments.protocol or arguments.suite or arguments.reference
    suites = selected_suites(arguments, registry) if asks else []
    recipes = list(dict.fromkeys(recipe for suite in suites for _, recipe in registry.suite_recipes(suite)))
    said: set[str] = set()
    has_problems = False
    for sentence in _sentences(registry, recipes, data_dir, arguments.results_dir):
        if sentence not in said:
            said.add(sentence)
            is_problem = isinstance(sentence, Problem)
            has_problems |= is_problem
            print(sentence, file=sys.stderr if is_problem else sys.stdout, flush=True)
    if recipes:
        print(f"{count(len(recipes), 'recipe')} examined: {'see the problems' if has_problems else 'no problem found'}")
    return PROBLEMS if has_problems else DONE


def _sentences(registry: Registry, recipes: Sequence[Recipe], data_dir: Path, results: str) -> Iterator[str]:
    preflight, world = Preflight(data_dir), int(os.environ.get("WORLD_SIZE", "1"))
    for recipe in recipes:
        if (error := preflight.problem(recipe, world)) is not None:
            yield Problem(error if isinstance(error, MissingDataset) else f"{recipe.id}: {error}")
    yield from preflight.downloads.values()
    yield from _libraries()
    yield from _folders(data_dir, results)
    yield from _contents(registry, recipes, data_dir)
    yield from _devices(recipes)
    check_recipe = importlib.import_module("bench.train.preflight").check_recipe
    for recipe in recipes:
        try:
            check_recipe(recipe, None)
        except RecipeError as error:
            yield Problem(f"{recipe.id}: {error}")


def _libraries() -> Iterator[str]:
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():  # a checkout
        texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        texts = importlib.metadata.requires("locality-bench") or []
    required = [requirement for requirement in map(Requirement, texts) if requirement.marker is None]  # without extras
    versions = [f"python {sys.version.split()[0]}"]
    for requirement in required:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Problem(f"{requirement.name} is missing: {INSTALL}")
            continue
        versions.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            yield Problem(f"{requirement.name} {version} is not {requirement.specifier}: {INSTALL}")
    yield ", ".join(versions)


def _devices(recipes: Sequence[Recipe]) -> Iterator[str]:
    """Devices, and what runs of these recipes use; without recipes, what the defaults of `train` use."""
    torch, launch = importlib.import_module("torch"), importlib.import_module("bench.train.launch")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield f"GPU {i}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        yield f"no GPU; {len(available_cores())} CPU cores"
    for train in [recipe.train for recipe in recipes] or [Train()]:
        try:
            device = launch.choose_device(train)
            precision, threads = launch.choose_precision(train, device).used, launch.choose_threads(train)
            processes, own = launch.check_launch(), "null" if train.threads is None else train.threads
            yield f"runs go to {device} in {precision} (train.device: {train.device}, train.precision: {train.precision})"
            yield f"{processes} process(es) as launched, with {threads} threads each (train.threads: {own})"
            if (note := launch.bf16_note(precision, device)) is not None:
                yield note
        except RecipeError as error:
            if not recipes:  # else check_recipe finds it, and it is printed with the id of the recipe
                yield Problem(error)


def _folders(data_dir: Path, results: str) -> Iterator[str]:
    for what, folder, remedy in (
        ("cache", cache_folder(), "choose another with LOCALITY_BENCH_CACHE"),
        ("results", Path(results), "choose another with --results-dir"),
        ("data", data_dir, None),  # is only read
    ):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        yield f"{what} folder {folder}{'' if folder.exists() else ' (does not exist yet)'}: {free:,.0f} GiB free"
        if remedy and not os.access(existing, os.W_OK):
            yield Problem(f"the {what} folder {folder} cannot be written: {remedy}")
        elif remedy and free < MIN_FREE_GIB:
            yield Problem(f"the {what} folder {folder} has {free:.1f} GiB left: free some space, or {remedy}")


def _contents(registry: Registry, recipes: Sequence[Recipe], data_dir: Path) -> Iterator[str]:
    """The datasets, those of the recipes too, and the trained teachers that are here."""
    datasets = {name: registry.dataset(name) for name in registry.names("datasets")}
    datasets |= {recipe.data.name: recipe.data for recipe in recipes}
    yield f"datasets here: {', '.join(f'{name} ({state(data, data_dir)})' for name, data in datasets.items())}"
    records = sorted((cache_folder() / "teachers").glob("*/record.json"))
    teachers = [re.sub(r"-[0-9a-f]{16}$", "", path.parent.name) for path in records]
    yield f"trained teachers: {', '.join(teachers) or 'none'}"

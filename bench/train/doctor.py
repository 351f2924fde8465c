"""The verb `doctor`: what this machine has, what is wrong, and whether a recipe or a suite can run on it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import torch
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
from bench.train.launch import check_launch, choose_device, choose_precision, choose_threads
from bench.train.preflight import check_recipe

MIN_FREE_GIB = 5  # decoded CIFAR-100 and a dozen runs need less, Flowers-102 needs more
HOW_TO_CHOOSE = {"cache": " with LOCALITY_BENCH_CACHE", "results": " with --results-dir"}


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """The options of `doctor`."""
    add_selection(parser)
    add_folders(parser)


class Problem(str):
    """A sentence of what is wrong, with the remedy; other sentences say what there is."""


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print what there is, and problems with their remedies on stderr."""
    registry, data_dir = Registry(*arguments.recipes_dir), data_folder(arguments.data_dir)
    suites = selected_suites(arguments, registry) if arguments.what else []
    recipes = [recipe for suite in suites for _, recipe in registry.suite_recipes(suite)]
    sentences = [*_libraries(), *_devices(), *_folders(data_dir, arguments.results_dir), *_contents(registry, data_dir)]
    preflight = Preflight(data_dir)
    sentences += dict.fromkeys(problem for recipe in recipes for problem in _problems(recipe, preflight))
    sentences += preflight.downloads.values()
    if recipes:
        sentences.append(f"{count(len(recipes), 'recipe')} examined: {_verdict(sentences)}")
    problems = [sentence for sentence in sentences if isinstance(sentence, Problem)]
    print("\n".join(sentence for sentence in sentences if not isinstance(sentence, Problem)))
    for problem in problems:
        print(problem, file=sys.stderr)
    return PROBLEMS if problems else DONE


def _verdict(sentences: list[str]) -> str:
    return "see the problems below" if any(isinstance(s, Problem) for s in sentences) else "no problem found"


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


def _devices() -> Iterator[str]:
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield f"GPU {i}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        yield f"no GPU; {len(available_cores())} CPU cores"
    try:
        device = choose_device(Train())
        precision = choose_precision(Train(), device).used
        yield f"runs go to {device} in {precision} (train.device and train.precision: auto)"
        yield f"{check_launch()} process(es) as launched, with {choose_threads(Train())} threads each (train.threads: null)"
    except RecipeError as error:
        yield Problem(error)


def _folders(data_dir: str | Path, results: str | Path) -> Iterator[str]:
    for what, folder, writes in (("cache", cache_folder(), True), ("results", results, True), ("data", data_dir, False)):
        folder = Path(folder)
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        yield f"{what} folder {folder}{'' if folder.exists() else ' (does not exist yet)'}: {free:,.0f} GiB free"
        remedy = f"choose another{HOW_TO_CHOOSE[what]}" if writes else ""
        if writes and not os.access(existing, os.W_OK):
            yield Problem(f"the {what} folder {folder} cannot be written: {remedy}")
        elif writes and free < MIN_FREE_GIB:
            yield Problem(f"the {what} folder {folder} has {free:.1f} GiB left: free some space, or {remedy}")


def _contents(registry: Registry, data_dir: str | Path) -> Iterator[str]:
    """The datasets and the trained teachers that are here."""
    datasets = (f"{name} ({state(registry.dataset(name), data_dir)})" for name in registry.names("datasets"))
    yield f"datasets here: {', '.join(datasets)}"
    records = sorted((cache_folder() / "teachers").glob("*/record.json"))
    teachers = [re.sub(r"-[0-9a-f]{16}$", "", path.parent.name) for path in records]
    yield f"trained teachers: {', '.join(teachers) or 'none'}"


def _problems(recipe: Recipe, preflight: Preflight) -> Iterator[Problem]:
    """Why a recipe cannot run here."""
    if (error := preflight.problem(recipe, int(os.environ.get("WORLD_SIZE", "1")))) is not None:
        yield Problem(error if isinstance(error, MissingDataset) else f"{recipe.id}: {error}")
    try:
        check_recipe(recipe, None)
    except RecipeError as other:
        if str(other) != str(error):
            yield Problem(f"{recipe.id}: {other}")

"""`python -m bench doctor`: what there is to run with, what is wrong, and whether a recipe or a suite can run here."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.cores import available_cores
from bench.data.inventory import state
from bench.data.sources import locate, missing
from bench.locks import cache_folder

LITTLE_DISK = 5  # GiB: decoded CIFAR-100 and a dozen runs take less, Flowers-102 takes more


def examine(
    registry: Registry, recipes: Sequence[Recipe], data_dir: str | Path, results: str | Path
) -> tuple[list[str], list[str]]:
    """Look at libraries, devices, processes, folders and datasets, and at what the recipes need of them.

    Args:
        recipes: those that are to run here; none of them: only the machine is looked at.

    Returns:
        (what there is, problems with their remedies), in sentences.
    """
    lines, problems = _libraries()
    for found, wrong in (_devices(), _folders(data_dir, results)):
        lines += found
        problems += wrong
    here = (f"{name} ({state(registry.dataset(name), data_dir)})" for name in registry.names("datasets"))
    lines += [f"datasets here: {', '.join(here)}", f"teachers: {', '.join(_teachers()) or 'none trained yet'}"]
    seen = set()
    for recipe in recipes:
        for problem in _needs(recipe, data_dir):
            if problem not in seen:
                seen.add(problem)
                problems.append(problem)
    if recipes:
        lines.append(f"{len(recipes)} recipe{'s' if len(recipes) > 1 else ''} looked at")
    return lines, problems


def _libraries() -> tuple[list[str], list[str]]:
    from packaging.requirements import Requirement

    lines = [f"python {sys.version.split()[0]}"]
    project = Path(__file__).parents[1] / "pyproject.toml"
    if project.is_file():  # a checkout, installed or not
        texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        texts = importlib.metadata.requires("locality-bench") or []
    wanted = [requirement for requirement in map(Requirement, texts) if requirement.marker is None]  # no optional sets
    problems = []
    for requirement in wanted:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing: pip install -c constraints.txt -e .")
            continue
        lines[0] += f", {requirement.name} {version}"
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(
                f"{requirement.name} {version} is not {requirement.specifier}: pip install -c constraints.txt -e ."
            )
    return lines, problems


def _devices() -> tuple[list[str], list[str]]:
    import torch

    from bench.config.schema import Train
    from bench.train.launch import check_launch, choose_device, choose_precision

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
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**30
        lines.append(f"{what} folder {folder}{'' if folder.exists() else ' (not there yet)'}: {free:,.0f} GiB free")
        if writes and not os.access(there, os.W_OK):
            problems.append(f"the {what} folder {folder} cannot be written: choose another{_HOW[what]}")
        elif writes and free < LITTLE_DISK:
            problems.append(f"the {what} folder {folder} has {free:.1f} GiB left: make room, or choose another{_HOW[what]}")
    return lines, problems


_HOW = {"cache": " with LOCALITY_BENCH_CACHE", "results": " with --results-dir"}


def _teachers() -> list[str]:
    found = sorted((cache_folder() / "teachers").glob("*/record.json"))
    return [re.sub(r"-[0-9a-f]{16}$", "", path.parent.name) for path in found]


def _needs(recipe: Recipe, data_dir: str | Path) -> list[str]:
    """What keeps a recipe from running here."""
    from bench.run import check_feasible

    problems = []
    try:
        check_feasible(recipe, None)
    except RecipeError as error:
        problems.append(f"{recipe.id}: {error}")
    if locate(recipe.data, data_dir) is None and recipe.data.source == "files":
        problems.append(missing(recipe.data, data_dir))
    return problems

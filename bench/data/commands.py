"""The verb `data`: list datasets, prepare one, check one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bench.cli import DONE, PROBLEMS, add_recipes_dir
from bench.config.registry import Registry
from bench.config.schema import Data, RecipeError
from bench.data.sources import find_or_fetch, locate, missing
from bench.data.store import check_counts, open_dataset, open_store, state, store_folder, survey
from bench.data.subsets import EVALUATED_ON, Images

ACTIONS = {
    "list": "every dataset: its size, licence and source, and whether it is here",
    "prepare": "fetch a dataset if it is not here, and decode it",
    "check": "read every image of a dataset that is here, count them, name those that cannot be read",
}
COLUMNS = ("dataset", "classes", "training", "test", "here", "comes from", "licence")
LISTED_FILES = 20  # of those left out


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The actions of `data` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in ACTIONS.items():
        options = actions.add_parser(action, help=text, description=text)
        if action != "list":
            options.add_argument("dataset", metavar="ID", help="as cifar100, folder:photos, hub:owner/name")
            options.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="as data.subset=20; may repeat"
            )
        options.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
        add_recipes_dir(options)


def run_data(arguments: argparse.Namespace) -> int:
    """List, prepare or check datasets. Exit code 1 if a check finds problems, which are printed on stderr."""
    registry = Registry(*arguments.recipes_dir)
    problems = []
    if arguments.action == "list":
        print(table(map(registry.dataset, registry.names("datasets")), arguments.data_dir))
    elif arguments.action == "prepare":
        print(*prepare(registry.dataset(arguments.dataset, arguments.set), arguments.data_dir), sep="\n")
    else:
        lines, problems = check(registry.dataset(arguments.dataset, arguments.set), arguments.data_dir)
        print(*lines, sep="\n")
    for problem in problems:
        print(problem, file=sys.stderr)
    return PROBLEMS if problems else DONE


def table(datasets: Iterable[Data], data_dir: str | Path) -> str:
    """A table with one row per dataset. No dataset is read."""
    if not Path(data_dir).is_dir() and str(data_dir) != "data":
        raise RecipeError(f"--data-dir {data_dir}: no such folder")
    rows = [(d.name, d.classes, d.train_images, d.test_images, state(d, data_dir), _origin(d), d.licence) for d in datasets]
    return tabulate(rows, COLUMNS, intfmt=",", missingval="")


def prepare(data: Data, data_dir: str | Path) -> list[str]:
    """Fetch and decode a dataset. Returns its description, line by line. Raises RecipeError as `open_dataset`."""
    dataset = open_dataset(data, data_dir)
    lines = [_describe(images, split) for split, images in dataset.splits.items()]
    training, evaluation = len(dataset.training(data)), len(dataset.evaluation(data))
    kind = EVALUATED_ON[dataset.evaluated_on(data)]
    use = f"a run trains on {training:,} images and is evaluated on {evaluation:,} {kind} images"
    return [*lines, f"{dataset.classes(data)} classes; {use}", f"fingerprint {dataset.fingerprint}"]


def check(data: Data, data_dir: str | Path) -> tuple[list[str], list[str]]:
    """Read every image of a dataset again, and compare with its recipe and with the decoded pixels.

    Returns (description, problems), line by line. Raises RecipeError if the dataset is not here, or cannot be read at all.
    """
    source = find_or_fetch(data, data_dir) if data.source == "hub" else locate(data, data_dir)
    if source is None:
        raise RecipeError(missing(data, data_dir))
    dataset, unreadable, contents = survey(source)
    problems = [f"{name}: {reason}" for name, reason in unreadable]
    problems += [f"{folder}/: a class folder without images" for folder in contents.empty]
    lines = [str(source), *(_describe(images, split) for split, images in dataset.splits.items() if len(images))]
    try:
        check_counts(source, dataset)
    except RecipeError as error:
        problems.append(str(error))
    stored = open_store(source)
    if not problems and stored is not None and stored.fingerprint != dataset.fingerprint:
        folder, other = store_folder(source), stored.fingerprint[:8]
        problems.append(f"the decoded pixels are of other images (fingerprint {other}): remove {folder}")
    if left_out := contents.left_out:
        more = " …" if len(left_out) > LISTED_FILES else ""
        lines.append(f"left out, not images by their extensions: {', '.join(left_out[:LISTED_FILES])}{more}")
    return [*lines, f"fingerprint {dataset.fingerprint}"], problems


def _origin(data: Data) -> str:
    if data.source == "packaged":
        return "this package"
    if data.source == "torchvision":
        return f"torchvision.datasets.{data.torchvision}" + (f", or the hub: {data.hub}" if data.hub else "")
    return f"the hub: {data.hub}" if data.source == "hub" else data.ask or "the data folder"


def _describe(images: Images, split: str) -> str:
    sizes, counts = images.sizes, np.bincount(images.labels[images.labels >= 0])
    counts = counts[counts > 0]
    low, high = sizes.min(0), sizes.max(0)
    pixels = f"{low[1]}x{low[0]} px" if images.size else f"{low[1]} to {high[1]} px wide, {low[0]} to {high[0]} px high"
    per_class = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    split = "training" if split == "train" else split
    return f"{len(images):,} {split} images of {len(counts)} classes, {per_class} per class, {pixels}"

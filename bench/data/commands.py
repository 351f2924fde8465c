"""The verb `data`: list datasets, prepare one, check one."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bench.cli import DONE, PROBLEMS, add_recipes_dir, count
from bench.config.names import ARCHIVE_SUFFIXES, EVALUATED_ON, NAME
from bench.config.registry import Registry
from bench.config.schema import Data, RecipeError
from bench.data.decode import decoded_size
from bench.data.sources import IncompleteDataset, file_patterns, find_or_fetch, locate, missing
from bench.data.store import check_counts, open_dataset, open_store, state, store_folder, survey
from bench.data.subsets import DecodedDataset, Images

LOG = logging.getLogger(__name__)
ACTIONS = {
    "list": "every dataset, and the class folders in the data folder: size, licence, source, and whether it is here",
    "prepare": "fetch a dataset if it is not here, and decode it",
    "check": "read every image of a dataset that is here, count them, name those that cannot be read",
}
COLUMNS = ("dataset", "classes", "training", "test", "size", "here", "comes from", "licence")
LISTED_FILES = 20  # of those left out


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The actions of `data` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in ACTIONS.items():
        options = actions.add_parser(action, help=text, description=text)
        if action != "list":
            options.add_argument("dataset", metavar="ID", help="for example cifar100, folder:photos, hub:owner/name")
            options.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help="for example data.subset=20; can be given several times",
            )
        options.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
        add_recipes_dir(options)


def run_data(arguments: argparse.Namespace) -> int:
    """List, prepare or check datasets. Exit code 1 if a check finds problems, which are printed on stderr."""
    registry = Registry(*arguments.recipes_dir)
    problems = []
    if arguments.action == "list":
        print(table([registry.dataset(name) for name in registry.names("datasets")], registry, arguments.data_dir))
    elif arguments.action == "prepare":
        print(*prepare(registry.dataset(arguments.dataset, arguments.set), arguments.data_dir), sep="\n")
    else:
        lines, problems = check(registry.dataset(arguments.dataset, arguments.set), arguments.data_dir)
        print(*lines, sep="\n")
    for problem in problems:
        print(problem, file=sys.stderr)
    return PROBLEMS if problems else DONE


def table(datasets: Sequence[Data], registry: Registry, data_dir: str | Path) -> str:
    """A table with one row per dataset and per own folder of images. Of images, only headers are read."""
    if not Path(data_dir).is_dir() and str(data_dir) != "data":
        raise RecipeError(f"--data-dir {data_dir}: no such folder")
    rows = [(*_counts(data, data_dir), state(data, data_dir), _origin(data), data.licence) for data in datasets]
    for data in _own_folders(datasets, registry, data_dir):
        try:
            counts = _counts(data, data_dir)
        except RecipeError as error:  # warn, unless the folder or archive is simply not a dataset
            if not isinstance(error, IncompleteDataset):
                LOG.warning(error)
            continue
        rows.append((*counts, state(data, data_dir), "the data folder", ""))
    return tabulate(rows, COLUMNS, disable_numparse=True, colalign=("left", "right", "right", "right"))


def _own_folders(datasets: Sequence[Data], registry: Registry, data_dir: str | Path) -> Iterator[Data]:
    """What may be datasets as `folder:NAME`: the folders and zip archives of the data folder that are of no other dataset.

    A tar archive is listed once it is decoded, since it has to be read as a whole.
    """
    top = Path(data_dir)
    taken = {path for data in datasets for pattern in file_patterns(data) for path in top.glob(pattern)}
    names = {_without_suffix(path) for path in set(top.glob("*")) - taken}
    for name in sorted(name for name in names if re.fullmatch(NAME, name)):
        data = registry.dataset(f"folder:{name}")
        source = locate(data, data_dir)
        if source is None:
            continue
        place = source.places[0].path
        if place.is_dir() or place.suffix == ".zip" or open_store(source) is not None:
            yield data


def _without_suffix(path: Path) -> str:
    """The name of a folder, or of an archive without its ending."""
    suffix = next((one for one in ARCHIVE_SUFFIXES if path.name.endswith(one) and not path.is_dir()), "")
    return path.name.removesuffix(suffix)


def _counts(data: Data, data_dir: str | Path) -> tuple[str, ...]:
    """Name, classes, images and sizes of a dataset: of the decoded pixels, else of class folders, else of its recipe."""
    source, numbers = locate(data, data_dir), (data.classes, data.train_images, data.test_images)
    sizes = np.empty((0, 2), int)
    if source is not None and (stored := open_store(source)) is not None:
        numbers = stored.classes(data), len(stored.train), stored.test and len(stored.test)
        sizes = np.concatenate([images.sizes for images in stored.splits.values()])
    elif source is not None and data.layout == "class_folders":
        contents = source.contents()
        splits = [list(split) for split in (contents.train, contents.test) if split is not None]
        numbers = len(contents.classes or ()), len(splits[0]), len(splits[1]) if len(splits) > 1 else None
        if (folder := source.places[0].path).is_dir():
            found = (decoded_size(folder / item.name, data.short_side) for split in splits for item in split)
            sizes = np.array([size for size in found if size is not None], int).reshape(-1, 2)
    classes, training, test = ("" if number is None else f"{number:,}" for number in numbers)
    if training and not test:
        test = f"{100 * data.test_share:.0f} % of these"
    return data.name, classes, training, test, _pixels(sizes)


def prepare(data: Data, data_dir: str | Path) -> list[str]:
    """Fetch and decode a dataset. Returns its description, line by line. Raises RecipeError as `open_dataset`."""
    dataset = open_dataset(data, data_dir)
    lines = [_describe(images, split) for split, images in dataset.splits.items()]
    return [*lines, _use(dataset, data), f"fingerprint {dataset.fingerprint}"]


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
        names = ", ".join(left_out[:LISTED_FILES])
        lines.append(f"left out, not images by their extensions or outside the folders that are used: {names}{more}")
    if not problems:
        lines.append(_use(dataset, data))
    return [*lines, f"fingerprint {dataset.fingerprint}"], problems


def _origin(data: Data) -> str:
    if data.source == "packaged":
        return "this package"
    if data.source == "torchvision":
        return f"torchvision.datasets.{data.torchvision}" + (f", or the hub: {data.hub}" if data.hub else "")
    return f"the hub: {data.hub}" if data.source == "hub" else data.ask or "the data folder"


def _use(dataset: DecodedDataset, data: Data) -> str:
    """How many images runs train on and are evaluated on."""
    training, evaluation = len(dataset.training(data)), len(dataset.evaluation(data))
    kind = EVALUATED_ON[dataset.evaluated_on(data)]
    use = f"a run trains on {count(training, 'image')} and is evaluated on {count(evaluation, f'{kind} image')}"
    return f"{count(dataset.classes(data), 'class')}; {use}"


def _describe(images: Images, split: str) -> str:
    counts = np.bincount(images.labels[images.labels >= 0])
    counts = counts[counts > 0]
    noun = "training image" if split == "train" else f"{split} image"
    if not len(counts):
        return f"{count(len(images), noun)} without labels, {_pixels(images.sizes)}"
    per_class = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    return f"{count(len(images), noun)} of {count(len(counts), 'class')}, {per_class} per class, {_pixels(images.sizes)}"


def _pixels(sizes: np.ndarray) -> str:
    """The sizes of images as text: 32x32 px (width x height), or their ranges. Empty without sizes.

    sizes: int [count, 2], height and width.
    """
    if not len(sizes):
        return ""
    (low_height, low_width), (high_height, high_width) = sizes.min(0), sizes.max(0)
    if (sizes == sizes[0]).all():
        return f"{low_width}x{low_height} px"
    return f"{low_width} to {high_width} px wide, {low_height} to {high_height} px high"

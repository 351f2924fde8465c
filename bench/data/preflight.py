"""Checks of a run before its dataset is decoded, without torch, for `plan`, `sweep`, `doctor` and bench/run.py.

The checks that build networks, and so need torch, are in bench/train/preflight.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.config.checks import batch_problem, check_processes
from bench.config.schema import Data, Recipe, RecipeError
from bench.config.teacher_file import find_teacher_file
from bench.data.files import Item
from bench.data.sources import IncompleteDataset, MissingDataset, Source, locate, missing
from bench.data.store import check_counts, open_store, refuse_empty_classes
from bench.data.subsets import DecodedDataset, Images


def data_folder(option: str | None) -> Path:
    """The data folder: that of `--data-dir`, else data/. Raises RecipeError if the option names no folder."""
    if option is not None and not Path(option).is_dir():
        raise RecipeError(f"--data-dir {option}: no such folder")
    return Path(option or "data")


class Preflight:
    """Checks recipes against the datasets in a data folder. It looks at each dataset once.

    downloads: for each dataset that a run would download, a sentence that says so.
    """

    def __init__(self, data_dir: str | Path) -> None:
        self._data_dir = data_dir
        self._seen: dict[Data, DecodedDataset | RecipeError | None] = {}
        self._check_teacher_file = functools.cache(find_teacher_file)
        self.downloads: dict[str, str] = {}

    def check(self, recipe: Recipe, world: int = 1) -> None:
        """Refuse a recipe that cannot run on `world` processes with the data that are here. Raises RecipeError."""
        check_processes(recipe, world)
        if recipe.teacher is not None and recipe.teacher.weights is not None:
            self._check_teacher_file(recipe.teacher.weights, recipe.teacher.sha256)
        if recipe.data not in self._seen:
            try:
                self._seen[recipe.data] = self._look(recipe.data)
            except RecipeError as error:
                self._seen[recipe.data] = error
        found = self._seen[recipe.data]
        if isinstance(found, RecipeError):
            raise found
        if found is not None:
            check_dataset(recipe, found)

    def training_images(self, of: Data, data: Data) -> int | None:
        """The number of training images of a run on `data`. of: the data of a recipe that was checked. None: unknown."""
        found = self._seen.get(of)
        return len(found.training(data)) if isinstance(found, DecodedDataset) else None

    def problem(self, recipe: Recipe, world: int = 1) -> RecipeError | None:
        """What `check` raises, or None."""
        try:
            self.check(recipe, world)
        except RecipeError as error:
            return error
        return None

    def _look(self, data: Data) -> DecodedDataset | None:
        """The dataset, without pixels if it is not decoded; None if its labels are not known before."""
        source = locate(data, self._data_dir)
        if source is None:
            if data.source == "files" or (data.source == "hub" and not data.hub):
                raise MissingDataset(missing(data, self._data_dir))
            self._will_download(data)
            return None
        dataset = open_store(source)
        if dataset is None:
            dataset = self._listed(source)
        if dataset is not None:
            check_counts(source, dataset)
        return dataset

    def _listed(self, source: Source) -> DecodedDataset | None:
        """The labels of images that are files of a folder or of a zip archive; None for others, which must be read."""
        data = source.data
        if data.source == "packaged" or not all(p.path.is_dir() or p.path.suffix == ".zip" for p in source.places):
            return None
        try:
            contents = source.contents()
        except IncompleteDataset:
            if data.source != "hub":
                raise
            self._will_download(data)
            return None
        refuse_empty_classes(source, contents)
        if not isinstance(contents.train, list):
            return None
        train, test = _labels(contents.train), None if contents.test is None else _labels(contents.test)
        return DecodedDataset(train, test, contents.classes, "")

    def _will_download(self, data: Data) -> None:
        place = f"the hub, {data.hub}" if data.source == "hub" else "torchvision"
        self.downloads[data.name] = f"dataset {data.name!r}: will be downloaded ({place})"


def _labels(items: Sequence[Item]) -> Images:
    labels = np.array([item.label for item in items], np.int64)
    return Images(np.empty(0, np.uint8), np.empty((0, 2), np.int32), labels, np.empty(0, str))


def check_dataset(recipe: Recipe, dataset: DecodedDataset) -> None:
    """Refuse a dataset without images to evaluate on, batches larger than it, and pixels that the device cannot keep."""
    for prefix, part in (("", recipe), ("teacher.", recipe.teacher)):
        if part is None:
            continue
        training = dataset.training(part.data)
        dataset.evaluation(part.data)
        if part.sha256 is None and (problem := batch_problem(part.train.batch_size, len(training))):
            raise RecipeError(f"{prefix}train.batch_size: {problem}")
        decoded = len(training.images.sizes) > 0
        on_device = part.data.pipeline == "batched" and part.data.residence == "device"
        if decoded and on_device and training.images.size is None:  # these are cropped on the host
            raise RecipeError(
                f"data.residence: the images of {part.data.name} differ in size, so they cannot be kept on the device:"
                " allowed are auto and host"
            )

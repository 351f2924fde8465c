"""Loads a trained network from the folder of its run, or from an export of it.

Weights are safetensors and all else is JSON, so no file in such a folder can run code. The recipe is checked like any other
and can only name what the suite has, or a user's own files in folders that the user names.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from bench import models
from bench.config.command import command
from bench.config.compose import recipe_from_dict
from bench.config.parse import short_repr
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.data.loaders import ImageTransform
from bench.data.store import open_dataset
from bench.data.subsets import DecodedDataset
from bench.models import load_weights
from bench.runs.record import Record, read_record

LOG = logging.getLogger(__name__)
Folders = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
MAX_CLASSES = 100_000


class NoTrainedNetwork(RecipeError):
    """A run that is not finished, or that diverged."""


class Loaded(NamedTuple):
    """The result of `bench.load`.

    model: in evaluation mode, on the CPU: [batch, 3, size, size] to logits [batch, classes].
    transform: a PIL image to [3, size, size] float32, as the run evaluated its images.
    record: of the run.
    classes: number of outputs of the model.
    class_names: of the outputs, in order; None if the dataset does not name them.
    """

    model: nn.Module
    transform: ImageTransform
    record: Record
    classes: int
    class_names: tuple[str, ...] | None


def load(path: str | os.PathLike[str], recipes_dir: Folders = ()) -> Loaded:
    """The trained network of a run: `bench.load`. The file of its guidance method is not needed.

    Args:
        path: the folder of a run below results/local/runs, or one that `python -m bench export` wrote.
        recipes_dir: a folder, or several, with the file that builds the network, if that is a user's own. The file is run.

    Raises:
        RecipeError: the folder has no finished run, the run diverged, files are damaged, the weights are of another run, or
            the record is of another version of the suite.
    """
    folder = Path(path)
    record, recipe = read_run(folder, recipes_dir)
    classes = record.dataset.classes
    network = trained_network(folder, recipe, classes, record.weights)
    transform = ImageTransform(recipe, one_size=record.dataset.image_size is not None)
    return Loaded(network.eval(), transform, record, classes, record.dataset.class_names)


def read_run(folder: Path, recipes_dir: Folders = ()) -> tuple[Record, Recipe]:
    """The record of a finished run that did not diverge, and its recipe.

    Args:
        recipes_dir: a folder with the user's own files, or several. A record cannot name any.

    Raises:
        RecipeError: there is none, or it is damaged.
    """
    path = folder / "record.json"
    try:
        record = read_record(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.isfile(jsonl := folder if folder.suffix == ".jsonl" else folder / "records.jsonl"):
            suite = jsonl.absolute().parent.name
            raise RecipeError(
                f"{folder}: published results have no weights: `python -m bench sweep {suite}` trains the runs, into"
                " results/local/runs"
            ) from None
        if not os.path.isdir(folder):
            raise RecipeError(
                f"{folder}: no finished run: there is no such folder; those of runs are below results/local/runs"
            ) from None
        raise NoTrainedNetwork(f"{folder}: no finished run: it has no record.json yet") from None
    if record.diverged:
        raise NoTrainedNetwork(f"{folder}: this run diverged in epoch {record.epochs}, so it has no trained network")
    if not 2 <= record.dataset.classes <= MAX_CLASSES:
        raise RecipeError(f"{path}: not a record: dataset.classes is {short_repr(record.dataset.classes)}")
    recipe = recipe_from_dict(record.recipe, str(path))
    if recipe.hash != record.hash:
        raise RecipeError(
            f"{folder}: the record's hash {record.hash[:8]} is not that of its recipe, {recipe.hash[:8]}: it was"
            " changed, or is of another version of the suite"
        )
    folders = [recipes_dir] if isinstance(recipes_dir, (str, os.PathLike)) else recipes_dir
    recipe = recipe_from_dict(record.recipe, str(path), Registry(*folders).plugins)
    for plugin in recipe.plugins:
        if record.numerics.get(f"{plugin.kind}.{plugin.name}") != plugin.digest:
            LOG.warning(f"{folder}: {plugin.path} has changed since this run")
    return record, recipe


def recorded_dataset(folder: Path, record: Record, recipe: Recipe, data_dir: str | Path) -> DecodedDataset:
    """The dataset of a run. Raises RecipeError if it is missing, or has other images than those of the record."""
    dataset = open_dataset(recipe.data, data_dir)
    if dataset.fingerprint != record.dataset.fingerprint:
        raise RecipeError(
            f"{folder}: recorded for other images (fingerprint {record.dataset.fingerprint[:8]}) than {recipe.data.name}"
            f" has here ({dataset.fingerprint[:8]})"
        )
    return dataset


def recorded_predictions(folder: Path, images: int) -> np.ndarray:
    """The predicted class of each evaluated image of a run, [images] int64. Raises RecipeError without such a file."""
    path = folder / "predictions.npy"
    try:
        predictions = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for files that are not its own
        raise RecipeError(f"{path}: cannot be read ({type(error).__name__})") from error
    if predictions.shape != (images,) or predictions.dtype.kind != "i":
        raise RecipeError(f"{path}: {predictions.dtype} {list(predictions.shape)}, allowed are whole numbers [{images}]")
    return predictions


def trained_network(folder: Path, recipe: Recipe, classes: int, checksum: str | None = None) -> nn.Module:
    """The network of a recipe with the weights in model.safetensors, on the CPU.

    Args:
        checksum: the SHA-256 that the file must have, hex; None accepts any.

    Raises:
        RecipeError: the file is missing, damaged or not the recorded one, or the weights are not of this network.
    """
    path = folder / "model.safetensors"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        trains = command(recipe) or f"python bench/run.py --recipe {recipe.id} --seed {recipe.seed} --recipes-dir DIR"
        raise RecipeError(f"{path}: not here; this command trains it: {trains} --force") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    if checksum is not None and hashlib.sha256(content).hexdigest() != checksum:
        raise RecipeError(f"{path}: damaged, or the weights of another run: their SHA-256 is not the one in record.json")
    network = models.create_network(recipe.model, classes, recipe.seed)
    load_weights(network, content, recipe.model.name, str(path))
    return network

"""Loads a trained network from the folder of its run, or from an export of it.

Weights are safetensors and all else is JSON, so no file in such a folder can run code. The recipe is checked like any other
and can only name what the suite has.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import nn

from bench import models
from bench.config.compose import recipe_from_dict
from bench.config.methods import method_names
from bench.config.parse import short_repr
from bench.config.schema import Recipe, RecipeError
from bench.data.loaders import ImageTransform
from bench.runs.record import Record, read_record
from bench.storage import first_line

MAX_CLASSES = 100_000


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


def load(path: str | os.PathLike[str]) -> Loaded:
    """The trained network of a run: `bench.load`. The file of its guidance method is not needed.

    Args:
        path: the folder of a run below results/local/runs, or one that `python -m bench export` wrote.

    Raises:
        RecipeError: the folder has no finished run, the run diverged, files are damaged, the weights are of another run, or
            the record is of another version of the suite.
    """
    folder = Path(path)
    record, recipe = read_run(folder, network_only=True)
    classes = record.dataset.classes
    network = trained_network(folder, recipe, classes, record.weights)
    transform = ImageTransform(recipe, one_size=record.dataset.image_size is not None)
    return Loaded(network.eval(), transform, record, classes, record.dataset.class_names)


def read_run(folder: Path, *, network_only: bool = False) -> tuple[Record, Recipe]:
    """The record of a finished run that did not diverge, and its recipe.

    Args:
        network_only: accept a run whose guidance method is not here. Its recipe is then without guidance and teacher, and
            its hash, which covers them, is not compared; the weights have a checksum of their own.

    Raises:
        RecipeError: there is none, or it is damaged.
    """
    path = folder / "record.json"
    try:
        record = read_record(path)
    except OSError as error:
        raise RecipeError(f"{folder}: no finished run: record.json cannot be read ({type(error).__name__})") from error
    if record.diverged:
        raise RecipeError(f"{folder}: this run diverged in epoch {record.epochs}, so it has no trained network")
    if not 2 <= record.dataset.classes <= MAX_CLASSES:
        raise RecipeError(f"{path}: not a record: dataset.classes is {short_repr(record.dataset.classes)}")
    if network_only and _has_unknown_method(record.recipe):
        content = {name: value for name, value in record.recipe.items() if name not in ("guidance", "teacher")}
        return record, recipe_from_dict(content, str(path))
    recipe = recipe_from_dict(record.recipe, str(path))
    if recipe.hash != record.hash:
        raise RecipeError(
            f"{folder}: the record's hash {record.hash[:8]} is not that of its recipe, {recipe.hash[:8]}: it was"
            " changed, or is of another version of the suite"
        )
    return record, recipe


def _has_unknown_method(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe of a record names a guidance method whose file is not here."""
    guidance = recipe.get("guidance")
    method = guidance.get("method") if isinstance(guidance, Mapping) else None
    return isinstance(method, str) and not set(method.split("+")) <= set(method_names())


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
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    if checksum is not None and hashlib.sha256(content).hexdigest() != checksum:
        raise RecipeError(f"{path}: damaged, or the weights of another run: their SHA-256 is not the one in record.json")
    try:
        weights = safetensors.torch.load(content)
    except Exception as error:  # safetensors, and torch beneath it, raise many kinds for files that are not theirs
        raise RecipeError(f"{path}: its weights cannot be read: {first_line(error)}") from error
    network = models.create_network(recipe.model, classes, recipe.seed)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise RecipeError(f"{folder}: its weights are not those of {recipe.model.name}: {problem[:200]}") from error
    return network

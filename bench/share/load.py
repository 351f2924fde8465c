"""A trained network as its run, or an export of it, holds it: weights as safetensors, everything else as JSON.

Nothing in such a folder can run code, whoever wrote it: its recipe is checked like any, and names only what the suite has.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor, nn

from bench import models
from bench.config.compose import recipe_from_dict
from bench.config.parse import short_repr
from bench.config.schema import Recipe, RecipeError
from bench.data.eval_loader import ImageTransform
from bench.runs.record import SCHEMA, check_record
from bench.storage import read_json

MOST_CLASSES = 100_000


class Loaded(NamedTuple):
    """What `bench.load` gives.

    model: in evaluation mode, on the CPU: [batch, 3, size, size] to logits [batch, classes].
    transform: a PIL image to [3, size, size] float32, as the run evaluated its images.
    record: the run's.
    classes: outputs of the model.
    """

    model: nn.Module
    transform: ImageTransform
    record: dict[str, Any]
    classes: int


def load(folder: Path) -> Loaded:
    """The network of a run's folder, or of one that `python -m bench export` wrote; see `bench.load`."""
    record, recipe = read_run(folder)
    classes = record["dataset"].get("classes")
    if type(classes) is not int or not 2 <= classes <= MOST_CLASSES:
        raise RecipeError(f"{folder / 'record.json'}: not a record: dataset.classes is {short_repr(classes)}")
    weights = read_weights(folder, record.get("weights"))
    # records of before there was the key have images of one size
    transform = ImageTransform(recipe, one_size=record["dataset"].get("image_size", True) is not None)
    return Loaded(rebuild(recipe, classes, weights, folder).eval(), transform, record, classes)


def read_run(folder: Path) -> tuple[dict[str, Any], Recipe]:
    """The record of a finished run, and its recipe.

    Raises:
        RecipeError: there is none, it diverged, it is damaged, or of another version of the suite.
    """
    path = folder / "record.json"
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{folder}: no finished run: record.json cannot be read ({type(error).__name__})") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if type(schema) is int and schema > SCHEMA:
        raise RecipeError(f"{path}: of schema {short_repr(schema)}, and this version of the suite reads {SCHEMA}")
    check_record(record, str(path))
    if record.get("diverged"):
        raise RecipeError(f"{folder}: this run diverged in epoch {record['epochs']}, so it has neither accuracy nor model")
    for name in ("recipe", "dataset"):
        if not isinstance(record.get(name), dict):
            raise RecipeError(f"{path}: not a record: {name} is {short_repr(record.get(name))}")
    recipe = recipe_from_dict(record["recipe"], str(path))
    if recipe.hash != record["hash"]:
        raise RecipeError(
            f"{folder}: the record's hash {record['hash'][:8]} is not that of its recipe, {recipe.hash[:8]}: changed, or"
            " of another version of the suite"
        )
    return record, recipe


def read_weights(folder: Path, recorded: Any = None) -> dict[str, Tensor]:
    """The tensors of model.safetensors, on the CPU.

    Args:
        recorded: the SHA-256 that the file must have, hex; None accepts any.

    Raises:
        RecipeError: it is not there, damaged, or another file than was recorded.
    """
    path = folder / "model.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    if recorded is not None and hashlib.sha256(content).hexdigest() != recorded:
        raise RecipeError(f"{path}: damaged, or the weights of another run: their SHA-256 is not the one in record.json")
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # safetensors, and torch beneath it, raise kinds of their own for files that are not theirs
        raise RecipeError(f"{path}: its weights cannot be read: {_first_line(error)}") from error


def rebuild(recipe: Recipe, classes: int, weights: dict[str, Tensor], where: Path) -> nn.Module:
    """The network of a recipe with trained weights, on the CPU.

    Raises:
        RecipeError: they are not those of this network.
    """
    network = models.create_network(recipe.model, classes, recipe.seed)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise RecipeError(f"{where}: its weights are not those of {recipe.model.name}: {problem[:200]}") from error
    return network


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

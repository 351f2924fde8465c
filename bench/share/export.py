"""`python -m bench export RUN --to DIR`: a trained network as a folder to pass on."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench
from bench import models
from bench.config.parse import short_repr
from bench.config.schema import Recipe, RecipeError
from bench.share.card import card
from bench.share.load import load, read_run
from bench.storage import read_json, replacing, write_json, write_text


def export(run: Path, to: Path) -> list[str]:
    """Write model.safetensors, config.json, record.json and README.md, a model card, into a folder.

    Args:
        run: the folder of a finished run, or an export of one.
        to: a new or empty folder, or one that holds an earlier export of the same run, whose files are replaced.

    Returns:
        What was written, in sentences.

    Raises:
        RecipeError: there is no trained network in `run`, or something else in `to`.
    """
    loaded = load(run)
    record, recipe = read_run(run)
    again = _check_target(to, recipe)
    call = models.timm_call(recipe.model, loaded.classes)
    # It says whose folder this is, so it comes first: what is cut short can be exported anew.
    write_json(to / "config.json", config(recipe, loaded.classes, loaded.model, call))
    write_json(to / "record.json", record)
    with replacing(to / "model.safetensors") as temporary:
        shutil.copyfile(run / "model.safetensors", temporary)
    write_text(to / "README.md", card(record, recipe, loaded.classes, call))
    how = "timm" if call else "bench.load"
    return [
        f"{recipe.id} seed {recipe.seed}: {'an earlier export was replaced' if again else 'written'} in {to}",
        f"README.md shows how to load it, with {how}; read its licence before you pass it on",
    ]


def config(recipe: Recipe, classes: int, network: Any, timm_call: Mapping[str, Any] | None) -> dict[str, Any]:
    """What config.json holds. Of a network that timm makes alone it is what timm looks for on the hub and in folders:
    `timm.create_model("local-dir:DIR", pretrained=True)`."""
    size = recipe.model.image_size
    out = {
        "architecture": recipe.model.timm if timm_call else recipe.model.builder,
        "num_classes": classes,
        "locality_bench": {"version": bench.__version__, **_identity(recipe)},
    }
    if timm_call is None:
        given = {name: value for name, value in dataclasses.asdict(recipe.model).items() if value is not None}
        return {**out, "model": given}
    return {
        **out,
        "num_features": network.num_features,
        "model_args": {name: value for name, value in timm_call.items() if name not in ("model_name", "num_classes")},
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": [3, size, size],
            "fixed_input_size": "img_size" in timm_call,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(recipe.augment.mean),
            "std": list(recipe.augment.std),
            "custom_load": False,
        },
    }


def _identity(recipe: Recipe) -> dict[str, Any]:
    return {"id": recipe.id, "hash": recipe.hash, "seed": recipe.seed}


def _check_target(to: Path, recipe: Recipe) -> bool:
    """Whether an earlier export of the same run is there; raises RecipeError where something else is."""
    try:
        if not to.exists():
            to.mkdir(parents=True)
            return False
        if not any(to.iterdir()):
            return False
    except (OSError, ValueError) as error:
        raise RecipeError(f"--to {to}: cannot be used as a folder ({getattr(error, 'strerror', error)})") from error
    try:
        there = read_json(to / "config.json")["locality_bench"]
        same = {name: there[name] for name in _identity(recipe)} == _identity(recipe)
    except (OSError, ValueError, KeyError, TypeError):
        raise RecipeError(f"--to {to}: is not empty and holds no export of this run: name a new folder") from None
    if not same:
        raise RecipeError(
            f"--to {to}: holds an export of another run, {short_repr(there['id'])} seed {short_repr(there['seed'])}: name a new"
            " folder"
        )
    return True

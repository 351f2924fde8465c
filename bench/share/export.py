"""`python -m bench export RUN --to DIR`: writes a trained network into a folder to share, with a model card."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import bench
from bench import models
from bench.cli import DONE, add_recipes_dir
from bench.config.parse import set_text, short_repr
from bench.config.schema import Recipe, RecipeError
from bench.runs.record import DatasetSummary
from bench.share.card import model_card
from bench.share.load import Folders, read_run, trained_network
from bench.share.pair import teacher_weights
from bench.storage import read_json, replacing, write_json, write_text


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    parser.add_argument("run", metavar="RUN", help="its folder, as results/local/runs/deit_micro/digits/guided/…")
    parser.add_argument(
        "--teacher", action="store_true", help="write the teacher that guided the run, instead of its student"
    )
    parser.add_argument("--to", required=True, metavar="DIR", help="a new folder, or an earlier export of the same run")
    add_recipes_dir(parser)


def run_export(arguments: argparse.Namespace) -> int:
    """Write the export and print where it is."""
    run = teacher_folder(Path(arguments.run), arguments.recipes_dir) if arguments.teacher else Path(arguments.run)
    print("\n".join(export(run, Path(arguments.to), arguments.recipes_dir)))
    return DONE


def export(run: Path, to: Path, recipes_dir: Folders = ()) -> list[str]:
    """Write model.safetensors, config.json, record.json and README.md, a model card, into a folder.

    Args:
        run: the folder of a finished run, or an export of one.
        to: a new or empty folder, or one with an earlier export of the same run, whose files are replaced.
        recipes_dir: a folder, or several, with the file that builds the network, if that is a user's own. It is not copied.

    Returns:
        What was written, in sentences.

    Raises:
        RecipeError: `run` has no trained network, or `to` has other files.
    """
    record, recipe = read_run(run, recipes_dir)
    network = trained_network(run, recipe, record.dataset.classes, record.weights)
    is_replaced = _check_target(to, recipe)
    timm_call = models.timm_call(recipe.model, record.dataset.classes)
    # config.json says of which run the folder is, so it comes first: an interrupted export can be repeated
    write_json(to / "config.json", config(recipe, record.dataset, network, timm_call))
    for name in ("record.json", "model.safetensors"):
        with replacing(to / name) as temporary:
            shutil.copyfile(run / name, temporary)
    write_text(to / "README.md", model_card(record, recipe, timm_call))
    said = [
        f"{recipe.id} seed {recipe.seed}: {'an earlier export was replaced' if is_replaced else 'written'} in {to}",
        f"README.md shows how to load it with {'timm' if timm_call else 'bench.load'}; before you share it, read there the"
        " licence of the dataset",
    ]
    if recipe.model.role == "teacher":
        said += [
            f"SHA-256 of its model.safetensors: {record.weights}",
            "guided runs start from this teacher with the options",
            f"  --set teacher.weights={shlex.quote(set_text(str(to)))} --set teacher.sha256={record.weights}",
            "or, in the file of a dataset or under set: in a suite, with the line",
            f"  teacher: {{weights: {set_text(str(to))}, sha256: {record.weights}}}",
        ]
    return said


def teacher_folder(run: Path, recipes_dir: Folders = ()) -> Path:
    """The folder of the teacher that guided a run, with its record. Raises RecipeError if there is none on this machine."""
    record, recipe = read_run(run, recipes_dir)
    if recipe.teacher is None:
        raise RecipeError(f"--teacher: {recipe.id} has no teacher")
    if recipe.teacher.sha256 is not None:
        raise RecipeError(f"--teacher: {run}: its teacher was read from a file, so share that file")
    return teacher_weights(run, recipe, record).parent


def config(
    recipe: Recipe, dataset: DatasetSummary, network: nn.Module, timm_call: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of config.json.

    For a network that timm alone makes, it is what timm reads from folders and from the hub:
    `timm.create_model("local-dir:DIR", pretrained=True)`. `label_names` are the classes for timm, and for transformers,
    which makes its `id2label` of them.
    """
    content = {
        "architecture": recipe.model.timm if timm_call else recipe.model.builder,
        "num_classes": dataset.classes,
        **({"label_names": list(dataset.class_names)} if dataset.class_names else {}),
        "locality_bench": {"version": bench.__version__, **_identity(recipe)},
    }
    if timm_call is None:
        keys = {name: value for name, value in dataclasses.asdict(recipe.model).items() if value is not None}
        return {**content, "model": keys}
    return {
        **content,
        "num_features": network.num_features,
        "model_args": {name: value for name, value in timm_call.items() if name not in ("model_name", "num_classes")},
        "pretrained_cfg": {
            "num_classes": dataset.classes,
            "input_size": [3, recipe.model.image_size, recipe.model.image_size],
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
    """Whether the folder has an earlier export of the same run. Raises RecipeError if it has other files."""
    try:
        to.mkdir(parents=True, exist_ok=True)
        if not any(to.iterdir()):
            return False
    except (OSError, ValueError) as error:
        raise RecipeError(f"--to {to}: cannot be used as a folder ({getattr(error, 'strerror', error)})") from error
    try:
        found = read_json(to / "config.json")["locality_bench"]
        is_same = {name: found[name] for name in _identity(recipe)} == _identity(recipe)
    except (OSError, ValueError, KeyError, TypeError):
        raise RecipeError(f"--to {to}: is not empty and has no export of this run: name a new folder") from None
    if not is_same:
        other = f"{short_repr(found['id'])} seed {short_repr(found['seed'])}"
        raise RecipeError(f"--to {to}: has an export of another run, {other}: name a new folder")
    return True

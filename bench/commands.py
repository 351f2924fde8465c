"""The verbs `list`, `show` and `schema`."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import yaml

from bench.cli import DONE, add_recipe_options, add_recipes_dir, compose, matches
from bench.config.json_schema import recipe_files_schema
from bench.config.parse import short_repr
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.storage import write_text

NO_DATA_HELP = "accepted as by other verbs, and not used: recipes do not depend on the data folder"


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """The options of `list`."""
    parser.add_argument("what", nargs="*", metavar="TEXT", help="only ids with one of these texts, or that match a glob")
    parser.add_argument("--suite", metavar="NAME", help="only those of a suite")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data-dir", metavar="DIR", help=NO_DATA_HELP)
    add_recipes_dir(parser)


def run_list(arguments: argparse.Namespace) -> int:
    """Print all recipe ids, or the ids of a suite. With words, print only ids that match one of them."""
    registry = Registry(*arguments.recipes_dir)
    ids = registry.suite(arguments.suite).ids if arguments.suite is not None else registry.ids()
    if not (ids := [one for one in ids if matches(one, arguments.what)]):
        texts = ", ".join(map(short_repr, arguments.what))
        raise RecipeError(
            f"list {texts}: no id has this text or matches this glob; list --suite NAME prints those of a suite"
        )
    print(json.dumps(ids, indent=2) if arguments.json else "\n".join(ids))
    return DONE


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """The options of `show`."""
    parser.add_argument("recipe", metavar="ID")
    add_recipe_options(parser)
    parser.add_argument("--data-dir", metavar="DIR", help=NO_DATA_HELP)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--parameters", action="store_true", help="build the network: its parameters and feature maps")


def run_show(arguments: argparse.Namespace) -> int:
    """Print the composed recipe as YAML or JSON."""
    recipe = compose(arguments)
    content = recipe.to_dict()
    # only the network itself knows its feature layers
    if arguments.parameters or "any_timm" in (recipe.model.builder, recipe.teacher and recipe.teacher.model.builder):
        models = importlib.import_module("bench.models")  # imports torch, which other recipes do not need
        classes = recipe.data.classes
        built = models.create_student(recipe, classes or 2)
        if classes is not None:
            content["parameters"] = sum(p.numel() for p in built.network.parameters() if p.requires_grad)
        content["feature_maps"] = {n: list(shape) for n, shape in zip(built.feature_layers, built.shapes, strict=True)}
        if recipe.teacher is not None and "maps" in recipe.guidance.needs:
            built = models.create(recipe.teacher.model, classes or 2, recipe.teacher.seed)
            shapes = {name: list(shape) for name, shape in zip(built.feature_layers, built.shapes, strict=True)}
            content["teacher"]["feature_maps"] = shapes
    if recipe.guidance is not None and (scaled := recipe.guidance.scaled_epochs(recipe.train.epochs)):
        content["scaled_epochs"] = scaled  # keys that count epochs of the published runs, in epochs of this run
    print(json.dumps(content, indent=2) if arguments.json else yaml.safe_dump(content, sort_keys=False).rstrip())
    return DONE


def add_schema_options(parser: argparse.ArgumentParser) -> None:
    """The options of `schema`."""
    parser.add_argument("--to", metavar="FILE", help="write it there instead of printing it")
    add_recipes_dir(parser)


def run_schema(arguments: argparse.Namespace) -> int:
    """Print or write the JSON Schema of recipe files."""
    text = json.dumps(recipe_files_schema(Registry(*arguments.recipes_dir).plugins), indent=1) + "\n"
    if arguments.to is None:
        print(text, end="")
    else:
        write_text(Path(arguments.to), text)
    return DONE

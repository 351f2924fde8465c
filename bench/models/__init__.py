"""Networks, one file per family. `create` finds the family by the recipe's `model.builder`. A file has

- `build(model, classes)`, which returns the network with its initial weights;
- `timm_call(model, classes)`, if timm alone makes the same network: the arguments of `timm.create_model`.

A user's own builder is such a file below `--recipes-dir`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from bench.config.methods import builder_names
from bench.config.plugins import absent, explained, load, place, place_of
from bench.config.schema import Model, Recipe, RecipeError
from bench.models.features import FeatureExtractor, block_names, check_spatial_order, default_feature_layers
from bench.rng import Stream, torch_seed
from bench.storage import first_line


def create_student(recipe: Recipe, classes: int) -> FeatureExtractor:
    """The network of a recipe on the CPU, with the feature maps that its guidance uses. Raises RecipeError as `create`."""
    maps = recipe.guidance.student_maps if recipe.guidance is not None else ()
    return create(recipe.model, classes, recipe.seed, feature_layers="chosen" in maps, all_blocks="all" in maps)


def create(
    model: Model, classes: int, seed: int, *, feature_layers: bool = True, all_blocks: bool = False
) -> FeatureExtractor:
    """The network of a recipe on the CPU. Its initial weights depend on the seed alone.

    Args:
        feature_layers: whether its forward pass returns the maps of `model.feature_layers`, or of
            `default_feature_layers` if the recipe names none.
        all_blocks: whether it returns the output of every block, too.

    Raises:
        RecipeError: the architecture does not take this size, or a feature layer does not exist or gives no map.
    """
    network = create_network(model, classes, seed)
    extractor = with_maps(network, model, feature_layers=feature_layers, all_blocks=all_blocks)
    if extractor.feature_layers and not model.feature_layers:
        check_spatial_order(extractor, model)
    return extractor


def with_maps(network: nn.Module, model: Model, *, feature_layers: bool, all_blocks: bool) -> FeatureExtractor:
    """A network with the feature maps that `create` describes."""
    layers = (model.feature_layers or default_feature_layers(network, model)) if feature_layers else ()
    blocks = block_names(network, model) if all_blocks else ()
    return FeatureExtractor(network, model, layers, blocks)


def create_network(model: Model, classes: int, seed: int) -> nn.Module:
    """The network of `create` as its family builds it, for use elsewhere: its drop path draws from torch's generator.

    Raises RecipeError if it cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.STUDENT))
        try:
            network = family(model).build(model, classes)
        except RecipeError:
            raise
        except Exception as error:  # timm refuses names and sizes in many ways
            problem = f"{model.timm or model.builder} cannot be built: {first_line(error)}"
            raise RecipeError(f"{place(error) or f'model {model.name}'}: {problem}") from error
    if model.params.plugin is not None:
        _check_plugin(network, model, classes)
    _zero_outliers(network)
    return network


@torch.no_grad()
def _check_plugin(network: object, model: Model, classes: int) -> None:
    """Raise RecipeError if what a plug-in built is not a network that can be trained."""
    plugin, build = model.params.plugin, family(model).build
    problem = None
    if not isinstance(network, nn.Module):
        problem = f"returned {type(network).__name__}, allowed is a torch.nn.Module"
    elif dropout := [name for name, part in network.named_modules() if isinstance(part, _DropoutNd) and part.p > 0]:
        problem = (
            f"returned a network with dropout ({dropout[0]}), which resumed runs could not repeat: use DropPath of timm"
        )
    else:
        with explained(plugin):
            logits = network.eval()(torch.zeros(1, 3, model.image_size, model.image_size))
            set(getattr(network, "no_weight_decay", set)())  # of the optimiser, which is made after the teacher's training
        network.train()
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != [1, classes]:
            problem = f"returned a network that gives {found} for one image, allowed are logits [1, {classes}]"
    if problem is not None:
        raise RecipeError(f"{place_of(build, plugin)}: build {problem}")


def load_weights(network: nn.Module, content: bytes, name: str, where: str) -> None:
    """Load weights into a network.

    Args:
        content: of the file.
        name: of the model, for errors.
        where: the file or folder, for errors.

    Raises:
        RecipeError: the content is no safetensors file, or the weights are of another network or number of classes.
    """
    try:
        weights = safetensors.torch.load(content)
    except Exception as error:  # safetensors, and torch beneath it, raise many kinds for files that are not theirs
        raise RecipeError(f"{where}: its weights cannot be read: {first_line(error)}") from error
    own = network.state_dict()
    others = [key for key in own if key not in weights or weights[key].shape != own[key].shape]
    if own.keys() == weights.keys() and others and all(weights[key].shape[1:] == own[key].shape[1:] for key in others):
        theirs, ours = weights[others[0]].shape[0], own[others[0]].shape[0]  # only the last layer differs, in its rows
        raise RecipeError(f"{where}: its weights are of a {name} with {theirs} classes, and {ours} are needed")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise RecipeError(f"{where}: its weights are not those of {name}: {problem[:200]}") from error


def timm_call(model: Model, classes: int) -> dict[str, Any] | None:
    """The arguments with which `timm.create_model` alone makes a network that gives the same logits with the same weights.

    None for networks that timm lacks, and for those that are changed after timm makes them.
    """
    if not hasattr(family(model), "timm_call"):
        return None
    return {name: value for name, value in family(model).timm_call(model, classes).items() if value is not None}


def family(model: Model) -> ModuleType:
    """The module that builds a model: of this package, or a plug-in. Raises RecipeError if it is not here."""
    if model.params.plugin is not None:
        return load(model.params.plugin)
    if model.builder not in builder_names():
        raise absent("model.builder", model.builder)
    return importlib.import_module(f"bench.models.{model.builder}")


@torch.no_grad()
def _zero_outliers(network: nn.Module) -> None:
    """Zero the weights at exactly ±2 among small ones.

    timm's `trunc_normal_` with a deviation of 0.02 puts about one weight in 2^24 on its bound, a hundred deviations away.
    With some seeds a PVTv2-B0 starts with two such weights.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1 and parameter.abs().median() < 0.1:  # ConViT's positions are ±2 on purpose
            parameter[parameter.abs() == 2] = 0

"""Networks: one file a family, each with `build(model, classes)`; `create` finds it by the recipe's `model.builder`."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from bench.config.schema import Model, RecipeError
from bench.models.features import FeatureExtractor, check_spatial_order, default_feature_layers
from bench.rng import Stream, torch_seed


def create(model: Model, classes: int, seed: int, *, feature_layers: bool = True) -> FeatureExtractor:
    """The network of a recipe with its initial weights, on the CPU.

    The weights depend on the seed alone, not on the device, the guidance or what ran before.

    Args:
        model: what to build.
        classes: outputs of its head.
        seed: of the initial weights.
        feature_layers: whether its forward returns the maps of `model.feature_layers`; where the recipe names none, of the blocks that
            `default_feature_layers` finds.

    Raises:
        RecipeError: the architecture does not take this size, or a tap does not exist or gives no map.
    """
    network = create_network(model, classes, seed)
    names = (model.feature_layers or default_feature_layers(network, model)) if feature_layers else ()
    tapped = FeatureExtractor(network, model, names)
    if names and not model.feature_layers:
        check_spatial_order(tapped, model)
    return tapped


def create_network(model: Model, classes: int, seed: int) -> nn.Module:
    """The network as its family builds it, with its own drop path, which draws from torch's generator: for use outside of
    a training. Initial weights as those of `create`.

    Raises:
        RecipeError: it cannot be built.
    """
    family = importlib.import_module(f"bench.models.{model.builder}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.STUDENT))
        try:
            network = family.build(model, classes)
        except RecipeError:
            raise
        except Exception as error:  # timm refuses names and sizes in many ways
            reason = str(error).partition("\n")[0]
            raise RecipeError(f"model {model.name}: {model.timm or model.builder} cannot be built: {reason}") from error
    _without_outliers(network)
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any] | None:
    """Arguments with which `timm.create_model` alone makes the network of a recipe, so that its weights give the same
    logits there; None where it cannot: networks that timm lacks, or that are changed after it made them."""
    family = importlib.import_module(f"bench.models.{model.builder}")
    call = family.timm_call(model, classes) if hasattr(family, "timm_call") else None
    return call and {name: value for name, value in call.items() if value is not None}


@torch.no_grad()
def _without_outliers(network: nn.Module) -> None:
    """Zero the weights at exactly ±2 among small ones. timm's `trunc_normal_`, asked for a deviation of 0.02, puts about
    one in 2^24 on its bound, a hundred deviations out: a PVTv2-B0 may start with two such weights, by the seed."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and parameter.abs().median() < 0.1:  # ConViT's positions are ±2 on purpose
            parameter[parameter.abs() == 2] = 0

"""Any model of timm by its name, as timm defines it: `timm:<name>` in a recipe id. It starts from random weights."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import nn

from bench.config.schema import Model, RecipeError


def build(model: Model, classes: int) -> nn.Module:
    """timm's model `model.timm`, told the input size where its architecture has to know it.

    Raises:
        RecipeError: timm has no such model, or a size was given that timm's definition fixes.
    """
    if not timm.is_model(model.timm):
        near = difflib.get_close_matches(model.timm, timm.list_models(), n=1)
        raise RecipeError(
            f"model timm:{model.timm}: timm has no such model{f'; did you mean timm:{near[0]}?' if near else ''}"
        )
    if any(size is not None for size in (model.patch_size, model.width, model.depth, model.heads, model.mlp_ratio)):
        raise RecipeError(
            f"model.patch_size, width, depth, heads and mlp_ratio: timm's definition of {model.timm} fixes them"
        )
    try:
        network, _ = _create(model, classes)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise RecipeError(f"model.drop_path_rate: {model.name} has no drop path: set it to 0") from None
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # as in all students of the paper; its masks would be no function of seed, epoch and position
    if hasattr(network, "drop_rate"):
        network.drop_rate = 0.0  # of the dropout before some heads, which is called as a function
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """What `timm.create_model` is called with: the size only where the architecture takes one."""
    return _create(model, classes)[1]


def _create(model: Model, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    call = {"model_name": model.timm, "num_classes": classes, "drop_path_rate": model.drop_path_rate or None}
    try:
        sized = {**call, "img_size": model.image_size}
        return timm.create_model(**sized), sized
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(**call), call  # convolutional throughout: any size

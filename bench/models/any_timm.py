"""Any model of timm by its name, as timm defines it: `timm:<name>` in a recipe id. Its initial weights are random."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import nn

from bench.config.schema import Model, RecipeError
from bench.models.sizes import ALL_SIZES, check_sizes

NUMERICS = 2  # raised when results change: bench/config/numerics.py


def build(model: Model, classes: int) -> nn.Module:
    """timm's model `model.timm`, for the recipe's image size if the architecture depends on it."""
    if not timm.is_model(model.timm):
        near = difflib.get_close_matches(model.timm, timm.list_models(), n=1)
        hint = f"; did you mean timm:{near[0]}?" if near else ""
        raise RecipeError(f"model timm:{model.timm}: timm has no such model{hint}")
    check_sizes(model, ALL_SIZES)
    try:
        network, _ = _create(model, classes)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise RecipeError(f"model.drop_path_rate: {model.name} has no drop path: set it to 0") from None
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # as in all students of the paper; its masks would not depend on seed, epoch and position alone
    if hasattr(network, "drop_rate"):
        network.drop_rate = 0.0  # of the functional dropout before some heads
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """The arguments of `timm.create_model`: with the image size only if the architecture takes one."""
    return _create(model, classes)[1]


def _create(model: Model, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    call = {"model_name": model.timm, "num_classes": classes, "drop_path_rate": model.drop_path_rate or None}
    try:
        sized = {**call, "img_size": model.image_size}
        return timm.create_model(**sized), sized
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(**call), call  # a convolutional network, for any size

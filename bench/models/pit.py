"""PiT: pooling-based vision transformer (Heo et al., ICCV 2021, arXiv 2103.16302), built by timm."""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import DropPath
from torch import nn

from bench.config.schema import Model, RecipeError
from bench.models.sizes import STAGE_SIZES, check_not_set

PATCH = 16  # px


def build(model: Model, classes: int) -> nn.Module:
    """A PoolingVisionTransformer of `model.timm`. Its patches overlap: the stride is half of `model.patch_size`.

    Raises:
        RecipeError: the image is smaller than a patch, or the recipe sets a size that the architecture fixes.
    """
    patch = model.patch_size or PATCH
    if patch % 2:
        raise RecipeError(f"model.patch_size: {patch} px is odd, and PiT's stride is half of it")
    check_not_set(model, *STAGE_SIZES)
    if model.image_size < patch:
        raise RecipeError(f"model.image_size: {model.image_size} px is less than model.patch_size, {patch} px")
    network = timm.create_model(**timm_call(model, classes))
    _set_drop_path(network, model.drop_path_rate)
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """The arguments of `timm.create_model`. Its drop-path rates differ from ours, which has no effect in evaluation."""
    patch = model.patch_size or PATCH
    return {
        "model_name": model.timm,
        "num_classes": classes,
        "img_size": model.image_size,
        "patch_size": patch,
        "stride": patch // 2,
        "drop_path_rate": model.drop_path_rate,
    }


def _set_drop_path(network: nn.Module, rate: float) -> None:
    """rate * i / blocks for block i, as released; timm raises the rate per stage, up to `rate` itself."""
    blocks = [block for stage in network.transformers for block in stage.blocks]
    for i, block in enumerate(blocks):
        own = rate * i / len(blocks)
        for name in ("drop_path1", "drop_path2"):
            setattr(block, name, DropPath(own) if own else nn.Identity())

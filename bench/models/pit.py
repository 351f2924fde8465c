"""PiT: pooling-based vision transformer (Heo et al., ICCV 2021, arXiv 2103.16302), built by timm."""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import DropPath
from torch import nn

from bench.config.image_sizes import patch_size
from bench.config.schema import Model, RecipeError
from bench.models.sizes import STAGE_SIZES, check_sizes

NUMERICS = 1  # raised when results change: bench/config/numerics.py


def build(model: Model, classes: int) -> nn.Module:
    """A PoolingVisionTransformer of `model.timm`. Its patches overlap: the stride is half of `model.patch_size`."""
    patch = patch_size(model)
    if patch % 2:
        raise RecipeError(f"model.patch_size: {patch} px is odd, and PiT's stride is half of it")
    check_sizes(model, STAGE_SIZES)
    network = timm.create_model(**timm_call(model, classes))
    blocks = [block for stage in network.transformers for block in stage.blocks]
    for i, block in enumerate(blocks):
        rate = model.drop_path_rate * i / len(blocks)  # as released; timm raises the rate per stage, up to the full one
        for name in ("drop_path1", "drop_path2"):
            setattr(block, name, DropPath(rate) if rate else nn.Identity())
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """The arguments of `timm.create_model`. Its drop-path rates differ from ours, which has no effect in evaluation."""
    patch = patch_size(model)
    return {
        "model_name": model.timm,
        "num_classes": classes,
        "img_size": model.image_size,
        "patch_size": patch,
        "stride": patch // 2,
        "drop_path_rate": model.drop_path_rate,
    }

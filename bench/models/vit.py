"""DeiT: the plain vision transformer (Touvron et al., ICML 2021, arXiv 2012.12877), built by timm."""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import trunc_normal_
from torch import nn

from bench.config.schema import Model, RecipeError


def build(model: Model, classes: int) -> nn.Module:
    """A VisionTransformer of `model.timm` at any input size that its patches divide, with DeiT's initial weights.

    timm differs from the release in two places that are set here: the head starts at zero, and the class token as a
    truncated normal of 0.02.

    Raises:
        RecipeError: patches do not divide the image, or heads the width.
    """
    patch = model.patch_size or 16
    if model.image_size % patch:
        raise RecipeError(f"model.image_size: {model.image_size} px is no multiple of model.patch_size, {patch} px")
    if model.width and model.heads and model.width % model.heads:
        raise RecipeError(f"model.heads: {model.heads} does not divide model.width, {model.width}")
    network = timm.create_model(**timm_call(model, classes))
    trunc_normal_(network.cls_token, std=0.02)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """What `timm.create_model` is called with; None is timm's own default."""
    return {
        "model_name": model.timm,
        "num_classes": classes,
        "img_size": model.image_size,
        "patch_size": model.patch_size or 16,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": model.mlp_ratio,
        "drop_path_rate": model.drop_path_rate,
    }

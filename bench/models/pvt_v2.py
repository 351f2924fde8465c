"""PVTv2: pyramid vision transformer (Wang et al., CVMJ 2022, arXiv 2106.13797), built by timm."""

from __future__ import annotations

import timm
from torch import nn

from bench.config.schema import Model, RecipeError


def build(model: Model, classes: int) -> nn.Module:
    """A PyramidVisionTransformerV2 of `model.timm`. Its overlapping patches are of fixed size, so any image of 32 px or
    more fits.

    Raises:
        RecipeError: the image is too small, or a size was given that the architecture fixes.
    """
    if any(size is not None for size in (model.patch_size, model.width, model.depth, model.heads, model.mlp_ratio)):
        raise RecipeError(f"model.patch_size, width, depth, heads and mlp_ratio: {model.timm} fixes them for each stage")
    if model.image_size < 32:
        raise RecipeError(
            f"model.image_size: {model.image_size} px, {model.timm} shrinks images 32 times and takes 32 or more"
        )
    network = timm.create_model(model.timm, num_classes=classes, drop_path_rate=model.drop_path_rate)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # as released; timm has 1e-5 in the patch embeddings, downsampling and attention reduction
    return network

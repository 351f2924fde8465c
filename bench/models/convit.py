"""ConViT: soft convolutional inductive biases (d'Ascoli et al., ICML 2021, arXiv 2103.10697), built by timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from bench.config.schema import Model, RecipeError


def build(model: Model, classes: int) -> nn.Module:
    """A ConVit of `model.timm` at any input size that its patches divide. Its class token enters after the gated
    positional blocks, so earlier feature_layers have none.

    Raises:
        RecipeError: patches do not divide the image, or a size was given that the architecture fixes.
    """
    patch = model.patch_size or 16
    if model.image_size % patch:
        raise RecipeError(f"model.image_size: {model.image_size} px is no multiple of model.patch_size, {patch} px")
    if any(size is not None for size in (model.width, model.depth, model.heads, model.mlp_ratio)):
        raise RecipeError(f"model.width, depth, heads and mlp_ratio: {model.timm} fixes them")
    network = timm.create_model(**timm_call(model, classes))
    for block in network.blocks:
        if block.use_gpsa:
            # timm before 1.0.31 keeps these in a plain attribute, which stays behind when the network moves to a GPU
            indices = block.attn.get_rel_indices((model.image_size // patch) ** 2)
            block.attn.__dict__.pop("rel_indices", None)
            block.attn.register_buffer("rel_indices", indices, persistent=False)
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """What `timm.create_model` is called with."""
    return {
        "model_name": model.timm,
        "num_classes": classes,
        "img_size": model.image_size,
        "patch_size": model.patch_size or 16,
        "drop_path_rate": model.drop_path_rate,
    }

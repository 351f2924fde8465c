"""ConViT: soft convolutional inductive biases (d'Ascoli et al., ICML 2021, arXiv 2103.10697), built by timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from bench.config.image_sizes import patch_size
from bench.config.schema import Model
from bench.models.sizes import STAGE_SIZES, check_sizes

NUMERICS = 1  # raised when results change: bench/config/numerics.py


def build(model: Model, classes: int) -> nn.Module:
    """A ConVit of `model.timm` at any input size that its patches divide.

    Its class token enters after the gated positional blocks, so feature maps of earlier layers have none.
    """
    check_sizes(model, STAGE_SIZES)
    network = timm.create_model(**timm_call(model, classes))
    for block in network.blocks:
        if block.use_gpsa:
            # timm before 1.0.31 keeps these in a plain attribute, which does not move to a GPU with the network
            indices = block.attn.get_rel_indices((model.image_size // patch_size(model)) ** 2)
            block.attn.__dict__.pop("rel_indices", None)
            block.attn.register_buffer("rel_indices", indices, persistent=False)
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """The arguments of `timm.create_model`."""
    return {
        "model_name": model.timm,
        "num_classes": classes,
        "img_size": model.image_size,
        "patch_size": patch_size(model),
        "drop_path_rate": model.drop_path_rate,
    }

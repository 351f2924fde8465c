"""PVTv2: pyramid vision transformer (Wang et al., CVMJ 2022, arXiv 2106.13797), built by timm."""

from __future__ import annotations

import timm
from torch import nn

from bench.config.schema import Model
from bench.models.sizes import ALL_SIZES, check_sizes

NUMERICS = 1  # raised when results change: bench/config/numerics.py


def build(model: Model, classes: int) -> nn.Module:
    """A PyramidVisionTransformerV2 of `model.timm`. Its patches overlap, so any image of 32 px or more fits."""
    check_sizes(model, ALL_SIZES)
    network = timm.create_model(model.timm, num_classes=classes, drop_path_rate=model.drop_path_rate)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # as released; timm has 1e-5 in the patch embeddings, downsampling and attention reduction
    return network

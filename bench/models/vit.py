"""DeiT: the plain vision transformer (Touvron et al., ICML 2021, arXiv 2012.12877), built by timm."""

from __future__ import annotations

from typing import Any

import timm
from timm.layers import trunc_normal_
from torch import nn

from bench.config.image_sizes import patch_size
from bench.config.schema import Model
from bench.models.sizes import check_heads

NUMERICS = 1  # raised when results change: bench/config/numerics.py


def build(model: Model, classes: int) -> nn.Module:
    """A VisionTransformer of `model.timm` at any input size that its patches divide, with DeiT's initial weights.

    In the released code of DeiT the head starts at zero, and the class token as a truncated normal of 0.02; timm differs.
    """
    check_heads(model.width, model.heads)
    network = timm.create_model(**timm_call(model, classes))
    trunc_normal_(network.cls_token, std=0.02)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    return network


def timm_call(model: Model, classes: int) -> dict[str, Any]:
    """The arguments of `timm.create_model`; None is timm's own default."""
    return {
        "model_name": model.timm,
        "num_classes": classes,
        "img_size": model.image_size,
        "patch_size": patch_size(model),
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": model.mlp_ratio,
        "drop_path_rate": model.drop_path_rate,
    }

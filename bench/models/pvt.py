"""PVT-Tiny: pyramid vision transformer (Wang et al., ICCV 2021, arXiv 2102.12122).

Four stages, whose maps of an image [3, S, S] are 64 x (S/4)², 128 x (S/8)², 320 x (S/16)² and 512 x (S/32)². Attention in
the first three reads keys and values from a map reduced by a strided convolution.

It computes the same as the released code of arXiv 2207.10026. The code of PVT's authors (whai362/PVT, branch v2) has an
epsilon of 1e-5 in the norms of the patch embeddings and of the reduction, which is 1e-6 here, and applies weight decay to
the position embeddings. Both can resize the position embeddings in the forward pass; here a network has one image size.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from bench.config.schema import Model, RecipeError
from bench.models.layers import Block, Stage, init_linears, parameters_named
from bench.models.sizes import STAGE_SIZES, check_not_set

# of each stage: patch size (and stride), channels, blocks, heads, MLP ratio, spatial reduction of the attention
STAGES = ((4, 64, 2, 1, 8, 8), (2, 128, 2, 2, 8, 4), (2, 320, 2, 5, 4, 2), (2, 512, 2, 8, 4, 1))
DOWNSAMPLING = 32  # the product of the strides

LayerNorm = functools.partial(nn.LayerNorm, eps=1e-6)


class ReducedAttention(nn.Module):
    """Multi-head attention on [batch, tokens, width] whose keys and values come from a map `reduction` times smaller."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = LayerNorm(width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        q = self.q(x)
        if self.reduction > 1:
            x = self.sr(x.transpose(1, 2).unflatten(2, size))
            x = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, *self.kv(x).chunk(2, dim=2)))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def block(width: int, heads: int, mlp_ratio: int, reduction: int, drop_path_rate: float) -> Block:
    """A block with reduced attention."""
    attn, mlp = ReducedAttention(width, heads, reduction), Mlp(width, mlp_ratio * width)
    return Block(LayerNorm(width), attn, LayerNorm(width), mlp, drop_path_rate)


class PVT(nn.Module):
    """Four stages; the head reads the class token of the last."""

    def __init__(self, size: int, classes: int, drop_path_rate: float) -> None:
        super().__init__()
        depth = sum(blocks for _, _, blocks, *_ in STAGES)
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        stages, channels, side = [], 3, size
        for patch, width, blocks, heads, mlp_ratio, reduction in STAGES:
            side //= patch
            own, rates = rates[:blocks], rates[blocks:]
            stages.append(
                Stage(
                    nn.Conv2d(channels, width, patch, patch),
                    LayerNorm(width),
                    (block(width, heads, mlp_ratio, reduction, rate) for rate in own),
                    class_token=len(stages) == len(STAGES) - 1,
                    positions=side * side,
                )
            )
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = LayerNorm(channels)
        self.head = nn.Linear(channels, classes)
        init_linears(self)
        for name, parameter in self.named_parameters():
            if name in self.no_weight_decay():
                nn.init.normal_(parameter, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """The class token and the position embeddings of every stage."""
        return parameters_named(self, "cls_token", "pos_embed")

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, size, size] to logits [batch, classes]."""
        return self.head(self.norm(self.stages(images))[:, 0])


def build(model: Model, classes: int) -> nn.Module:
    """PVT-Tiny for images of `model.image_size`.

    Raises:
        RecipeError: the stages do not divide the image, or the recipe sets a size that the architecture fixes.
    """
    check_not_set(model, "patch_size", *STAGE_SIZES)
    if model.image_size % DOWNSAMPLING:
        raise RecipeError(f"model.image_size: {model.image_size} px, {model.name} takes multiples of {DOWNSAMPLING} px")
    return PVT(model.image_size, classes, model.drop_path_rate)

"""PVT-Tiny: pyramid vision transformer (Wang et al., ICCV 2021, arXiv 2102.12122), as in the released code of
arXiv 2207.10026.

The code of PVT's authors (whai362/PVT, branch v2) has an epsilon of 1e-5 in the norms of the patch embeddings and of the
reduction, which is 1e-6 here, and applies weight decay to the position embeddings. Both can resize the position embeddings
in the forward pass; here a network has one image size.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from bench.config.schema import Model
from bench.models.layers import Block, Stage, init_linears, token_parameters
from bench.models.sizes import ALL_SIZES, check_sizes

NUMERICS = 1  # raised when results change: bench/config/numerics.py

# of each stage: patch size (and stride), channels, blocks, heads, MLP ratio, spatial reduction of the attention
STAGES = ((4, 64, 2, 1, 8, 8), (2, 128, 2, 2, 8, 4), (2, 320, 2, 5, 4, 2), (2, 512, 2, 8, 4, 1))

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


class PVT(nn.Module):
    """Four stages with maps of 64 x (size / 4)², 128 x (size / 8)², 320 x (size / 16)² and 512 x (size / 32)².

    The head reads the class token of the last.
    """

    def __init__(self, size: int, classes: int, drop_path_rate: float) -> None:
        super().__init__()
        rates = iter(torch.linspace(0, drop_path_rate, sum(depth for _, _, depth, *_ in STAGES)).tolist())
        stages, channels, side = [], 3, size
        for patch, width, depth, heads, mlp_ratio, reduction in STAGES:
            side //= patch
            last = len(stages) == len(STAGES) - 1
            embed = nn.Conv2d(channels, width, patch, patch)
            blocks = []
            for _ in range(depth):
                attn, mlp = ReducedAttention(width, heads, reduction), Mlp(width, mlp_ratio * width)
                blocks.append(Block(width, attn, mlp, next(rates), LayerNorm))
            stages.append(Stage(embed, LayerNorm(width), blocks, class_token=last, positions=side * side))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = LayerNorm(channels)
        self.head = nn.Linear(channels, classes)
        init_linears(self)
        for name in self.no_weight_decay():
            nn.init.normal_(self.get_parameter(name), std=0.02)

    no_weight_decay = token_parameters

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, size, size] to logits [batch, classes]."""
        return self.head(self.norm(self.stages(images))[:, 0])


def build(model: Model, classes: int) -> nn.Module:
    """PVT-Tiny for images of `model.image_size`, a multiple of 32 px."""
    check_sizes(model, ALL_SIZES)
    return PVT(model.image_size, classes, model.drop_path_rate)

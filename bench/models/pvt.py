"""PVT-Tiny: pyramid vision transformer (Wang et al., ICCV 2021, arXiv 2102.12122).

Four stages, whose maps of an image [3, S, S] are 64 x (S/4)², 128 x (S/8)², 320 x (S/16)² and 512 x (S/32)². Attention in
the first three reads keys and values from a map reduced by a strided convolution.

As in the released code of arXiv 2207.10026. The authors' own (whai362/PVT, branch v2) differs in the norms of the patch
embeddings and of the reduction, whose epsilon is 1e-5 there and 1e-6 here, and lets the position embeddings decay. Both can
resize the positions to other images in the forward; here a network is built for one size.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from bench.config.schema import Model, RecipeError

# of each stage: patch size = stride, channels, blocks, heads, MLP ratio, spatial reduction of the attention
STAGES = ((4, 64, 2, 1, 8, 8), (2, 128, 2, 2, 8, 4), (2, 320, 2, 5, 4, 2), (2, 512, 2, 8, 4, 1))
SHRINK = 32  # times: the strides of the four stages

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


class Block(nn.Module):
    """Attention and MLP on [batch, tokens, width]: a map of `size`, after a class token if there is one."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, reduction: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = ReducedAttention(width, heads, reduction)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patch embedding, learned positions and blocks: [batch, channels, size, size] to a map `patch` times smaller, or to
    tokens [batch, 1 + tokens, width] where there is a class token.

    Args:
        side: of its map, in tokens.
        drop_path_rates: one a block.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        patch: int,
        width: int,
        heads: int,
        mlp_ratio: int,
        reduction: int,
        drop_path_rates: list[float],
        class_token: bool,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, width, patch, patch)
        self.norm = LayerNorm(width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, side * side + class_token, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, reduction, rate) for rate in drop_path_rates)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        size = x.shape[2:]
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x, size)
        return x.transpose(1, 2).unflatten(2, size) if self.cls_token is None else x


class PVT(nn.Module):
    """Four stages; the head reads the class token of the last."""

    def __init__(self, size: int, classes: int, drop_path_rate: float) -> None:
        super().__init__()
        depth = sum(blocks for _, _, blocks, *_ in STAGES)
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        stages, channels, side = [], 3, size
        for patch, width, blocks, heads, mlp_ratio, reduction in STAGES:
            side //= patch
            last = len(stages) == len(STAGES) - 1
            own, rates = rates[:blocks], rates[blocks:]
            stages.append(Stage(channels, side, patch, width, heads, mlp_ratio, reduction, own, last))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = LayerNorm(channels)
        self.head = nn.Linear(channels, classes)
        # The released truncated normal has its bounds, ±2, 100 deviations away, so this is the same distribution; but
        # timm's trunc_normal_ puts about one weight in 2^24 on the bound itself, and there are as many as that here.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name in self.no_weight_decay():
                nn.init.normal_(parameter, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """The class token and the position embeddings of every stage."""
        return {name for name, _ in self.named_parameters() if name.endswith((".cls_token", ".pos_embed"))}

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, size, size] to logits [batch, classes]."""
        return self.head(self.norm(self.stages(images))[:, 0])


def build(model: Model, classes: int) -> nn.Module:
    """A PVT-Tiny for images of `model.image_size`.

    Raises:
        RecipeError: the stages do not divide the image, or a size was given that the architecture fixes.
    """
    if any(size is not None for size in (model.patch_size, model.width, model.depth, model.heads, model.mlp_ratio)):
        raise RecipeError(f"model.patch_size, width, depth, heads and mlp_ratio: {model.name} fixes them for each stage")
    if model.image_size % SHRINK:
        raise RecipeError(
            f"model.image_size: {model.image_size} px, {model.name} shrinks images {SHRINK} times and takes its multiples"
        )
    return PVT(model.image_size, classes, model.drop_path_rate)

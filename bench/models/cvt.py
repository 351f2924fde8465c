"""CvT-13: convolutional vision transformer (Wu et al., ICCV 2021, arXiv 2103.15808).

Three stages, whose maps of an image [3, S, S] are 64 x (S/4)², 192 x (S/8)² and 384 x (S/16)². Queries, keys and values
come from depth-wise convolutions of the map, so there are no position embeddings and any size fits.

The released code of arXiv 2207.10026 and the authors' own (microsoft/CvT) compute the same. Here one thing differs: they
squeeze the class token's features, so that the logits of a batch of one are [classes]; here they are [1, classes].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, QuickGELU
from torch import Tensor, nn

from bench.config.schema import Model, RecipeError

# of each stage: kernel, stride and padding of its embedding, channels, blocks, heads
STAGES = ((7, 4, 2, 64, 1, 1), (3, 2, 1, 192, 2, 3), (3, 2, 1, 384, 10, 6))
MLP_RATIO = 4
SHRINK = 16  # times: the strides of the three stages


def depthwise(width: int, stride: int) -> nn.Sequential:
    """A 3 x 3 convolution of each channel by itself, with batch norm: [batch, width, size, size] to size / stride."""
    convolution = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


class ConvAttention(nn.Module):
    """Multi-head attention on [batch, tokens, width]; the convolutions of its keys and values have stride 2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = width**-0.5  # of the full width and not of a head's, in the authors' code too
        self.conv_q, self.conv_k, self.conv_v = depthwise(width, 1), depthwise(width, 2), depthwise(width, 2)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """The tokens are a map of `size`; what stands before them, a class token, bypasses the convolutions."""
        extra = x.shape[1] - size.numel()
        token, pixels = x[:, :extra], x[:, extra:].transpose(1, 2).unflatten(2, size)
        projections = ((self.conv_q, self.q), (self.conv_k, self.k), (self.conv_v, self.v))
        q, k, v = (
            linear(torch.cat([token, conv(pixels).flatten(2).transpose(1, 2)], 1))
            .unflatten(2, (self.heads, -1))
            .transpose(1, 2)
            for conv, linear in projections
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP on [batch, tokens, width]: a map of `size`, after a class token if there is one."""

    def __init__(self, width: int, heads: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = ConvAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, MLP_RATIO * width, act_layer=QuickGELU)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Convolutional embedding and blocks: [batch, channels, size, size] to a map `stride` times smaller, or to tokens
    [batch, 1 + tokens, width] where there is a class token.

    Args:
        drop_path_rates: one a block.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int,
        padding: int,
        width: int,
        heads: int,
        drop_path_rates: list[float],
        class_token: bool,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in drop_path_rates)
        # The released truncated normal has its bounds, ±2, 100 deviations away, so this is the same distribution; but
        # timm's trunc_normal_ puts about one weight in 2^24 on the bound itself, and there are as many as that here.
        if class_token:
            nn.init.normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        size = x.shape[2:]
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, size)
        return x.transpose(1, 2).unflatten(2, size) if self.cls_token is None else x


class CvT(nn.Module):
    """Three stages; the last alone has a class token, which the head reads, and drop path."""

    def __init__(self, classes: int, drop_path_rate: float) -> None:
        super().__init__()
        stages, channels = [], 3
        for kernel, stride, padding, width, blocks, heads in STAGES:
            last = len(stages) == len(STAGES) - 1
            rates = torch.linspace(0, drop_path_rate if last else 0, blocks).tolist()
            stages.append(Stage(channels, kernel, stride, padding, width, heads, rates, last))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)
        nn.init.normal_(self.head.weight, std=0.02)  # its bias keeps PyTorch's default, as released

    def no_weight_decay(self) -> set[str]:
        """The class token; there are no position embeddings."""
        return {name for name, _ in self.named_parameters() if name.endswith(".cls_token")}

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, size, size] to logits [batch, classes]."""
        return self.head(self.norm(self.stages(images)[:, 0]))


def build(model: Model, classes: int) -> nn.Module:
    """A CvT-13. Its embeddings overlap, so any image of 16 px or more fits.

    Raises:
        RecipeError: the image is too small, or a size was given that the architecture fixes.
    """
    if any(size is not None for size in (model.patch_size, model.width, model.depth, model.heads, model.mlp_ratio)):
        raise RecipeError(f"model.patch_size, width, depth, heads and mlp_ratio: {model.name} fixes them for each stage")
    if model.image_size < SHRINK:
        raise RecipeError(
            f"model.image_size: {model.image_size} px, {model.name} shrinks images {SHRINK} times and takes"
            f" {SHRINK} or more"
        )
    return CvT(classes, model.drop_path_rate)

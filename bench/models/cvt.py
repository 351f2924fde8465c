"""CvT-13: convolutional vision transformer (Wu et al., ICCV 2021, arXiv 2103.15808).

It computes the same as the released code of arXiv 2207.10026 and the code of CvT's authors (microsoft/CvT), with one
difference: for a batch of one, their logits are [classes]; here, [1, classes].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Mlp, QuickGELU
from torch import Tensor, nn

from bench.config.schema import Model
from bench.models.layers import Block, Stage, init_linears, token_parameters
from bench.models.sizes import ALL_SIZES, check_sizes

NUMERICS = 1  # raised when results change: bench/config/numerics.py

# of each stage: kernel, stride and padding of its embedding, channels, blocks, heads
STAGES = ((7, 4, 2, 64, 1, 1), (3, 2, 1, 192, 2, 3), (3, 2, 1, 384, 10, 6))
MLP_RATIO = 4


def depthwise(width: int, stride: int) -> nn.Sequential:
    """A depth-wise 3 x 3 convolution with batch norm: [batch, width, size, size] to size / stride."""
    convolution = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))


class ConvAttention(nn.Module):
    """Multi-head attention on [batch, tokens, width]; the convolutions of its keys and values have stride 2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = width**-0.5  # of the full width, not of a head's, as in the authors' code
        self.conv_q, self.conv_k, self.conv_v = depthwise(width, 1), depthwise(width, 2), depthwise(width, 2)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """Tokens of a map of `size` to tokens. A class token, which is before them, bypasses the convolutions."""
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


class CvT(nn.Module):
    """Three stages with maps of 64 x (size / 4)², 192 x (size / 8)² and 384 x (size / 16)².

    Only the last has drop path and a class token, which the head reads. There are no position embeddings.
    """

    def __init__(self, classes: int, drop_path_rate: float) -> None:
        super().__init__()
        stages, channels = [], 3
        for kernel, stride, padding, width, depth, heads in STAGES:
            last = len(stages) == len(STAGES) - 1
            rates = torch.linspace(0, drop_path_rate if last else 0, depth).tolist()
            embed = nn.Conv2d(channels, width, kernel, stride, padding)
            blocks = []
            for rate in rates:
                attn, mlp = ConvAttention(width, heads), Mlp(width, MLP_RATIO * width, act_layer=QuickGELU)
                blocks.append(Block(width, attn, mlp, rate, nn.LayerNorm))
            stage = Stage(embed, nn.LayerNorm(width), blocks, class_token=last)
            if last:
                nn.init.normal_(stage.cls_token, std=0.02)
            init_linears(stage)
            stages.append(stage)
            channels = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)
        nn.init.normal_(self.head.weight, std=0.02)  # its bias keeps PyTorch's default, as released

    no_weight_decay = token_parameters

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, size, size] to logits [batch, classes]."""
        return self.head(self.norm(self.stages(images)[:, 0]))


def build(model: Model, classes: int) -> nn.Module:
    """CvT-13. Its embeddings overlap, so most images of 16 px or more fit."""
    check_sizes(model, ALL_SIZES)
    return CvT(classes, model.drop_path_rate)

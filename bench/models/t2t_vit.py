"""T2T-ViT: Tokens-to-Token vision transformer (Yuan et al., ICCV 2021, arXiv 2101.11986), as in the released code of
arXiv 2207.10026.

The code of T2T-ViT's authors (yitu-opensource/T2T-ViT) has an epsilon of 1e-5 in the norms, a dropout of 0.1 in the
Performer layers, and initial weights from a truncated normal distribution; here the epsilon is 1e-6, there is no dropout,
and the normal distribution is not truncated.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from bench.config.schema import Model
from bench.models.layers import init_linears, token_parameters
from bench.models.sizes import check_heads, check_sizes

NUMERICS = 1  # raised when results change: bench/config/numerics.py

TOKEN_WIDTH = 64  # channels of the tokens between the soft splits
DOWNSAMPLING = 16  # the product of the soft splits' strides, 4 * 2 * 2

LayerNorm = functools.partial(nn.LayerNorm, eps=1e-6)


def random_features(x: Tensor, directions: Tensor) -> Tensor:
    """Features whose inner product estimates exp(x · y): exp(w · x - |x|² / 2) / sqrt(m) for each of m directions w.

    These are the positive random features of the Performer (Choromanski et al., ICLR 2021, arXiv 2009.14794), which
    assume directions from a standard normal distribution. T2T-ViT's are orthogonal and of norm sqrt(m), so its kernel is
    only near exp(x · y). x: [batch, tokens, width], directions: [m, width], result: [batch, tokens, m].
    """
    half_norms = x.square().sum(-1, keepdim=True) / 2
    return torch.exp(x @ directions.T - half_norms) / math.sqrt(len(directions))


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, directions: Tensor) -> Tensor:
    """Attention [batch, tokens, width] with the kernel of `random_features`, of linear cost in the number of tokens.

    Unlike in softmax attention, q · k has no scale.
    """
    q, k = random_features(q, directions), random_features(k, directions)
    total = q @ k.sum(1).unsqueeze(2)  # [batch, tokens, 1]
    return q @ (k.transpose(1, 2) @ v) / (total + 1e-8)


class PerformerAttention(nn.Module):
    """Single-head kernel attention from `channels` to `width` channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.kqv = nn.Linear(channels, 3 * width)
        self.proj = nn.Linear(width, width)
        directions = nn.init.orthogonal_(torch.empty(width // 2, width)) * math.sqrt(width // 2)
        self.register_buffer("directions", directions)  # not trained, but saved, since the trained weights depend on them

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = self.kqv(x).chunk(3, dim=2)
        # A direction's norm is sqrt(m), so a feature can reach exp(m / 2) = exp(16), beyond fp16; and bf16 would round the
        # exponents, where an error of 0.1 changes the feature by a tenth.
        with torch.autocast(x.device.type, enabled=False):
            y = kernel_attention(q.float(), k.float(), v.float(), self.directions.float())
        # The width changes, so the values take the place of a residual connection around the attention.
        return v + self.proj(y.to(v.dtype))


class TokenLayer(nn.Module):
    """A transformer layer [batch, tokens, channels] -> [batch, tokens, width] with Performer attention."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = PerformerAttention(channels, width)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sinusoids(count: int, width: int) -> Tensor:
    """Fixed position embeddings [1, count, width]: the sine of position / 10000^(2i / width) in channel 2i, the cosine in
    2i + 1 (Vaswani et al., NeurIPS 2017, arXiv 1706.03762, section 3.5)."""
    channel = torch.arange(width)
    wavelengths = 10000.0 ** (channel // 2 * 2).double().div(width)
    angles = torch.arange(count).double()[:, None] / wavelengths
    return torch.where(channel % 2 == 0, angles.sin(), angles.cos()).float()[None]


class T2TViT(nn.Module):
    """Soft splits (overlapping patches as vectors) with Performer layers between, then a plain transformer.

    An image [3, S, S] becomes (S / 4)² tokens of 147 channels, (S / 8)² of 576, (S / 16)² of 576; a Performer layer before
    the second and the third split has 64 channels. The blocks see [batch, 1 + (S / 16)², width], class token first.
    """

    def __init__(
        self, size: int, classes: int, width: int, depth: int, heads: int, mlp_ratio: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        patch = TOKEN_WIDTH * 3 * 3
        self.token_layers = nn.ModuleList([TokenLayer(3 * 7 * 7, TOKEN_WIDTH), TokenLayer(patch, TOKEN_WIDTH)])
        self.proj = nn.Linear(patch, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("pos_embed", sinusoids(1 + (size // DOWNSAMPLING) ** 2, width), persistent=False)
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        options = {"mlp_ratio": mlp_ratio, "qkv_bias": False, "norm_layer": LayerNorm}
        self.blocks = nn.Sequential(*(Block(width, heads, drop_path=rate, **options) for rate in rates))
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.cls_token, std=0.02)
        init_linears(self)

    no_weight_decay = token_parameters

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, size, size] to logits [batch, classes]."""
        side = images.shape[-1] // 4
        x = F.unfold(images, 7, stride=4, padding=2).transpose(1, 2)
        for layer in self.token_layers:
            x = layer(x).transpose(1, 2).unflatten(2, (side, side))
            x = F.unfold(x, 3, stride=2, padding=1).transpose(1, 2)
            side //= 2
        x = self.proj(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def build(model: Model, classes: int) -> nn.Module:
    """T2T-ViT for images of a multiple of 16 px. Sizes that the recipe does not set are those of T2T-ViT-7."""
    width, depth, heads, mlp_ratio = model.width or 256, model.depth or 7, model.heads or 4, model.mlp_ratio or 2.0
    check_sizes(model, ("patch_size",))
    check_heads(width, heads)
    return T2TViT(model.image_size, classes, width, depth, heads, mlp_ratio, model.drop_path_rate)

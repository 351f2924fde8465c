"""Parts of the pyramids PVT and CvT, and initial weights of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class Block(nn.Module):
    """Attention and MLP on [batch, tokens, width]: a map of `size`, after a class token if there is one.

    Args:
        attn: called with the tokens and the size of their map.
    """

    def __init__(
        self, width: int, attn: nn.Module, mlp: nn.Module, drop_path_rate: float, norm_layer: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.norm1, self.attn = norm_layer(width), attn
        self.norm2, self.mlp = norm_layer(width), mlp
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patch embedding and blocks: [batch, channels, size, size] to a smaller map, or to tokens [batch, 1 + tokens, width]
    if there is a class token.

    Args:
        positions: number of tokens of its map, for learned position embeddings; 0: none.
    """

    def __init__(
        self, patch_embed: nn.Conv2d, norm: nn.Module, blocks: Iterable[Block], class_token: bool, positions: int = 0
    ) -> None:
        super().__init__()
        width = patch_embed.out_channels
        self.patch_embed, self.norm = patch_embed, norm
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, positions + class_token, width)) if positions else None
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        size = x.shape[2:]
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x, size)
        return x.transpose(1, 2).unflatten(2, size) if self.cls_token is None else x


def init_linears(network: nn.Module) -> None:
    """Draw the weights of linear layers from a normal distribution of deviation 0.02; biases are zero.

    The released truncated normal is the same, since its bounds are 100 deviations away; but timm's `trunc_normal_` puts
    about one weight in 2^24 on the bound itself, and these networks have about as many.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def token_parameters(network: nn.Module) -> list[str]:
    """The names of the class tokens and position embeddings, in order. They have no weight decay."""
    return [name for name, _ in network.named_parameters() if name.endswith(("cls_token", "pos_embed"))]

"""Drop path (stochastic depth, Huang et al., ECCV 2016, arXiv 1603.09382) with masks from outside.

timm's DropPath draws from torch's global generator, so its masks depend on the device, the number of processes and all
earlier draws. Here a mask depends on the seed, the epoch and the sample's position in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers import DropPath as TimmDropPath
from torch import Tensor, nn

from bench.rng import Stream, generator


class DropPath(nn.Module):
    """In training, scales each sample of a residual branch by 0 or 1 / (1 - rate).

    Some blocks call one DropPath for both of their branches, so each call takes the next of `scales`, [batch] each.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.scales: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        scale = self.scales.pop(0)
        if len(x) != len(scale):
            scale = scale.repeat_interleave(len(x) // len(scale))  # MobileViT folds patches into the batch
        return x * scale.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def replace_drop_path(network: nn.Module) -> None:
    """Replace every DropPath of timm by one of this module."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TimmDropPath):
                setattr(module, name, DropPath(child.drop_prob))


def sample_drop_path_masks(rates: Sequence[float], count: int, seed: int, epoch: int) -> Tensor:
    """The scales of an epoch: [calls, positions] float32, 0 if the branch is dropped.

    Args:
        rates: the rate of each call in a forward pass.
        count: number of positions in the epoch's global order.
    """
    uniform = generator(seed, Stream.DROP_PATH, epoch).random((count, len(rates)), np.float32).T
    keep = 1 - torch.tensor(rates, dtype=torch.float32)[:, None]
    return (torch.from_numpy(uniform) < keep) / keep

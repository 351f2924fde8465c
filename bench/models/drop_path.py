"""Drop path (stochastic depth, Huang et al., ECCV 2016) whose masks come from outside.

timm's own DropPath draws from the global generator, so its masks depend on the device, the number of processes and whatever
else drew before. Here a mask belongs to a sample's position in the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers import DropPath as TimmDropPath
from torch import Tensor, nn

from bench.rng import Stream, generator


class DropPath(nn.Module):
    """Scales each sample of a residual branch by 0 or 1 / (1 - rate) in training.

    Some blocks call one DropPath for both of their branches; each call of a forward takes the next row of `scales`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.scales: list[Tensor] = []  # [batch] each, for the calls of one forward, in order

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        scale = self.scales.pop(0)
        if len(x) != len(scale):
            scale = scale.repeat_interleave(len(x) // len(scale))  # patches of a sample folded into the batch (MobileViT)
        return x * scale.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4f}"


def replace_drop_path(network: nn.Module) -> None:
    """Put a DropPath of ours in the place of each of timm's."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, TimmDropPath):
                setattr(module, name, DropPath(child.drop_prob))


def sample_drop_path_masks(rates: Sequence[float], count: int, seed: int, epoch: int) -> Tensor:
    """The scales of an epoch: [calls, positions] float32, 0 where the branch is dropped.

    Args:
        rates: the rate of each call of a forward.
        count: positions in the epoch's global order.
    """
    uniform = generator(seed, Stream.DROP_PATH, epoch).random((count, len(rates)), np.float32).T
    keep = 1 - torch.tensor(rates, dtype=torch.float32)[:, None]
    return (torch.from_numpy(uniform) < keep) / keep

"""Resizing of maps by fixed matrices.

`F.interpolate` and `F.adaptive_avg_pool2d` give the same numbers, but their backward passes on a GPU add in no fixed order:
they are not reproducible.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resize(nn.Module):
    """Resize of maps as two matrix products.

    Args:
        mode: linear: bilinear, align_corners off, no antialiasing; nearest; area: adaptive average pooling.
    """

    def __init__(
        self, from_size: tuple[int, int], to_size: tuple[int, int], mode: Literal["linear", "nearest", "area"] = "linear"
    ) -> None:
        super().__init__()
        self._same = from_size == to_size
        align = False if mode == "linear" else None
        for name, source, target in (("down", from_size[0], to_size[0]), ("across", from_size[1], to_size[1])):
            rows = F.interpolate(torch.eye(source)[None], size=target, mode=mode, align_corners=align)[0]
            self.register_buffer(name, rows.T.contiguous(), persistent=False)  # [target, source]

    def forward(self, maps: Tensor) -> Tensor:
        """[..., height, width] to [..., target height, target width]."""
        return maps if self._same else self.down @ maps @ self.across.T

"""Computations written plainly in float64, which share no code with the suite."""

from __future__ import annotations

import torch


def bilinear(source, height, width):
    """Bilinear interpolation of [..., h, w], pixel by pixel from its definition (align_corners off)."""
    source = source.double()
    h, w = source.shape[-2:]
    out = torch.zeros(*source.shape[:-2], height, width, dtype=torch.float64)
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        top, bottom = int(y), min(int(y) + 1, h - 1)
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            left, right = int(x), min(int(x) + 1, w - 1)
            above = source[..., top, left] * (1 - (x - left)) + source[..., top, right] * (x - left)
            below = source[..., bottom, left] * (1 - (x - left)) + source[..., bottom, right] * (x - left)
            out[..., i, j] = above * (1 - (y - top)) + below * (y - top)
    return out

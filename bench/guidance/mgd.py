"""Masked generative distillation (MGD, Yang et al., ECCV 2022, arXiv 2205.01529): masked maps must generate the teacher's.

    loss = CE + weight · (1 / B) · Σ (G(M ⊙ P(S)) - resize(T))²

S and T are the last maps of student and teacher, P a trained 1 x 1 convolution to the teacher's channels, M a mask over the
channels of each sample, zero with probability `masked`, and G two 3 x 3 convolutions with ReLU between. The sum runs over
all values of a sample's map, so the term depends on the size of the maps. T is resized bilinearly to the student's grid.

As published for classification: weight 7e-5, masked 0.15. Source: yzd-v/MGD, cls/mmcls/distillation/losses/mgd.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.config.schema import MethodParams, key
from bench.guidance import Method, Outputs, Samples, Shape
from bench.guidance.resize import Resize

NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """weight: of the term. masked: probability that a channel of a sample is masked."""

    needs: ClassVar[frozenset[str]] = frozenset({"maps"})

    weight: float = key(7e-5, low=1e-12, high=1e6)
    masked: float = key(0.15, low=0, high=0.99)


class MGD(Method):
    """Squared error of generated maps, summed over a map and averaged over samples."""

    def __init__(self, params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> None:
        super().__init__()
        self.weight, self._masked = params.weight, params.masked
        (channels, *grid), (self._width, *teacher_grid) = student[-1], teacher[-1]
        width = self._width
        self.align = nn.Conv2d(channels, width, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.resize = Resize(tuple(teacher_grid), tuple(grid))

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """[count, channels] bool: false where a channel is masked."""
        return torch.from_numpy(rng.random((count, self._width), np.float32) >= self._masked)

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32, from maps [batch, channels, height, width]."""
        with torch.autocast(student.maps[-1].device.type, enabled=False):
            ours = self.align(student.maps[-1].float()) * samples.draws[:, :, None, None]
            difference = self.generate(ours) - self.resize(teacher.maps[-1].float())
            return difference.square().sum() / len(difference)


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> MGD:
    """The method for the last of these maps."""
    return MGD(params, student, teacher)

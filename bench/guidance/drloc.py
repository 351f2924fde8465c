"""Dense relative localisation (DrLoc, Liu et al., NeurIPS 2021, arXiv 2106.03746): predict how far two tokens are apart.

    loss = CE + weight · scale(e) · mean |MLP([f_i; f_j]) - Δ_ij|,   Δ_ij = (|row_i - row_j|, |column_i - column_j|)

over `pairs` random pairs of tokens of each image, from the output of the last block. Δ counts cells. There is no teacher.
The MLP has two hidden layers of 512 with ReLU. In epoch e, counted from 0, of E: scale(e) = e / ramp up to ramp, then
1 - (e - ramp) / (E - ramp).

As published (yhlleo/VTs-Drloc): 32 pairs, ramp 20; weight 0.1 for T2T-ViT and CvT, whose maps are averaged over 3 x 3 cells
with stride 2 first (`pool`), and 0.5 for Swin. There the maps of T2T-ViT and Swin are taken after the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config.schema import MethodParams, key, scaled_epochs
from bench.guidance import Method, Outputs, Samples, Shape

HIDDEN = 512
NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """weight: of the term. pairs: number per image. pool: whether the map is averaged with stride 2 first.
    ramp: epochs of a 300-epoch run until the term has its full weight, from which it falls to zero.
    """

    student_layers: ClassVar[Literal["chosen", "all"] | None] = "all"

    weight: float = key(0.1, low=1e-9, high=1e6)
    pairs: int = key(32, low=1, high=10_000)
    pool: bool = False
    ramp: int = key(20, low=1, scaled=True)


class DrLoc(Method):
    """Mean absolute error of predicted distances, in cells of the map."""

    def __init__(self, params: Params, student: Sequence[Shape]) -> None:
        super().__init__()
        self.weight, self._params = params.weight, params
        channels, height, width = student[-1]
        if params.pool:
            height, width = (height + 1) // 2, (width + 1) // 2
        self._cells = height * width
        place = torch.arange(self._cells)
        self.register_buffer("places", torch.stack([place // width, place % width], 1).float(), persistent=False)
        self.mlp = nn.Sequential(
            *(nn.Linear(2 * channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
        )

    def scale(self, epoch: int, epochs: int) -> float:
        ramp = scaled_epochs(self._params.ramp, epochs)
        return epoch / ramp if epoch < ramp else 1 - (epoch - ramp) / (epochs - ramp)

    def draw(self, rng: np.random.Generator, count: int) -> Tensor:
        """[count, 2, pairs] int16: the cells of each pair, drawn with replacement."""
        return torch.from_numpy(rng.integers(self._cells, size=(count, 2, self._params.pairs), dtype=np.int16))

    def forward(self, student: Outputs, teacher: Outputs | None, samples: Samples) -> Tensor:
        """A scalar in fp32, from the last map [batch, channels, height, width]."""
        with torch.autocast(student.maps[-1].device.type, enabled=False):
            maps = student.maps[-1].float()
            if self._params.pool:
                maps = F.avg_pool2d(maps, 3, stride=2, padding=1, count_include_pad=False)
            # tokens are chosen by a matrix product: the backward pass of indexing adds in no fixed order on a GPU
            cells = torch.arange(self._cells, device=maps.device)
            chosen = (samples.draws[..., None] == cells).float()  # [batch, 2, pairs, cells]
            tokens = torch.einsum("bspc,bdc->bpsd", chosen, maps.flatten(2))
            place = chosen @ self.places  # [batch, 2, pairs, 2]
            return F.l1_loss(self.mlp(tokens.flatten(2)), (place[:, 0] - place[:, 1]).abs())


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> DrLoc:
    """The method for the last of the student's maps."""
    return DrLoc(params, student)

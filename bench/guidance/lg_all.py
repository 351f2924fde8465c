"""LG-all: locality guidance from all blocks of the student, with learned mixing (iBKD, bapedragon/iBKD, with λ = 0).

    loss = CE + weight · Σ_k mean((resize(T_k) - resize(P_k(Σ_i a_{k,i} · R_i(F_i))))²),   a_k = softmax(w_k)

F_i are the maps after each block, T_k maps of the teacher, P_k trained 1 x 1 convolutions as in locality guidance. w_k
starts at zero: a uniform mean. R_i is a trained 1 x 1 convolution to the common width, or nothing if the block has it, then
a bilinear resize to the common grid, that of the middle block: 14 x 14 for all students at 224 px.

Source: methods/table1_cub200/adapters.py and methods/README.md there. As published: weight 2.5, width 192, and the adaptive
schedule in its variant `researcher`, which the recipe lg-all has. A constant weight is published too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.config.schema import MethodParams, key
from bench.guidance import Method, Outputs, Samples, Shape
from bench.guidance.locality import LocalityGuidance
from bench.guidance.locality import Params as LocalityParams
from bench.guidance.resize import Resize

WIDTH = 192
NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """weight: of the term; 2.5 as published.
    width: the common width; None: that of the blocks if all have the same, else 192 as published.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"maps"})
    student_layers: ClassVar[Literal["chosen", "all"] | None] = "all"

    weight: float = key(2.5, low=1e-9, high=1e6)
    width: int | None = key(None, low=1, high=8192)


class LGAll(Method):
    """The term of locality guidance, from mixtures of the maps of all blocks."""

    def __init__(self, params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> None:
        super().__init__()
        self.weight = params.weight
        widths, grid = {shape[0] for shape in student}, student[len(student) // 2][1:]
        width = params.width or (widths.pop() if len(widths) == 1 else WIDTH)
        self.align = nn.ModuleList()
        for channels, *size in student:
            convolution = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)
            self.align.append(nn.Sequential(convolution, Resize(tuple(size), grid)))
        self.mix = nn.ParameterList(torch.zeros(len(student)) for _ in teacher)
        self.locality = LocalityGuidance(LocalityParams(), [(width, *grid)] * len(teacher), teacher)

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32, from the maps of all blocks."""
        with torch.autocast(student.maps[0].device.type, enabled=False):
            maps = torch.stack([align(block.float()) for align, block in zip(self.align, student.maps, strict=True)])
            shares = torch.stack([logits.softmax(0) for logits in self.mix])  # [teacher's maps, blocks]
            mixed = (shares @ maps.flatten(1)).unflatten(1, maps.shape[1:])
        return self.locality(Outputs(None, list(mixed)), teacher, samples)


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> LGAll:
    """The method for the maps of all blocks and the teacher's maps."""
    return LGAll(params, student, teacher)

"""Locality guidance (Li et al., ECCV 2022, arXiv 2207.10026): imitate the feature maps of a small CNN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.guidance import Shape
from bench.recipes import Guidance


class LocalityGuidance(nn.Module):
    """sum over k of mean((resize(T_k) - resize(P_k(S_k)))²).

    S_k are student maps, T_k guide maps, P_k a 1 x 1 convolution with bias to the guide's channels; both maps are resized
    bilinearly to the larger height and width of the two. Computed in fp32, whatever autocast says.
    """

    def __init__(self, student: Sequence[Shape], guide: Sequence[Shape]) -> None:
        super().__init__()
        pairs = list(zip(student, guide, strict=True))
        self.projections = nn.ModuleList(nn.Conv2d(s[0], t[0], 1) for s, t in pairs)
        self.resize_student = nn.ModuleList(Resize(s[1:], _larger(s, t)) for s, t in pairs)
        self.resize_guide = nn.ModuleList(Resize(t[1:], _larger(s, t)) for s, t in pairs)

    def forward(self, student_maps: Sequence[Tensor], guide_maps: Sequence[Tensor]) -> Tensor:
        """Maps [batch, channels, height, width], first to last, to a scalar."""
        with torch.autocast(student_maps[0].device.type, enabled=False):
            loss = torch.zeros((), device=student_maps[0].device)
            for k, projection in enumerate(self.projections):
                # The resize's weights sum to one, so it commutes with the projection, which is cheaper on the small map.
                ours = self.resize_student[k](projection(student_maps[k].float()))
                theirs = self.resize_guide[k](guide_maps[k].float())
                loss = loss + F.mse_loss(ours, theirs)
        return loss


class Resize(nn.Module):
    """Bilinear resize (align_corners off, no antialiasing) as two matrix products.

    `F.interpolate` gives the same numbers, but its backward on a GPU adds in no fixed order, so no two runs would agree.
    """

    def __init__(self, from_size: tuple[int, int], to_size: tuple[int, int]) -> None:
        super().__init__()
        self._same = from_size == to_size
        for name, source, target in (("down", from_size[0], to_size[0]), ("across", from_size[1], to_size[1])):
            rows = F.interpolate(torch.eye(source)[None], size=target, mode="linear", align_corners=False)[0]
            self.register_buffer(name, rows.T.contiguous(), persistent=False)  # [target, source]

    def forward(self, maps: Tensor) -> Tensor:
        return maps if self._same else self.down @ maps @ self.across.T


def _larger(one: Shape, other: Shape) -> tuple[int, int]:
    return max(one[1], other[1]), max(one[2], other[2])


def build(config: Guidance, student: Sequence[Shape], guide: Sequence[Shape]) -> nn.Module:
    """Locality guidance for these maps; `config` holds nothing that changes the module itself."""
    return LocalityGuidance(student, guide)

"""Locality guidance (Li et al., ECCV 2022, arXiv 2207.10026): imitate the feature maps of a small CNN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.guidance import Shape
from bench.schema import Guidance


class LocalityGuidance(nn.Module):
    """sum over k of mean((f(resize(T_k)) - f(resize(P_k(S_k))))²).

    S_k are student maps, T_k guide maps; both are resized bilinearly to the larger height and width of the two. Computed in
    fp32, whatever autocast says. `guidance.transform` says what P_k and f are:

    linear: P_k is a 1 x 1 convolution with bias to the guide's channels, f nothing. The published method.
    attention, similarity: no P_k; f is the function of that name below.

    Args:
        student, guide: shapes of the maps, first to last.
        transform: as above.
        stages: which pairs count, from 0; None: all.
    """

    def __init__(
        self,
        student: Sequence[Shape],
        guide: Sequence[Shape],
        transform: str = "linear",
        stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if stages is None and len(student) != len(guide):
            raise ValueError(f"{len(student)} maps of the student meet {len(guide)} of the guide")
        self._stages = tuple(range(len(student))) if stages is None else tuple(stages)
        pairs = [(student[k], guide[k]) for k in self._stages]
        self._transform = {"linear": None, "attention": attention, "similarity": similarity}[transform]
        if self._transform is None:
            self.projections = nn.ModuleList(nn.Conv2d(s[0], t[0], 1) for s, t in pairs)
        self.resize_student = nn.ModuleList(Resize(s[1:], _larger(s, t)) for s, t in pairs)
        self.resize_guide = nn.ModuleList(Resize(t[1:], _larger(s, t)) for s, t in pairs)

    def forward(self, student_maps: Sequence[Tensor], guide_maps: Sequence[Tensor]) -> Tensor:
        """Maps [batch, channels, height, width], first to last, to a scalar."""
        with torch.autocast(student_maps[0].device.type, enabled=False):
            loss = torch.zeros((), device=student_maps[0].device)
            for k, stage in enumerate(self._stages):
                ours, theirs = student_maps[stage].float(), guide_maps[stage].float()
                if self._transform is None:
                    # The resize's weights sum to one, so it commutes with the projection, cheaper on the small map.
                    ours = self.projections[k](ours)
                ours, theirs = self.resize_student[k](ours), self.resize_guide[k](theirs)
                if self._transform is not None:
                    ours, theirs = self._transform(ours), self._transform(theirs)
                loss = loss + F.mse_loss(ours, theirs)
        return loss


def attention(maps: Tensor) -> Tensor:
    """Where a map is strong: the mean over channels of its squares, as a unit vector. [batch, c, h, w] to [batch, h w]
    (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928)."""
    return F.normalize(maps.square().mean(1).flatten(1))


def similarity(maps: Tensor) -> Tensor:
    """Which samples of the batch are alike: the Gram matrix of the flattened maps, rows as unit vectors. [batch, c, h, w]
    to [batch, batch] (Tung and Mori, ICCV 2019, arXiv 1907.09682)."""
    flat = maps.flatten(1)
    return F.normalize(flat @ flat.T)


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
    """Locality guidance for these maps, with the transform and the stages of `config`."""
    return LocalityGuidance(student, guide, config.transform, config.stages)

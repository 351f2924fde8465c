"""Locality guidance (Li et al., ECCV 2022, arXiv 2207.10026): the student's feature maps imitate those of a small CNN.

    loss = CE + weight · Σ_k mean((resize(T_k) - resize(P_k(S_k)))²)        (section 3.2)

S_k are maps of the student, T_k maps of the teacher, P_k trained 1 x 1 convolutions. Both maps are resized bilinearly to
the larger height and width of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config.schema import MethodParams, key
from bench.guidance import Method, Outputs, Samples, Shape
from bench.guidance.global_batch import gather
from bench.guidance.resize import Resize

NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """weight: of the term; 2.5 as published.
    transform: what is compared. linear: maps, after a trained projection, as published; attention: where a map is strong;
        similarity: which samples of the batch have similar maps.
    stages: which pairs of feature layers are compared, counted from 0; None: all.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"maps"})

    weight: float = key(2.5, low=1e-9, high=1e6)
    transform: Literal["linear", "attention", "similarity"] = "linear"
    stages: tuple[int, ...] | None = key(None, low=0)

    @property
    def needs_whole_batch(self) -> bool:
        return self.transform == "similarity"

    def problems(self, student_layers: int, teacher_layers: int) -> list[tuple[str, str]]:
        if self.stages is None:
            if student_layers == teacher_layers:
                return []
            fix = "set model.feature_layers or teacher.model.feature_layers, or choose pairs with guidance.params.stages"
            numbers = f"the student has {student_layers} feature layers and the teacher {teacher_layers}"
            return [("model.feature_layers", f"{numbers}: {fix}")]
        pairs = min(student_layers, teacher_layers)
        if not self.stages or len(set(self.stages)) < len(self.stages) or max(self.stages) >= pairs:
            return [("stages", f"got {list(self.stages)}, allowed are different numbers from 0 to {pairs - 1}")]
        return []


class LocalityGuidance(Method):
    """Σ_k mean((f(resize(T_k)) - f(resize(P_k(S_k))))²), computed in fp32.

    f is the function below that is named as the transform. Only `linear` has a P_k.

    Attributes:
        stages: the pairs of feature layers that are compared, counted from 0.
        projections: P_k of each.
    """

    def __init__(self, params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> None:
        super().__init__()
        self.weight = params.weight
        self.stages = tuple(range(len(student))) if params.stages is None else params.stages
        self._transform = {"linear": linear, "attention": attention, "similarity": similarity}[params.transform]
        self.projections, self.resize_student, self.resize_teacher = (nn.ModuleList() for _ in range(3))
        for s, t in ((student[k], teacher[k]) for k in self.stages):
            size = max(s[1], t[1]), max(s[2], t[2])
            self.projections.append(nn.Conv2d(s[0], t[0], 1) if params.transform == "linear" else nn.Identity())
            self.resize_student.append(Resize(s[1:], size))
            self.resize_teacher.append(Resize(t[1:], size))

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32, from maps [batch, channels, height, width]."""
        device = student.maps[0].device
        with torch.autocast(device.type, enabled=False):
            loss = torch.zeros((), device=device)
            for k in range(len(self.stages)):
                ours, theirs = self.compared(k, student, teacher)
                loss = loss + F.mse_loss(self._transform(ours), self._transform(theirs))
        return loss

    def compared(self, k: int, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        """The maps of the pair `stages[k]` before the transform: projected ones of the student, and the teacher's, at one
        size."""
        # The weights of the resize sum to one, so it commutes with the projection, which is cheaper on the smaller map.
        ours = self.resize_student[k](self.projections[k](student.maps[self.stages[k]].float()))
        return ours, self.resize_teacher[k](teacher.maps[self.stages[k]].float())


def linear(maps: Tensor) -> Tensor:
    """The maps themselves: the student's are projected linearly before."""
    return maps


def attention(maps: Tensor) -> Tensor:
    """Where maps are strong: the mean over channels of their squares, L2-normalised. [batch, c, h, w] to [batch, h · w]
    (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928)."""
    return F.normalize(maps.square().mean(1).flatten(1))


def similarity(maps: Tensor) -> Tensor:
    """Which samples are alike: the Gram matrix of the flattened maps, rows L2-normalised. [batch, c, h, w] to
    [global batch, global batch] (Tung and Mori, ICCV 2019, arXiv 1907.09682)."""
    flat = gather(maps.flatten(1))
    return F.normalize(flat @ flat.T)


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> LocalityGuidance:
    """The method for maps of these shapes."""
    return LocalityGuidance(params, student, teacher)

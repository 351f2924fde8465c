"""Hard distillation (DeiT, Touvron et al. 2021, arXiv 2012.12877): the teacher's most likely class is a second label.

loss = (1 - alpha) · CE(student, label) + alpha · CE(student, argmax of the teacher)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.config.schema import MethodParams, key
from bench.guidance import Method, Outputs, Samples, Shape

NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """alpha: share of the distillation term; 0.5 as published (section 4)."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    alpha: float = key(0.5, low=0.001, high=1)


class HardDistillation(Method):
    """Cross-entropy with the teacher's most likely class as the label."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.weight, self.ce_weight = params.alpha, 1 - params.alpha

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32."""
        with torch.autocast(student.logits.device.type, enabled=False):
            return F.cross_entropy(student.logits.float(), teacher.logits.argmax(1))


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> HardDistillation:
    """The method; feature maps are not used."""
    return HardDistillation(params)

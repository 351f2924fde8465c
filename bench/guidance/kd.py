"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): the student imitates the teacher's probabilities.

    loss = (1 - alpha) · CE + alpha · T² · KL(teacher || student)

The KL divergence at temperature T is averaged over samples. The released code of arXiv 2207.10026 divides it by
batch · classes instead.
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
    """temperature: T. alpha: share of the distillation term. Defaults: 4 and 0.9, the usual values for small CNNs."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    temperature: float = key(4.0, low=0.01, high=1000)
    alpha: float = key(0.9, low=0.001, high=1)


class KnowledgeDistillation(Method):
    """T² · KL(teacher || student) at temperature T, averaged over samples."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.temperature = params.temperature
        self.weight, self.ce_weight = params.alpha, 1 - params.alpha

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32; the gradient reaches the student only."""
        with torch.autocast(student.logits.device.type, enabled=False):
            ours, theirs = (
                F.log_softmax(logits.float() / self.temperature, dim=1)
                for logits in (student.logits, teacher.logits.detach())
            )
            return self.temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> KnowledgeDistillation:
    """The method; feature maps are not used."""
    return KnowledgeDistillation(params)

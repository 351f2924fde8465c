"""Logit standardisation (LSKD, Sun et al., CVPR 2024, arXiv 2403.01427): the student imitates standardised logits.

    loss = ce_share · CE + weight · T² · KL(softmax(ẑ_t / T) || softmax(ẑ_s / T)),   ẑ = (z - mean(z)) / (std(z) + 1e-7)

Mean and unbiased standard deviation are over the classes of a sample; the divergence is averaged over samples.

As published for DeiT-Ti: weight 10, T = 2, ce_share 0.5 (pycls/models/distill.py, core/trainer.py in tiny-transformers of
sunshangquan/logit-standardization-KD). PiT's file there leaves weight 9, and names of logs suggest T = 3 and weight 6 or
10.
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
    """weight: of the term. temperature: T. ce_share: weight of cross-entropy."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    weight: float = key(10.0, low=1e-9, high=1e6)
    temperature: float = key(2.0, low=0.01, high=1000)
    ce_share: float = key(0.5, low=0, high=1000)


class LSKD(Method):
    """T² · KL(teacher || student) of standardised logits, averaged over samples."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.temperature = params.temperature
        self.weight, self.ce_weight = params.weight, params.ce_share

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32, from logits [batch, classes]."""
        with torch.autocast(student.logits.device.type, enabled=False):
            ours, theirs = (
                F.log_softmax(standardised(outputs.logits.float()) / self.temperature, dim=1)
                for outputs in (student, teacher)
            )
            return self.temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def standardised(logits: Tensor) -> Tensor:
    """Logits [batch, classes] with mean 0 and standard deviation 1 in each row."""
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> LSKD:
    """The method; feature maps are not used."""
    return LSKD(params)

"""Decoupled knowledge distillation (DKD, Zhao et al., CVPR 2022, arXiv 2203.08679): target and other classes apart.

    loss = CE + weight · scale(e) · T² · [alpha · KL(b_t || b_s) + beta · KL(q_t || q_s)]
    b = (p_y, 1 - p_y);   q = probabilities among the classes other than y;   p = softmax(z / T)

y is the label, and scale(e) = min((e + 1) / ramp, 1) in epoch e, counted from 0. Both divergences are averaged over
samples.

As published for CNNs: alpha 1, beta 8, T = 4, ramp 20 (megvii-research/mdistiller; beta 2 for ResNet-56 to ResNet-20).
Between architectures, OFAKD uses beta 2 and T = 1. No published number is known for these students.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.config.schema import MethodParams, key, scaled_epochs
from bench.guidance import Method, Outputs, Samples, Shape

LOWERED = 1000.0  # by which the target's logit is lowered, so that it has no probability
NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """weight: of the term. alpha, beta: of its two parts, target and other classes. temperature: T.
    ramp: epochs of a 300-epoch run until the term has its full weight.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    weight: float = key(1.0, low=1e-9, high=1e6)
    alpha: float = key(1.0, low=0, high=1e6)
    beta: float = key(8.0, low=0, high=1e6)
    temperature: float = key(4.0, low=0.01, high=1000)
    ramp: int = key(20, low=1, scaled=True)


class DKD(Method):
    """T² · [alpha · KL of the target's probability + beta · KL among the other classes], averaged over samples."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.weight, self._params = params.weight, params

    def scale(self, epoch: int, epochs: int) -> float:
        return min((epoch + 1) / scaled_epochs(self._params.ramp, epochs), 1.0)

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32, from logits [batch, classes]."""
        params = self._params
        with torch.autocast(student.logits.device.type, enabled=False):
            target = F.one_hot(samples.labels, student.logits.shape[1])
            (ours, other_ours), (theirs, other_theirs) = (
                _parts(outputs.logits.float() / params.temperature, target) for outputs in (student, teacher)
            )
            of_target = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
            of_others = F.kl_div(other_ours, other_theirs, reduction="batchmean", log_target=True)
            return params.temperature**2 * (params.alpha * of_target + params.beta * of_others)


def _parts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log b [batch, 2], and log q [batch, classes] with about -LOWERED at the target."""
    others = torch.logsumexp(logits - LOWERED * target, 1)
    both = torch.stack([(logits * target).sum(1), others], 1)
    return F.log_softmax(both, 1), F.log_softmax(logits - LOWERED * target, 1)


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> DKD:
    """The method; feature maps are not used."""
    return DKD(params)

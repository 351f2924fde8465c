"""DIST (Huang et al., NeurIPS 2022, arXiv 2205.10536): the student's probabilities correlate with the teacher's.

    loss = CE + weight · τ² · [beta · (1 - mean_n ρ(p_s[n], p_t[n])) + gamma · (1 - mean_c ρ(p_s[:, c], p_t[:, c]))]

p = softmax(z / τ) and ρ is Pearson's correlation: over the classes for each sample n, and over the samples of the global
batch, that of all processes, for each class c.

As published: beta = gamma = τ = 1 (hunto/DIST_KD). No published number is known for these students.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.config.schema import MethodParams, key
from bench.guidance import Method, Outputs, Samples, Shape
from bench.guidance.global_batch import gather

NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """weight: of the term. beta, gamma: of its parts, over classes and over samples. temperature: τ."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    weight: float = key(1.0, low=1e-9, high=1e6)
    beta: float = key(1.0, low=0, high=1e6)
    gamma: float = key(1.0, low=0, high=1e6)
    temperature: float = key(1.0, low=0.01, high=1000)

    @property
    def needs_whole_batch(self) -> bool:
        return True


class DIST(Method):
    """τ² · [beta · (1 - correlation over classes) + gamma · (1 - correlation over samples)]."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.weight, self._params = params.weight, params

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32, from logits [batch, classes]."""
        params = self._params
        with torch.autocast(student.logits.device.type, enabled=False):
            ours, theirs = (
                torch.softmax(gather(outputs.logits.float()) / params.temperature, 1) for outputs in (student, teacher)
            )
            over_classes, over_samples = correlation(ours, theirs).mean(), correlation(ours.T, theirs.T).mean()
            return params.temperature**2 * (params.beta * (1 - over_classes) + params.gamma * (1 - over_samples))


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of the rows of two matrices [rows, columns]: [rows]. 1e-8 is added to its denominator."""
    one, other = (matrix - matrix.mean(1, keepdim=True) for matrix in (one, other))
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + 1e-8)


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> DIST:
    """The method; feature maps are not used."""
    return DIST(params)

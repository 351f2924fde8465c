"""ReviewKD (Chen et al., CVPR 2021, arXiv 2104.09044): the student's maps are fused from deep to shallow, then imitate.

    loss = CE + weight · scale(e) · Σ_k HCL(F_k, resize(T_k)),   scale(e) = min(e / ramp, 1) in epoch e, counted from 0
    x_k = BN(conv1x1(S_k));   r_K = x_K;   (a, b) = sigmoid(conv1x1([x_k; up(r_{k+1})]));   r_k = a · x_k + b · up(r_{k+1})
    F_k = BN(conv3x3(r_k))
    HCL(F, T) = Σ_l c_l · mean((pool_l(F) - pool_l(T))²) / Σ_l c_l

over the whole map (c = 1) and its averages on 4 x 4, 2 x 2 and 1 x 1 cells (c halved each time; grids that are not smaller
than the map are left out). `up` is nearest. The teacher's maps are resized bilinearly to the student's grids.

As published for CNNs: weight 5, ramp 20 (megvii-research/mdistiller). The defaults are those of a rerun on DeiT-Ti, weight
0.6, ramp 20, which took its blocks 3, 7 and 11: --set model.feature_layers=[blocks.3,blocks.7,blocks.11]. The width of the
fused maps is that of the student's last map, at most 512; it is 192 for DeiT-Ti, as in the rerun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.config.schema import MethodParams, key, scaled_epochs
from bench.guidance import Method, Outputs, Samples, Shape
from bench.guidance.global_batch import BatchNorm
from bench.guidance.resize import Resize

MAX_WIDTH = 512
NUMERICS = 1  # raised when results change: bench/config/numerics.py


@dataclass(frozen=True)
class Params(MethodParams):
    """weight: of the term. ramp: epochs of a 300-epoch run until the term has its full weight."""

    needs: ClassVar[frozenset[str]] = frozenset({"maps"})

    weight: float = key(0.6, low=1e-9, high=1e6)
    ramp: int = key(20, low=1, scaled=True)

    @property
    def needs_whole_batch(self) -> bool:
        return True  # batch norm

    def problems(self, student_layers: int, teacher_layers: int) -> list[tuple[str, str]]:
        if student_layers == teacher_layers:
            return []
        numbers = f"the student has {student_layers} feature layers and the teacher {teacher_layers}"
        return [("model.feature_layers", f"{numbers}: set model.feature_layers or teacher.model.feature_layers")]


class ReviewKD(Method):
    """The hierarchical context loss of fused maps."""

    def __init__(self, params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> None:
        super().__init__()
        self.weight, self._ramp = params.weight, params.ramp
        width = min(MAX_WIDTH, student[-1][0])
        self.reduce, self.fuse, self.expand, self.up, self.resize, self.pools = (nn.ModuleList() for _ in range(6))
        for k, (s, t) in enumerate(zip(student, teacher, strict=True)):
            self.reduce.append(nn.Sequential(nn.Conv2d(s[0], width, 1, bias=False), BatchNorm(width)))
            self.expand.append(nn.Sequential(nn.Conv2d(width, t[0], 3, padding=1, bias=False), BatchNorm(t[0])))
            self.resize.append(Resize(t[1:], s[1:]))
            self.pools.append(nn.ModuleList(Resize(s[1:], (side, side), "area") for side in (4, 2, 1) if side < s[1]))
            if k + 1 < len(student):
                self.fuse.append(nn.Conv2d(2 * width, 2, 1))
                self.up.append(Resize(student[k + 1][1:], s[1:], "nearest"))

    def scale(self, epoch: int, epochs: int) -> float:
        return min(epoch / scaled_epochs(self._ramp, epochs), 1.0)

    def forward(self, student: Outputs, teacher: Outputs, samples: Samples) -> Tensor:
        """A scalar in fp32, from maps [batch, channels, height, width]."""
        loss = torch.zeros((), device=student.maps[0].device)
        with torch.autocast(loss.device.type, enabled=False):
            review = None  # r_{k+1}
            for k in reversed(range(len(self.reduce))):
                own = self.reduce[k](student.maps[k].float())
                if review is not None:
                    review = self.up[k](review)
                    gates = torch.sigmoid(self.fuse[k](torch.cat([own, review], 1)))
                    own = gates[:, :1] * own + gates[:, 1:] * review
                review = own
                loss = loss + self._context_loss(k, self.expand[k](review), self.resize[k](teacher.maps[k].float()))
        return loss

    def _context_loss(self, k: int, ours: Tensor, theirs: Tensor) -> Tensor:
        loss, share, shares = F.mse_loss(ours, theirs), 1.0, 1.0
        for pool in self.pools[k]:
            share /= 2
            shares += share
            loss = loss + share * F.mse_loss(pool(ours), pool(theirs))
        return loss / shares


def build(params: Params, student: Sequence[Shape], teacher: Sequence[Shape]) -> ReviewKD:
    """The method for maps of these shapes."""
    return ReviewKD(params, student, teacher)

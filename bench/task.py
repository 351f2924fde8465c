"""The one trainable module: student, taps and guidance, from a batch to its loss.

Data parallelism, autocast and the optimiser see everything that learns; the guide stands outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from bench.models.tapped import Tapped
from bench.recipes import Train


class Task(nn.Module):
    """A network with its loss: cross-entropy, plus the weighted guidance loss where there is guidance.

    Args:
        student: the network that is trained (a guide, when it is the guide's own training).
        guidance: a module from `bench.guidance.create`, or None.
        weight: of the guidance loss; 2.5 in arXiv 2207.10026.
    """

    def __init__(self, student: Tapped, guidance: nn.Module | None = None, weight: float = 0.0) -> None:
        super().__init__()
        self.student, self.guidance, self.weight = student, guidance, weight

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        drop_path: Tensor | None = None,
        guide_maps: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One batch.

        Args:
            images: [batch, 3, size, size]; labels: [batch] int64.
            drop_path: [calls, batch] scales, see bench/models/drop_path.py.
            guide_maps: the guide's map for each tap, [batch, channels, height, width].

        Returns:
            The loss, the unweighted guidance loss (zero without guidance), and the logits [batch, classes].
        """
        logits, maps = self.student(images, drop_path)
        loss = F.cross_entropy(logits.float(), labels)
        guidance_loss = torch.zeros_like(loss)
        if self.guidance is not None:
            guidance_loss = self.guidance(maps, guide_maps)
            loss = loss + self.weight * guidance_loss
        return loss, guidance_loss.detach(), logits


def make_optimizer(task: Task, train: Train) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum. No weight decay on one-dimensional parameters (biases, norms), nor on what the
    network itself excepts (class token, position embeddings), as released."""
    network = task.student.network
    excepted = getattr(network, "no_weight_decay", set)()
    groups = param_groups_weight_decay(network, train.weight_decay, no_weight_decay_list=excepted)
    if task.guidance is not None:
        groups += param_groups_weight_decay(task.guidance, train.weight_decay)
    groups = [group for group in groups if group["params"]]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, train.lr, train.momentum, nesterov=train.momentum > 0, fused=True)
    return torch.optim.AdamW(groups, train.lr, train.betas, fused=True)

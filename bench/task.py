"""The one trainable module: student, taps and guidance, from a batch to its loss.

Data parallelism, autocast and the optimiser see everything that learns; the guide stands outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from bench.guidance.logits import logit_loss
from bench.models.tapped import Tapped
from bench.schema import Guidance, Train


class Task(nn.Module):
    """A network with its loss.

    Without guidance, cross-entropy. With it, (1 - w) cross-entropy + w logit term + weight * feature term, where w is
    `guidance.logit_weight` if the guide's logits are imitated and else 0 (facts of arXiv 2207.10026: weight 2.5, w 0.5).

    Args:
        student: the network that is trained (a guide, when it is the guide's own training).
        features: a module from `bench.guidance.create`, or None.
        config: the recipe's guidance, or None.
    """

    def __init__(self, student: Tapped, features: nn.Module | None = None, config: Guidance | None = None) -> None:
        super().__init__()
        self.student, self.guidance, self.config = student, features, config

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        drop_path: Tensor | None = None,
        guide_maps: Sequence[Tensor] | None = None,
        guide_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One batch.

        Args:
            images: [batch, 3, size, size]; labels: [batch] int64.
            drop_path: [calls, batch] scales, see bench/models/drop_path.py.
            guide_maps: the guide's map for each of its taps, [batch, channels, height, width]; None in epochs without
                guidance.
            guide_logits: [batch, classes], where they are imitated.

        Returns:
            The loss, and the unweighted terms of guidance added up (zero without guidance).
        """
        logits, maps = self.student(images, drop_path)
        loss = F.cross_entropy(logits.float(), labels)
        guidance_loss = torch.zeros_like(loss)
        if guide_logits is not None:
            config = self.config
            term = logit_loss(logits, guide_logits, config.logits, config.temperature)
            loss = (1 - config.logit_weight) * loss + config.logit_weight * term
            guidance_loss = guidance_loss + term.detach()
        if self.guidance is not None and guide_maps is not None:
            term = self.guidance(maps, guide_maps)
            loss = loss + self.config.weight * term
            guidance_loss = guidance_loss + term.detach()
        elif self.guidance is not None:
            # Data parallelism waits for a gradient of every parameter, so projections that rest get one of zero.
            loss = loss + 0 * sum(parameter.sum() for parameter in self.guidance.parameters())
        return loss, guidance_loss


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

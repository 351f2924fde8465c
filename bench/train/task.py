"""The trainable module (student, feature layers and guidance methods), its optimiser and its learning rate.

Data parallelism, autocast, compilation and the optimiser see everything that learns. The teacher is outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from bench.config.schema import Train
from bench.data.mix import Mixed
from bench.guidance import Outputs, Samples, Signals
from bench.models.features import FeatureExtractor


class Task(nn.Module):
    """A network with its loss: cross-entropy, or with guidance ce_weight · cross-entropy + Σ weight · scale · term.

    Args:
        student: the network that is trained (a teacher, in the teacher's own training).
        methods: guidance methods by name, from `bench.guidance.create`; None without guidance.
        label_smoothing: of the cross-entropy.
    """

    def __init__(
        self, student: FeatureExtractor, methods: nn.ModuleDict | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.student, self.guidance, self._smoothing = student, methods, label_smoothing

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        drop_path: Tensor | None = None,
        signals: Signals | Callable[[], Signals] | None = None,
        mixed: Mixed | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch.

        Args:
            images: [batch, 3, size, size]; labels: [batch] int64, of mixed images that of the larger share.
            drop_path: [calls, batch] scales, see bench/models/drop_path.py.
            signals: what guides the student in these images, or a function that returns it, which is called after the
                student's forward pass; None in epochs without guidance.
            mixed: shares and other labels of mixed images.

        Returns:
            The loss, and the sum of the unweighted guidance terms (zero without guidance).
        """
        logits, maps = self.student(images, drop_path)
        return self.loss(logits, maps, labels, signals() if callable(signals) else signals, mixed)

    def loss(
        self, logits: Tensor, maps: list[Tensor], labels: Tensor, signals: Signals | None, mixed: Mixed | None
    ) -> tuple[Tensor, Tensor]:
        """What `forward` returns, from the outputs of the student."""
        loss = cross_entropy(logits.float(), labels, mixed, self._smoothing)
        guidance_loss = torch.zeros_like(loss)
        if self.guidance is None or (signals is None and not torch.distributed.is_initialized()):
            return loss, guidance_loss
        if signals is None:
            # Data parallelism waits for a gradient of every parameter, so inactive projections get a gradient of zero.
            return loss + 0 * sum(parameter.sum() for parameter in self.guidance.parameters()), guidance_loss
        for method in self.guidance.values():
            if method.ce_weight != 1:
                loss = method.ce_weight * loss
        for name, method in self.guidance.items():
            student = Outputs(logits, [maps[index] for index in method.student_maps])
            term = method(student, signals.teacher, Samples(labels, signals.draws.get(name)))
            loss = loss + method.weight * (method.ramp * term)
            guidance_loss = guidance_loss + term.detach()
        return loss, guidance_loss


def cross_entropy(logits: Tensor, labels: Tensor, mixed: Mixed | None = None, smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy of logits [batch, classes] with labels [batch], smoothed, or with those of mixed images.

    Equal to timm's SoftTargetCrossEntropy of its `mixup_target`: a label with smoothing s has 1 - s + s / classes, every
    other class s / classes, and mixed images have both labels by their shares.
    """
    if mixed is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    larger, smaller = (
        F.cross_entropy(logits, each, label_smoothing=smoothing, reduction="none") for each in (labels, mixed.labels)
    )
    return (mixed.shares * larger + (1 - mixed.shares) * smaller).mean()


def make_optimizer(task: Task, train: Train) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum.

    As in the released code, there is no weight decay on one-dimensional parameters (biases, norms), nor on those that the
    network itself excludes (class token, position embeddings).
    """
    network = task.student.network
    excluded = getattr(network, "no_weight_decay", set)()
    groups = param_groups_weight_decay(network, train.weight_decay, no_weight_decay_list=excluded)
    if task.guidance is not None:
        groups += param_groups_weight_decay(task.guidance, train.weight_decay)
    groups = [group for group in groups if group["params"]]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, train.lr, train.momentum, nesterov=train.momentum > 0, fused=True)
    return torch.optim.AdamW(groups, train.lr, train.betas, fused=True)


def learning_rate(epoch: float, train: Train) -> float:
    """The learning rate at an epoch: linear warm-up, then a cosine over all epochs, warm-up included.

    Args:
        epoch: counted from 0; of a step within an epoch, with the part of the epoch that is over.

    With the paper protocol: 5e-7 in epoch 0, 4.946e-4 in epoch 20 (the peak), 5.014e-6 in the last (released code).
    """
    if epoch < train.warmup_epochs:
        return train.warmup_lr + (train.lr - train.warmup_lr) * epoch / train.warmup_epochs
    return train.min_lr + (train.lr - train.min_lr) * (1 + math.cos(math.pi * epoch / train.epochs)) / 2

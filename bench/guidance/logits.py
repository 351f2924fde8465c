"""Logit guidance: knowledge distillation (Hinton et al. 2015, arXiv 1503.02531) from the guide to any student."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def logit_loss(student: Tensor, guide: Tensor, kind: Literal["soft", "hard"], temperature: float = 1.0) -> Tensor:
    """How far the student's logits are from the guide's, in fp32.

    soft: temperature² · KL(guide || student) of the probabilities at that temperature, averaged over samples.
    hard: cross-entropy with the guide's arg-max as the label.

    Args:
        student, guide: [batch, classes], of the ordinary head.

    Returns:
        A scalar; the gradient reaches the student alone.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, guide = student.float(), guide.detach().float()
        if kind == "hard":
            return F.cross_entropy(student, guide.argmax(1))
        ours, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, guide))
        return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)

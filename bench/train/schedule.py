"""The learning-rate schedule."""

from __future__ import annotations

import math

from bench.config.schema import Train


def learning_rate(epoch: int, train: Train) -> float:
    """The learning rate of an epoch: linear warm-up, then a cosine over all epochs, warm-up included.

    Args:
        epoch: counted from 0.

    With the paper protocol: 5e-7 in epoch 0, 4.946e-4 in epoch 20 (the peak), 5.014e-6 in the last (released code).
    """
    if epoch < train.warmup_epochs:
        return train.warmup_lr + (train.lr - train.warmup_lr) * epoch / train.warmup_epochs
    return train.min_lr + (train.lr - train.min_lr) * (1 + math.cos(math.pi * epoch / train.epochs)) / 2

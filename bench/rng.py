"""Random numbers that are a function of (seed, stream, epoch) alone, so that a run needs no generator state.

Numbers are drawn on the host for all positions of an epoch at once. Position p in the global sample order therefore
gets the same numbers on a CPU or a GPU, on one process or eight, in a first run or a resumed one.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for. The values are part of every result: never renumber them."""

    ORDER = 0  # of the samples
    CROP = 1
    FLIP = 2
    ERASE = 3
    NOISE = 4  # that fills erased boxes
    DROP_PATH = 5
    PIL = 6  # one seed a sample, for transforms with generators of their own
    SUBSET = 7  # which images `data.train_limit` keeps
    STUDENT = 8  # initial weights
    PROJECTION = 9  # initial weights
    HOLDOUT = 10  # which training images `data.holdout` evaluates on
    TEST_SHARE = 11  # which images are the test set of a dataset that has none
    RAND_AUGMENT = 12  # of the batched pipeline
    GUIDANCE = 13  # the draws of guidance methods, such as masks
    MIX = 14  # of Mixup and CutMix


def generator(seed: int, stream: Stream, epoch: int = 0) -> np.random.Generator:
    """A numpy generator over Philox, a counter-based generator: equal arguments give equal numbers, everywhere.

    Args:
        seed: 0 to 2**63 - 1.
        stream: what the numbers are for; streams are independent of each other.
        epoch: 0 to 2**32 - 1.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, (int(stream) << 32) | epoch], dtype=np.uint64)))


def torch_seed(seed: int, stream: Stream) -> int:
    """A seed for `torch.manual_seed`, for initial weights that torch's and timm's own code draws."""
    return int(generator(seed, stream).integers(2**63))

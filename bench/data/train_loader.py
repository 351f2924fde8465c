"""What the training loaders of both pipelines share: batches, shards and the order of the samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.config.schema import Recipe, RecipeError
from bench.data.subsets import DecodedDataset
from bench.rng import Stream, generator


@dataclass(frozen=True)
class Batch:
    """The samples of one process in one step.

    images: [batch, 3, size, size] float32, augmented and normalised, on the device.
    labels: [batch] int64, on the device.
    positions: of the samples in the global order of the epoch.
    indices: [batch] int64, of the samples in the training subset.
    boxes: [batch, 4] float32, top, left, height, width of the crops, in fractions of the native image; on the device.
    flips: [batch] bool, whether the samples were mirrored; on the device.
    """

    images: Tensor
    labels: Tensor
    positions: slice
    indices: np.ndarray
    boxes: Tensor
    flips: Tensor


@dataclass(frozen=True)
class Shard:
    """The part of the work of one process: `rank` of `world` processes."""

    rank: int = 0
    world: int = 1


ALONE = Shard()


class TrainLoader:
    """The training batches of a recipe. Iterate over `epoch(number)`.

    The global batch of a step is divided into contiguous, equal parts, one per process. The last, incomplete batch is not
    used.

    Attributes:
        subset: the images to train on.
        steps: per epoch.
        positions: samples per epoch, over all processes.

    Raises:
        RecipeError: the batch cannot be divided among the processes, or the pipeline cannot process these images.
    """

    def __init__(self, recipe: Recipe, dataset: DecodedDataset, device: torch.device, shard: Shard = ALONE) -> None:
        self.recipe, self.device, self.shard = recipe, device, shard
        self.subset = dataset.training(recipe.data)
        batch = recipe.train.batch_size
        if batch % shard.world:
            raise RecipeError(f"train.batch_size: {batch} cannot be divided among {shard.world} processes")
        self.steps = len(self.subset) // batch
        if self.steps == 0:
            raise RecipeError(f"train.batch_size: {batch} is more than the {len(self.subset)} training images")
        self.positions = self.steps * batch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, starting with step `first`."""
        raise NotImplementedError

    def order(self, epoch: int) -> np.ndarray:
        """[positions] int64, the index in the subset of the image at each position of an epoch."""
        return generator(self.recipe.seed, Stream.ORDER, epoch).permutation(len(self.subset))[: self.positions]

    def rows(self, first: int) -> list[slice]:
        """The positions of this process in each step, starting with step `first`."""
        batch = self.recipe.train.batch_size
        own = batch // self.shard.world
        starts = (step * batch + self.shard.rank * own for step in range(first, self.steps))
        return [slice(start, start + own) for start in starts]

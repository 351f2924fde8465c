"""What all training loaders share: shards, batches and the order of the samples."""

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
    """What one process trains on in one step.

    images: [batch, 3, size, size] float32, augmented and normalised, on the device.
    labels: [batch] int64.
    positions: where in the epoch's global order these samples stand.
    indices: [batch], which of the training part's images they are.
    boxes: [batch, 4] float32, top, left, height, width of their crops, in shares of the native image.
    flips: [batch] bool, whether they were mirrored.
    """

    images: Tensor
    labels: Tensor
    positions: slice
    indices: np.ndarray
    boxes: Tensor
    flips: Tensor


@dataclass(frozen=True)
class Shard:
    """A process's part of the work: `rank` of `world`."""

    rank: int = 0
    world: int = 1


class TrainLoader:
    """The training batches of a recipe. Iterate over `epoch(number)`.

    The global batch of a step is cut into contiguous, equal parts, one a process. The last partial batch is dropped.

    Raises:
        RecipeError: the batch does not divide among the processes, or the pipeline cannot take these images.
    """

    def __init__(self, recipe: Recipe, store: DecodedDataset, device: torch.device, share: Shard = Shard()) -> None:
        self._recipe, self._device, self._share = recipe, device, share
        self._part = store.training(recipe.data)
        batch = recipe.train.batch_size
        if batch % share.world:
            raise RecipeError(f"train.batch_size: {batch} does not divide among {share.world} processes")
        self.steps = len(self._part) // batch
        if self.steps == 0:
            raise RecipeError(f"train.batch_size: {batch} is more than the {len(self._part)} training images")
        self.positions = self.steps * batch  # samples an epoch, over all processes

    def _order(self, epoch: int) -> np.ndarray:
        """Which of the training part's images stands at each position."""
        order = generator(self._recipe.seed, Stream.ORDER, epoch).permutation(len(self._part))
        return order[: self.positions]

    def _rows(self, step: int) -> slice:
        """The positions that this process trains on in a step."""
        batch = self._recipe.train.batch_size
        own = batch // self._share.world
        first = step * batch + self._share.rank * own
        return slice(first, first + own)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, beginning with step `first`."""
        raise NotImplementedError

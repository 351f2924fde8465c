"""Training batches, evaluation batches, and the transform for single images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.config.schema import Recipe
from bench.cores import cores_per_process
from bench.data.augment import BatchTransform
from bench.data.decode import to_pixels
from bench.data.device_loader import DeviceLoader
from bench.data.mix import Mixed, mix, sample_mix_params
from bench.data.pil_loader import PilLoader
from bench.data.subsets import DecodedDataset, Images
from bench.rng import Stream, generator

PIPELINES = {"batched": DeviceLoader, "pil": PilLoader}


@dataclass(frozen=True)
class Batch:
    """The samples of one process in one step. Tensors are on the device."""

    images: Tensor  # [batch, 3, size, size] float32, augmented and normalised
    labels: Tensor  # [batch] int64; of mixed images that of the larger share
    positions: slice  # of the samples in the global order of the epoch
    indices: np.ndarray  # [batch] int64, of the samples in the training subset
    boxes: Tensor  # [batch, 4] float32, top, left, height, width of the crops, in fractions of the native image
    flips: Tensor  # [batch] bool, whether the samples were mirrored; as boxes, from before images are mixed
    mixed: Mixed | None = None  # shares and other labels of mixed images; None if the recipe mixes none


@dataclass(frozen=True)
class Shard:
    """The part of the work of one process: `rank` of `world` processes."""

    rank: int = 0
    world: int = 1


ALONE = Shard()


class TrainLoader:
    """The training batches of a recipe, from the pipeline `data.pipeline`.

    The global batch of a step is divided into contiguous, equal parts, one per process. The last, incomplete batch is not
    used. `check_processes` and `check_dataset` have refused recipes for which this is impossible.
    """

    def __init__(self, recipe: Recipe, dataset: DecodedDataset, device: torch.device, shard: Shard = ALONE) -> None:
        self._subset = dataset.training(recipe.data)
        self._seed, self._batch, self._shard = recipe.seed, recipe.train.batch_size, shard
        self._augment, self._size, self._device = recipe.augment, recipe.model.image_size, device
        self.steps = len(self._subset) // self._batch  # per epoch
        self.positions = self.steps * self._batch  # samples per epoch, over all processes
        self._pipeline = PIPELINES[recipe.data.pipeline](recipe, self._subset, device)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, starting with step `first`."""
        order = generator(self._seed, Stream.ORDER, epoch).permutation(len(self._subset))[: self.positions]
        own = self._batch // self._shard.world
        starts = [step * self._batch + self._shard.rank * own for step in range(first, self.steps)]
        rows = [slice(start, start + own) for start in starts]
        params = sample_mix_params(self._augment, self._size, self.positions, self._seed, epoch, self._device)
        with contextlib.closing(self._pipeline.batches(epoch, order, rows)) as batches:
            for r, (images, labels, boxes, flips) in zip(rows, batches, strict=True):
                mixed = None
                if params is not None:
                    images, labels, mixed = mix(images, labels, params.rows(r))
                yield Batch(images, labels, r, order[r], boxes, flips, mixed)


class EvalLoader:
    """The images to evaluate on, on the device, without augmentation.

    Each image is in the shard of exactly one process. The sizes of shards may differ by one.
    """

    def __init__(self, recipe: Recipe, dataset: DecodedDataset, device: torch.device, shard: Shard = ALONE) -> None:
        size, subset = recipe.model.image_size, dataset.evaluation(recipe.data)
        indices = subset.indices[shard.rank :: shard.world]
        self._pixels = _pixels(subset.images, indices, size).to(device)
        self._labels = torch.from_numpy(subset.images.labels[indices]).to(device)
        self._transform = BatchTransform(recipe.augment, size, 0, device)
        self._batch = recipe.train.test_batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """([batch, 3, size, size] float32, [batch] int64)."""
        for pixels, labels in zip(self._pixels.split(self._batch), self._labels.split(self._batch), strict=True):
            yield self._transform.test(pixels), labels


def unaugmented(recipe: Recipe, images: Images, indices: np.ndarray, device: torch.device) -> Tensor:
    """The images at these indices as they are evaluated: [len(indices), 3, size, size] float32, on the device."""
    size = recipe.model.image_size
    return BatchTransform(recipe.augment, size, 0, device).test(_pixels(images, indices, size).to(device))


def _pixels(images: Images, indices: np.ndarray, size: int) -> Tensor:
    """[count, height, width, 3] uint8: native pixels or, if sizes differ, resized ones."""
    if images.size is not None:
        return torch.from_numpy(images.array()[indices])
    with ThreadPoolExecutor(cores_per_process()) as pool:
        return torch.from_numpy(np.stack(list(pool.map(lambda index: _resized(images[index], size), indices))))


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


class ImageTransform:
    """The transform of a recipe for one image: a PIL image of any size and mode to [3, size, size] float32 on the CPU.

    It decodes, resizes and normalises as for evaluation. The decoder drops detail of a JPEG of more than twice
    `data.short_side`, which cannot be repeated with an open image: the result differs by a few grey levels.

    one_size: whether all images of the dataset have one size. Only these are resized as tensors, which differs from Pillow
    by a grey level in some pixels.
    """

    def __init__(self, recipe: Recipe, one_size: bool) -> None:
        self._short_side, self._size, self._one_size = recipe.data.short_side, recipe.model.image_size, one_size
        self._transform = BatchTransform(recipe.augment, self._size, 0, torch.device("cpu"))

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = to_pixels(image, self._short_side)
        if not self._one_size:
            pixels = _resized(pixels, self._size)
        return self._transform.test(torch.from_numpy(pixels.copy())[None])[0]

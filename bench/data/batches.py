"""Batches of an epoch: the same global order and the same augmentation on any number of processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bench.cores import cores_per_process
from bench.data.augment import BatchTransform, draw
from bench.data.store import Images, Store
from bench.draws import Stream, generator
from bench.recipes import Recipe, RecipeError


@dataclass(frozen=True)
class Batch:
    """What one process trains on in one step.

    images: [batch, 3, size, size] float32, augmented and normalised, on the device.
    labels: [batch] int64.
    positions: where in the epoch's global order these samples stand.
    """

    images: Tensor
    labels: Tensor
    positions: slice


@dataclass(frozen=True)
class Share:
    """A process's part of the work: `rank` of `world`."""

    rank: int = 0
    world: int = 1


class TrainBatches:
    """The training batches of a recipe. Iterate over `epoch(number)`.

    The global batch of a step is cut into contiguous, equal parts, one a process. The last partial batch is dropped.

    Raises:
        RecipeError: the batch does not divide among the processes, or the pipeline cannot take these images.
    """

    def __init__(self, recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> None:
        self._recipe, self._device, self._share = recipe, device, share
        self._images, self._kept = store.train, store.kept(recipe.data)
        batch = recipe.train.batch_size
        if batch % share.world:
            raise RecipeError(f"train.batch_size: {batch} does not divide among {share.world} processes")
        self.steps = len(self._kept) // batch
        if self.steps == 0:
            raise RecipeError(f"train.batch_size: {batch} is more than the {len(self._kept)} training images")
        self.positions = self.steps * batch  # samples an epoch, over all processes

    def _order(self, epoch: int) -> np.ndarray:
        """Indices into the training images, by position."""
        order = generator(self._recipe.seed, Stream.ORDER, epoch).permutation(len(self._kept))
        return self._kept[order[: self.positions]]

    def _rows(self, step: int) -> slice:
        """The positions that this process trains on in a step."""
        batch = self._recipe.train.batch_size
        own = batch // self._share.world
        first = step * batch + self._share.rank * own
        return slice(first, first + own)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0."""
        raise NotImplementedError


class DeviceBatches(TrainBatches):
    """All pixels on the device, augmented there for a whole batch (`data.pipeline: batched`)."""

    def __init__(self, recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> None:
        super().__init__(recipe, store, device, share)
        if store.train.size is None:
            raise RecipeError(f"data.pipeline: the images of {store.name} differ in size, which needs data.pipeline=pil")
        self._pixels = torch.from_numpy(np.array(store.train.array())).to(device)
        self._labels = torch.from_numpy(store.train.labels).to(device)
        self._transform = BatchTransform(recipe.augment, recipe.model.image_size, recipe.seed, device)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        recipe = self._recipe
        order = torch.from_numpy(self._order(epoch)).to(self._device)
        size = recipe.model.image_size
        draws = draw(recipe.augment, self._images.size, size, self.positions, recipe.seed, epoch).to(self._device)
        for step in range(self.steps):
            rows = self._rows(step)
            chosen = order[rows]
            yield Batch(self._transform.train(self._pixels[chosen], draws[rows]), self._labels[chosen], rows)


class PilBatches(TrainBatches):
    """timm's own transform in worker processes (`data.pipeline: pil`), each sample with generators seeded for it."""

    def __init__(self, recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> None:
        super().__init__(recipe, store, device, share)
        self._sampler = _PositionSampler()
        workers = recipe.data.workers
        if workers is None:
            workers = cores_per_process()
        self._loader = DataLoader(
            _PilSamples(store.train, recipe),
            batch_sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def epoch(self, epoch: int) -> Iterator[Batch]:
        order = self._order(epoch)
        seeds = generator(self._recipe.seed, Stream.PIL, epoch).integers(2**32, size=self.positions)
        rows = [self._rows(step) for step in range(self.steps)]
        self._sampler.batches = [list(zip(order[r].tolist(), seeds[r].tolist(), strict=True)) for r in rows]
        for positions, (images, labels) in zip(rows, self._loader, strict=True):
            yield Batch(images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True), positions)


class _PositionSampler(Sampler):
    """Yields the batches it was given; it lives in the main process, so persistent workers see each epoch's own."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _PilSamples(Dataset):
    def __init__(self, images: Images, recipe: Recipe) -> None:
        self._images = images
        self._transform = timm_transform(recipe)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        # timm draws from all three
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return self._transform(Image.fromarray(self._images[index])), int(self._images.labels[index])


def timm_transform(recipe: Recipe) -> object:
    """timm's training transform with a recipe's settings: a PIL image to [3, size, size] float32.

    Raises:
        RecipeError: timm does not understand `augment.rand_augment`.
    """
    from timm.data import create_transform

    augment = recipe.augment
    try:
        transform = create_transform(
            input_size=recipe.model.image_size,
            is_training=True,
            scale=augment.crop_area,
            ratio=augment.crop_ratio,
            hflip=augment.flip,
            color_jitter=None,
            auto_augment=augment.rand_augment,
            interpolation="bicubic",
            mean=augment.mean,
            std=augment.std,
            re_prob=augment.erase,
            re_mode="pixel",
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise RecipeError(f"augment.rand_augment: timm does not understand {augment.rand_augment!r}") from error
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Posterize that takes 0 bits, which timm asks for at magnitude 10: black, as in Pillow before 13 (which raises)."""
    if bits >= 8:
        return image
    return image.point(lambda level: level & ~(2 ** (8 - bits) - 1))


def train_batches(recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> TrainBatches:
    """The training batches of a recipe, by its `data.pipeline`."""
    pipeline = PilBatches if recipe.data.pipeline == "pil" else DeviceBatches
    return pipeline(recipe, store, device, share)


class TestBatches:
    """A process's part of the test set, on the device, each image in exactly one part. Parts may differ by one image."""

    __test__ = False  # for pytest, not a test

    def __init__(self, recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> None:
        size = recipe.model.image_size
        mine = np.arange(share.rank, len(store.test), share.world)
        if store.test.size is not None:
            pixels = store.test.array()[mine]
        else:
            pixels = np.stack([_resized(store.test[i], size) for i in mine])
        self._pixels = torch.from_numpy(pixels).to(device)
        self._labels = torch.from_numpy(store.test.labels[mine]).to(device)
        self._transform = BatchTransform(recipe.augment, size, 0, device)
        self._batch = recipe.train.test_batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """([batch, 3, size, size] float32, [batch] int64) without augmentation."""
        for pixels, labels in zip(self._pixels.split(self._batch), self._labels.split(self._batch), strict=True):
            yield self._transform.test(pixels), labels


def _resized(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))

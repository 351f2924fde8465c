"""Batches of an epoch: the same global order and the same augmentation on any number of processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import Compose, RandomHorizontalFlip

from bench.cores import cores_per_process
from bench.data.augment import BatchTransform, draw
from bench.data.parts import Images, Part, Store
from bench.draws import Stream, generator
from bench.schema import Recipe, RecipeError


@dataclass(frozen=True)
class Batch:
    """What one process trains on in one step.

    images: [batch, 3, size, size] float32, augmented and normalised, on the device.
    labels: [batch] int64.
    positions: where in the epoch's global order these samples stand.
    chosen: [batch], which of the training part's images they are.
    boxes: [batch, 4] float32, top, left, height, width of their crops, in shares of the native image.
    flips: [batch] bool, whether they were mirrored.
    """

    images: Tensor
    labels: Tensor
    positions: slice
    chosen: np.ndarray
    boxes: Tensor
    flips: Tensor


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


class DeviceBatches(TrainBatches):
    """All pixels on the device, augmented there for a whole batch (`data.pipeline: batched`)."""

    def __init__(self, recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> None:
        super().__init__(recipe, store, device, share)
        images = self._part.images
        self._native = images.size
        if self._native is None:
            raise RecipeError(
                f"data.pipeline: the images of {recipe.data.name} differ in size, which needs data.pipeline=pil"
            )
        self._pixels = torch.from_numpy(images.array()[self._part.chosen]).to(device)
        self._labels = torch.from_numpy(self._part.labels).to(device)
        self._transform = BatchTransform(recipe.augment, recipe.model.image_size, recipe.seed, device)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        recipe, device = self._recipe, self._device
        order = self._order(epoch)
        on_device = torch.from_numpy(order).to(device)
        draws = draw(recipe.augment, self._native, recipe.model.image_size, self.positions, recipe.seed, epoch).to(device)
        shares = draws.boxes / torch.tensor([*self._native, *self._native], device=device)
        for step in range(first, self.steps):
            rows = self._rows(step)
            chosen = on_device[rows]
            images = self._transform.train(self._pixels[chosen], draws[rows])
            yield Batch(images, self._labels[chosen], rows, order[rows], shares[rows], draws.flips[rows])


class PilBatches(TrainBatches):
    """timm's own transform in worker processes (`data.pipeline: pil`), each sample with generators seeded for it."""

    def __init__(self, recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> None:
        super().__init__(recipe, store, device, share)
        self._sampler = _PositionSampler()
        workers = recipe.data.workers
        if workers is None:
            workers = cores_per_process()
        self._loader = DataLoader(
            _PilSamples(self._part, recipe),
            batch_sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_stop_signals_to_the_run,
            pin_memory=device.type == "cuda",
        )

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        order = self._order(epoch)
        seeds = generator(self._recipe.seed, Stream.PIL, epoch).integers(2**32, size=self.positions)
        rows = [self._rows(step) for step in range(first, self.steps)]
        self._sampler.batches = [list(zip(order[r].tolist(), seeds[r].tolist(), strict=True)) for r in rows]
        for positions, tensors in zip(rows, self._loader, strict=True):
            images, labels, boxes, flips = (tensor.to(self._device, non_blocking=True) for tensor in tensors)
            yield Batch(images, labels, positions, order[positions], boxes, flips)


def _leave_stop_signals_to_the_run(worker: int) -> None:
    """Schedulers and terminals send them to workers as well, and a run whose workers die cannot save its state."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class _PositionSampler(Sampler):
    """Yields the batches it was given; it lives in the main process, so persistent workers see each epoch's own."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _PilSamples(Dataset):
    def __init__(self, part: Part, recipe: Recipe) -> None:
        self._part = part
        self._transform = timm_transform(recipe)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, Tensor, bool]:
        index, seed = key
        # timm draws from all three
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        native = int(self._part.chosen[index])
        crop, flip, *rest = self._transform.transforms
        image = flip(crop(Image.fromarray(self._part.images[native])))
        for step in rest:
            image = step(image)
        return image, int(self._part.images.labels[native]), torch.tensor(crop.box), flip.flipped


class _Crop(RandomResizedCropAndInterpolation):
    """timm's crop, which remembers the last box it drew: top, left, height, width in shares of the image."""

    def get_params(self, image: Image.Image, scale: Any, ratio: Any) -> tuple[int, int, int, int]:
        top, left, height, width = super().get_params(image, scale, ratio)
        height, width = max(height, 1), max(width, 1)  # timm rounds to nothing where an image has a pixel or two
        top, left = min(top, image.height - height), min(left, image.width - width)
        self.box = (top / image.height, left / image.width, height / image.height, width / image.width)
        return top, left, height, width


class _Flip(RandomHorizontalFlip):
    """torchvision's flip, which remembers whether it did."""

    def forward(self, image: Image.Image) -> Image.Image:
        out = super().forward(image)
        self.flipped = out is not image
        return out


def timm_transform(recipe: Recipe) -> Compose:
    """timm's training transform with a recipe's settings: a PIL image to [3, size, size] float32. Its first two steps are
    the crop and the flip, which remember what they did.

    Raises:
        RecipeError: timm does not understand `augment.rand_augment`.
    """
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
    size = recipe.model.image_size
    crop = _Crop(size, augment.crop_area, augment.crop_ratio, "bicubic")
    ours = (RandomResizedCropAndInterpolation, RandomHorizontalFlip)
    rest = [step for step in transform.transforms if not isinstance(step, ours)]
    transform.transforms = [crop, _Flip(augment.flip), *rest]
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
        part = store.evaluation(recipe.data)
        mine = part.chosen[share.rank :: share.world]
        self._pixels = _pixels(part.images, mine, size).to(device)
        self._labels = torch.from_numpy(part.images.labels[mine]).to(device)
        self._transform = BatchTransform(recipe.augment, size, 0, device)
        self._batch = recipe.train.test_batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """([batch, 3, size, size] float32, [batch] int64) without augmentation."""
        for pixels, labels in zip(self._pixels.split(self._batch), self._labels.split(self._batch), strict=True):
            yield self._transform.test(pixels), labels


def unaugmented(recipe: Recipe, images: Images, chosen: np.ndarray, device: torch.device) -> Tensor:
    """Images as they are evaluated: [len(chosen), 3, size, size] float32, on the device."""
    size = recipe.model.image_size
    return BatchTransform(recipe.augment, size, 0, device).test(_pixels(images, chosen, size).to(device))


def _pixels(images: Images, chosen: np.ndarray, size: int) -> Tensor:
    """[count, height, width, 3] uint8: native pixels, or where those differ in size, already resized."""
    if images.size is not None:
        return torch.from_numpy(images.array()[chosen])

    def resized(index: int) -> np.ndarray:
        return np.asarray(Image.fromarray(images[index]).resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(cores_per_process()) as pool:
        return torch.from_numpy(np.stack(list(pool.map(resized, chosen))))

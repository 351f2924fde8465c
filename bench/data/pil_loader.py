"""Batches from timm's own transform in worker processes (`data.pipeline: pil`)."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import Compose, RandomHorizontalFlip

from bench.config.schema import Recipe, RecipeError
from bench.cores import cores_per_process
from bench.data.subsets import DecodedDataset, Subset
from bench.data.train_loader import Batch, Shard, TrainLoader
from bench.rng import Stream, generator


class PilLoader(TrainLoader):
    """timm's own transform in worker processes (`data.pipeline: pil`), each sample with generators seeded for it."""

    def __init__(self, recipe: Recipe, store: DecodedDataset, device: torch.device, share: Shard = Shard()) -> None:
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
            # A fork server, from Python 3.14 on the default, would get stop signals as well, and take the workers along.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
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
    def __init__(self, part: Subset, recipe: Recipe) -> None:
        self._part = part
        self._transform = timm_transform(recipe)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, Tensor, bool]:
        index, seed = key
        # timm draws from all three
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        native = int(self._part.indices[index])
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

"""Training batches from timm's own transform in worker processes (`data.pipeline: pil`)."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Generator, Sequence

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, RandomHorizontalFlip

from bench.config.schema import Recipe, RecipeError
from bench.cores import cores_per_process
from bench.data.subsets import Subset
from bench.rng import Stream, generator


class PilLoader:
    """Batches from timm's transform in worker processes; each sample has a seed of its own for all random numbers."""

    def __init__(self, recipe: Recipe, subset: Subset, device: torch.device) -> None:
        self._seed, self._device = recipe.seed, device
        self._keys: list[list[tuple[int, int]]] = []  # (index, seed) per sample and batch; replaced in place for each epoch
        workers = cores_per_process() if recipe.data.workers is None else recipe.data.workers
        self._loader = DataLoader(
            _Samples(subset, recipe),
            batch_sampler=self._keys,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_stop_signals,
            # A fork server, the default from Python 3.14 on, would receive stop signals too, and end the workers.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            pin_memory=device.type == "cuda",
        )

    def batches(self, epoch: int, order: np.ndarray, rows: list[slice]) -> Generator[tuple[Tensor, ...], None, None]:
        """(images, labels, boxes, flips), as in `Batch`, for each of the rows. order: [positions] indices in the subset."""
        seeds = generator(self._seed, Stream.PIL, epoch).integers(2**32, size=len(order))
        self._keys[:] = [list(zip(order[r].tolist(), seeds[r].tolist(), strict=True)) for r in rows]
        for tensors in self._loader:
            yield tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)


def _ignore_stop_signals(worker: int) -> None:
    """Ignore stop signals, which schedulers and terminals send to workers too; without workers a run cannot be saved."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class _Samples(Dataset):
    """Samples by (index in the subset, seed): (image, label, box, flipped), as in `Batch`."""

    def __init__(self, subset: Subset, recipe: Recipe) -> None:
        self._subset = subset
        self._transform = timm_transform(recipe)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, Tensor, bool]:
        index, seed = key
        # timm uses all three generators
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        images, native = self._subset.images, int(self._subset.indices[index])
        crop, flip, *_ = self._transform.transforms
        image = self._transform(Image.fromarray(images[native]))
        return image, int(images.labels[native]), torch.tensor(crop.box), flip.flipped


class _Crop(RandomResizedCropAndInterpolation):
    """timm's crop, which keeps the last `box`: top, left, height, width in fractions of the image."""

    def get_params(self, image: Image.Image, scale: Sequence[float], ratio: Sequence[float]) -> tuple[int, int, int, int]:
        top, left, height, width = super().get_params(image, scale, ratio)
        height, width = max(height, 1), max(width, 1)  # timm rounds to 0 for images of a pixel or two
        top, left = min(top, image.height - height), min(left, image.width - width)
        self.box = (top / image.height, left / image.width, height / image.height, width / image.width)
        return top, left, height, width


class _Flip(RandomHorizontalFlip):
    """torchvision's flip, which keeps whether it `flipped` the last image."""

    def forward(self, image: Image.Image) -> Image.Image:
        out = super().forward(image)
        self.flipped = out is not image
        return out


def timm_transform(recipe: Recipe) -> Compose:
    """timm's training transform for a recipe, from a PIL image to [3, size, size] float32.

    Crop and flip, its first two steps, are replaced by those that keep what they did to the last image. Raises RecipeError
    if timm does not understand `augment.rand_augment`.
    """
    augment, size = recipe.augment, recipe.model.image_size
    try:
        transform = create_transform(
            input_size=size,
            is_training=True,
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
    rest = [s for s in transform.transforms if not isinstance(s, RandomResizedCropAndInterpolation | RandomHorizontalFlip)]
    crop = _Crop(size, augment.crop_area, augment.crop_ratio, "bicubic")
    transform.transforms = [crop, _Flip(augment.flip), *rest]
    for step in rest:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
    return transform


def posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Posterize that accepts 0 bits, which timm asks for at magnitude 10: black, as Pillow before 13 (which raises)."""
    return image.point(lambda level: level & ~(2 ** (8 - bits) - 1))

"""Images as they are evaluated: the test set in batches, or one image."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.config.schema import Recipe
from bench.cores import cores_per_process
from bench.data.augment import BatchTransform
from bench.data.decode import to_pixels
from bench.data.subsets import DecodedDataset, Images
from bench.data.train_loader import Shard


class EvalLoader:
    """A process's part of the test set, on the device, each image in exactly one part. Parts may differ by one image."""

    __test__ = False  # for pytest, not a test

    def __init__(self, recipe: Recipe, store: DecodedDataset, device: torch.device, share: Shard = Shard()) -> None:
        size = recipe.model.image_size
        part = store.evaluation(recipe.data)
        mine = part.indices[share.rank :: share.world]
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
        return _resized(images[index], size)

    with ThreadPoolExecutor(cores_per_process()) as pool:
        return torch.from_numpy(np.stack(list(pool.map(resized, chosen))))


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


class ImageTransform:
    """One image as a recipe evaluates it: a PIL image of any size and mode to [3, size, size] float32 on the CPU.

    Bilinear to the whole square input, no crop, normalised; before that, what decoding does: upright, RGB, large photos
    shrunk to `data.short_side`. (Of JPEGs more than twice that size the suite decodes no detail, which is not repeated on
    an image that is open: a few grey levels.)

    Args:
        one_size: whether all images of the dataset were of one size, and so resized on the device, whose arithmetic differs
            from Pillow's by a grey level here and there.
    """

    def __init__(self, recipe: Recipe, one_size: bool) -> None:
        self._short_side, self._size, self._one_size = recipe.data.short_side, recipe.model.image_size, one_size
        self._transform = BatchTransform(recipe.augment, self._size, 0, torch.device("cpu"))

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = to_pixels(image, self._short_side)
        if not self._one_size:
            pixels = _resized(pixels, self._size)
        return self._transform.test(torch.from_numpy(pixels.copy())[None])[0]

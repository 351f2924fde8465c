"""Training batches that are augmented on the device, a whole batch at once (`data.pipeline: batched`)."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.config.schema import Data, Recipe, RecipeError
from bench.cores import cores_per_process
from bench.data.augment import BatchTransform, sample_augment_params
from bench.data.subsets import DecodedDataset, Subset
from bench.data.train_loader import ALONE, Batch, Shard, TrainLoader

MAX_COPIED_BYTES = 2**30  # of pixels that a process without a GPU copies into its memory; more stay memory-mapped
MAX_GPU_FRACTION = 1 / 4  # of the free memory of a GPU, for pixels


class DeviceLoader(TrainLoader):
    """Batches that are augmented on the device.

    The native pixels are on the device, or are copied there from the host a few steps ahead (`data.residence`). Images that
    differ in size are cropped and resized on the host.
    """

    def __init__(self, recipe: Recipe, dataset: DecodedDataset, device: torch.device, shard: Shard = ALONE) -> None:
        super().__init__(recipe, dataset, device, shard)
        check_residence(recipe.data, self.subset)
        images = self.subset.images
        self._native = images.size
        self._pixels = None
        if on_device(recipe.data, self.subset, device):
            self._pixels = torch.from_numpy(images.array()[self.subset.indices]).to(device)
        self._labels = torch.from_numpy(self.subset.labels).to(device)
        self._transform = BatchTransform(recipe.augment, recipe.model.image_size, recipe.seed, device)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        recipe, device = self.recipe, self.device
        order = self.order(epoch)
        indices = torch.from_numpy(order).to(device)
        native = self._native or self.subset.images.sizes[self.subset.indices[order]]
        params = sample_augment_params(recipe.augment, native, recipe.model.image_size, self.positions, recipe.seed, epoch)
        boxes, params = params.boxes, params.to(device)
        fractions = params.boxes / torch.from_numpy(np.tile(native, 2)).to(device)
        rows = self.rows(first)
        if self._pixels is not None:
            batches = (self._pixels[indices[r]] for r in rows)
        else:
            batches = self._prefetched(rows, self.subset.indices[order], boxes)
        with contextlib.closing(batches):
            for r, pixels in zip(rows, batches, strict=True):
                images = self._transform.train(pixels, params[r], cropped=self._native is None)
                yield Batch(images, self._labels[indices[r]], r, order[r], fractions[r], params.flips[r])

    def _prefetched(self, rows: list[slice], native: np.ndarray, boxes: Tensor) -> Generator[Tensor, None, None]:
        """The pixels of each step on the device, prepared on the host a few steps ahead.

        Args:
            native: [positions], indices of the images in their split.
            boxes: [positions, 4], on the host.

        Yields:
            [batch, height, width, 3] uint8: native pixels or, if sizes differ, cropped and resized ones.
        """
        images, size, padding = self.subset.images, self.recipe.model.image_size, self.recipe.augment.padding
        pinned = self.device.type == "cuda"

        def gather(r: slice) -> Tensor:
            array = images.array()
            out = torch.empty(len(native[r]), *array.shape[1:], dtype=torch.uint8, pin_memory=pinned)
            np.take(array, native[r], 0, out.numpy(), mode="clip")  # the default mode would copy once more
            return out

        def crop(r: slice) -> Tensor:
            out = torch.empty(len(native[r]), size, size, 3, dtype=torch.uint8, pin_memory=pinned)
            for target, index, box in zip(out.numpy(), native[r], boxes[r].int().tolist(), strict=True):
                target[:] = crop_and_resize_one(images[index], box, padding, size)
            return out

        if self._native is not None:
            return prefetch(gather, rows, 1, self.device)
        return prefetch(crop, rows, self.recipe.data.workers or cores_per_process(), self.device)


def check_residence(data: Data, subset: Subset) -> None:
    """Refuse `data.residence: device` for images that differ in size, which are cropped on the host. Raises RecipeError."""
    if data.pipeline == "batched" and data.residence == "device" and subset.images.size is None:
        raise RecipeError(
            f"data.residence: the images of {data.name} differ in size, so they cannot be kept on the device: allowed are"
            " auto and host"
        )


def on_device(data: Data, subset: Subset, device: torch.device) -> bool:
    """Whether the batched pipeline keeps the pixels of a subset on the device, by `data.residence`."""
    size = subset.images.size
    if size is None or data.residence != "auto":
        return data.residence == "device"
    cuda = device.type == "cuda"
    allowed = torch.cuda.mem_get_info(device)[0] * MAX_GPU_FRACTION if cuda else MAX_COPIED_BYTES
    return len(subset) * size[0] * size[1] * 3 <= allowed


def prefetch(
    prepare: Callable[[slice], Tensor], rows: list[slice], threads: int, device: torch.device
) -> Generator[Tensor, None, None]:
    """The results of `prepare` for each element of `rows`, in order, on the device.

    Threads prepare a few of them ahead. Their errors are raised here, and they end with this generator.
    """

    def use_device() -> None:
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # otherwise pinning memory would open a context on the first GPU

    with ThreadPoolExecutor(threads, initializer=use_device) as pool:
        upcoming = iter(rows)
        pending = collections.deque(pool.submit(prepare, r) for r in itertools.islice(upcoming, threads + 1))
        try:
            while pending:
                ready = pending.popleft().result()
                pending.extend(pool.submit(prepare, r) for r in itertools.islice(upcoming, 1))
                yield ready.to(device, non_blocking=True)
        finally:
            for future in pending:
                future.cancel()


def crop_and_resize_one(image: np.ndarray, box: list[int], padding: int, size: int) -> np.ndarray:
    """One image as Pillow crops it to a box of its padded self and resizes it (bicubic): [size, size, 3] uint8."""
    top, left, height, width = box
    top, left = top - padding, left - padding  # Pillow's crop is black outside the image
    crop = Image.fromarray(image).crop((left, top, left + width, top + height))
    return np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))

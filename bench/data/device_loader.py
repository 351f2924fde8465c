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
from bench.data.train_loader import Batch, Shard, TrainLoader

ROOM = 2**30  # bytes of pixels that a process without a GPU copies into its memory; more stay in the memory map


class DeviceLoader(TrainLoader):
    """Augmented on the device for a whole batch (`data.pipeline: batched`).

    The pixels lie on the device, or are fed from the host a few steps ahead (`data.residence`). Images that differ in size
    are cropped and resized on the host.
    """

    def __init__(self, recipe: Recipe, store: DecodedDataset, device: torch.device, share: Shard = Shard()) -> None:
        super().__init__(recipe, store, device, share)
        check_residence(recipe.data, self._part)
        images = self._part.images
        self._native = images.size
        self._pixels = None
        if on_device(recipe.data, self._part, device):
            self._pixels = torch.from_numpy(images.array()[self._part.indices]).to(device)
        self._labels = torch.from_numpy(self._part.labels).to(device)
        self._transform = BatchTransform(recipe.augment, recipe.model.image_size, recipe.seed, device)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        recipe, device = self._recipe, self._device
        order = self._order(epoch)
        chosen = torch.from_numpy(order).to(device)
        native = self._native or self._part.images.sizes[self._part.indices[order]]
        draws = sample_augment_params(recipe.augment, native, recipe.model.image_size, self.positions, recipe.seed, epoch)
        boxes, draws = draws.boxes, draws.to(device)
        shares = draws.boxes / torch.from_numpy(np.tile(native, 2)).to(device)
        rows = [self._rows(step) for step in range(first, self.steps)]
        fed = self._pixels is None
        feed = self._fed(rows, order, boxes) if fed else (self._pixels[chosen[r]] for r in rows)
        with contextlib.closing(feed):
            for r, pixels in zip(rows, feed, strict=True):
                images = self._transform.train(pixels, draws[r], cropped=self._native is None)
                yield Batch(images, self._labels[chosen[r]], r, order[r], shares[r], draws.flips[r])

    def _fed(self, rows: list[slice], order: np.ndarray, boxes: Tensor) -> Generator[Tensor, None, None]:
        """The pixels of each step, on the device: native ones, or where sizes differ, cropped and resized ones."""
        images, size, padding = self._part.images, self._recipe.model.image_size, self._recipe.augment.padding
        native = self._part.indices[order]
        pinned = self._device.type == "cuda"
        if self._native is not None:
            array, threads = images.array(), 1

            def pixels(r: slice) -> Tensor:
                out = torch.empty(len(native[r]), *array.shape[1:], dtype=torch.uint8, pin_memory=pinned)
                np.take(array, native[r], 0, out.numpy(), mode="clip")  # by default it would copy once more
                return out
        else:
            threads = self._recipe.data.workers or cores_per_process()

            def pixels(r: slice) -> Tensor:
                out = torch.empty(len(native[r]), size, size, 3, dtype=torch.uint8, pin_memory=pinned)
                for target, index, box in zip(out.numpy(), native[r], boxes[r].int().tolist(), strict=True):
                    target[:] = _cropped(images[index], box, padding, size)
                return out

        return _ahead(pixels, rows, threads, self._device)


def check_residence(data: Data, part: Subset) -> None:
    """Refuse to keep images on the device that differ in size: they are cropped on the host.

    Raises:
        RecipeError: `data.residence` asks for it.
    """
    if data.pipeline == "batched" and data.residence == "device" and part.images.size is None:
        raise RecipeError(
            f"data.residence: the images of {data.name} differ in size, so they cannot lie on the device: allowed are auto"
            " and host"
        )


def on_device(data: Data, part: Subset, device: torch.device) -> bool:
    """Whether the batched pipeline keeps the pixels of a part on the device, by `data.residence`."""
    size = part.images.size
    if size is None or data.residence != "auto":
        return data.residence == "device"
    room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else ROOM
    return len(part) * size[0] * size[1] * 3 <= room


def _ahead(
    prepare: Callable[[slice], Tensor], rows: list[slice], threads: int, device: torch.device
) -> Generator[Tensor, None, None]:
    """What `prepare` makes of each, in order, on the device. Threads work a few ahead; an error of theirs is raised here,
    and they have ended when this generator has."""

    def begin() -> None:
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # else pinning memory would open a context on the first GPU

    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        upcoming = iter(rows)
        waiting = collections.deque(pool.submit(prepare, r) for r in itertools.islice(upcoming, threads + 1))
        try:
            while waiting:
                ready = waiting.popleft().result()
                waiting.extend(pool.submit(prepare, r) for r in itertools.islice(upcoming, 1))
                yield ready.to(device, non_blocking=True)
        finally:
            for future in waiting:
                future.cancel()


def _cropped(image: np.ndarray, box: list[int], padding: int, size: int) -> np.ndarray:
    """One image as Pillow crops it to a box of its padded self and resizes it: [size, size, 3] uint8."""
    top, left, height, width = box
    top, left = top - padding, left - padding  # Pillow's crop is black outside the image
    crop = Image.fromarray(image).crop((left, top, left + width, top + height))
    return np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))

"""Training batches that are augmented on the device, a whole batch at once (`data.pipeline: batched`)."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.config.schema import Data, Recipe
from bench.cores import cores_per_process
from bench.data.augment import AugmentParams, BatchTransform, sample_augment_params
from bench.data.subsets import Subset
from bench.data.upload import upload

MAX_COPIED_BYTES = 2**30  # of pixels that a process without a GPU copies into its memory; more stay memory-mapped
MAX_GPU_FRACTION = 1 / 4  # of the free memory of a GPU, for pixels
MAX_STEPS_AHEAD = 8  # whose batches a GPU augments at once
MAX_BYTES_AHEAD = 5 * 2**27  # of these batches in float32


class DeviceLoader:
    """Batches that are augmented on the device.

    The native pixels are on the device, or are copied there from the host a few steps ahead (`data.residence`). Images that
    differ in size are cropped and resized on the host.
    """

    def __init__(self, recipe: Recipe, subset: Subset, device: torch.device) -> None:
        self._recipe, self._subset, self._device = recipe, subset, device
        self._native = subset.images.size
        self._pixels = None
        if on_device(recipe.data, subset, device):
            self._pixels = torch.from_numpy(subset.images.array()[subset.indices]).to(device)
        self._labels = torch.from_numpy(subset.labels).to(device)
        cuda = device.type == "cuda"
        fused = cuda and recipe.train.compile != "off"
        self._transform = BatchTransform(recipe.augment, recipe.model.image_size, recipe.seed, device, fused)
        self._stream = torch.cuda.Stream(device) if cuda else None

    def batches(self, epoch: int, order: np.ndarray, rows: list[slice]) -> Generator[tuple[Tensor, ...], None, None]:
        """(images, labels, boxes, flips), as in `Batch`, for each of the rows. order: [positions] indices in the subset."""
        recipe, images, device = self._recipe, self._subset.images, self._device
        in_split = self._subset.indices[order]
        native = self._native or images.sizes[in_split]
        params = sample_augment_params(recipe.augment, native, recipe.model.image_size, len(order), recipe.seed, epoch)
        # From here on only the positions of this process, and each step has a slice of them.
        own, batch = np.concatenate([np.arange(r.start, r.stop) for r in rows]), rows[0].stop - rows[0].start
        steps = [slice(first, first + batch) for first in range(0, len(own), batch)]
        in_split, native, boxes = in_split[own], np.broadcast_to(native, (len(order), 2))[own], params.boxes[own]
        indices, params = upload(order[own], device), params[own].to(device)
        labels, fractions = self._labels[indices], params.boxes / upload(np.tile(native, 2), device)
        if self._pixels is not None:
            pixels = (self._pixels[indices[r]] for r in steps)
        else:
            workers = cores_per_process() if recipe.data.workers is None else recipe.data.workers
            threads = 1 if self._native else max(1, workers)
            pixels = prefetch(lambda r: self._from_host(in_split[r], boxes[r]), steps, threads, device)
        with contextlib.closing(pixels), contextlib.closing(self._augmented(pixels, params, steps)) as augmented:
            for r, batch_images in zip(steps, augmented, strict=True):
                yield batch_images, labels[r], fractions[r], params.flips[r]

    def _augmented(
        self, pixels: Iterator[Tensor], params: AugmentParams, steps: list[slice]
    ) -> Generator[Tensor, None, None]:
        """The images of each step from its pixels.

        On a GPU one call augments the images of several steps, with as many kernel launches as for one step. It runs on a
        separate stream, while earlier steps train.
        """
        transform, cropped = self._transform, self._native is None
        if self._device.type != "cuda":
            for r, native in zip(steps, pixels, strict=True):
                yield transform.train(native, params[r], cropped)
            return
        ahead, main = self._stream, torch.cuda.current_stream(self._device)
        image_bytes = 4 * 3 * max(self._recipe.model.image_size**2, math.prod(self._native or ()))
        at_once = min(MAX_STEPS_AHEAD, MAX_BYTES_AHEAD // (image_bytes * (steps[0].stop - steps[0].start))) or 1
        groups = [steps[first : first + at_once] for first in range(0, len(steps), at_once)]

        def augment(group: list[slice]) -> list[Tensor]:
            # New images may take memory that the steps so far still read, so wait for these steps.
            ahead.wait_stream(main)
            with torch.cuda.stream(ahead):
                native = torch.cat(list(itertools.islice(pixels, len(group))))
                images = transform.augment(native, params[group[0].start : group[-1].stop], cropped)
            return images.tensor_split(len(group))

        try:
            following = augment(groups[0])
            for group, later in itertools.zip_longest(groups, groups[1:]):
                levels = following
                main.wait_stream(ahead)
                following = augment(later) if later else []
                yield from map(transform.normalise, levels, (params[r] for r in group))
        finally:
            main.wait_stream(ahead)  # `ahead` may still read tensors that are freed when this generator ends

    def _from_host(self, indices: np.ndarray, boxes: Tensor) -> Tensor:
        """[batch, height, width, 3] uint8 on the host: native pixels or, if sizes differ, cropped and resized ones."""
        images, size, padding = self._subset.images, self._recipe.model.image_size, self._recipe.augment.padding
        shape = self._native or (size, size)
        out = torch.empty(len(indices), *shape, 3, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        if self._native is not None:
            np.take(images.array(), indices, 0, out.numpy(), mode="clip")  # the default mode would copy once more
            return out
        for target, index, (top, left, height, width) in zip(out.numpy(), indices, boxes.int().tolist(), strict=True):
            top, left = top - padding, left - padding  # Pillow's crop is black outside the image
            crop = Image.fromarray(images[index]).crop((left, top, left + width, top + height))
            target[:] = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
        return out


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

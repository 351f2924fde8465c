"""Batches of an epoch: the same global order and the same augmentation on any number of processes."""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import signal
import sys
from collections.abc import Callable, Generator, Iterator
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
from bench.data.decode import to_pixels
from bench.data.parts import Images, Part, Store
from bench.draws import Stream, generator
from bench.schema import Data, Recipe, RecipeError

ROOM = 2**30  # bytes of pixels that a process without a GPU copies into its memory; more stay in the memory map


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


class BatchedBatches(TrainBatches):
    """Augmented on the device for a whole batch (`data.pipeline: batched`).

    The pixels lie on the device, or are fed from the host a few steps ahead (`data.residence`). Images that differ in size
    are cropped and resized on the host.
    """

    def __init__(self, recipe: Recipe, store: Store, device: torch.device, share: Share = Share()) -> None:
        super().__init__(recipe, store, device, share)
        check_residence(recipe.data, self._part)
        images = self._part.images
        self._native = images.size
        self._pixels = None
        if on_device(recipe.data, self._part, device):
            self._pixels = torch.from_numpy(images.array()[self._part.chosen]).to(device)
        self._labels = torch.from_numpy(self._part.labels).to(device)
        self._transform = BatchTransform(recipe.augment, recipe.model.image_size, recipe.seed, device)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        recipe, device = self._recipe, self._device
        order = self._order(epoch)
        chosen = torch.from_numpy(order).to(device)
        native = self._native or self._part.images.sizes[self._part.chosen[order]]
        draws = draw(recipe.augment, native, recipe.model.image_size, self.positions, recipe.seed, epoch)
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
        native = self._part.chosen[order]
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


def check_residence(data: Data, part: Part) -> None:
    """Refuse to keep images on the device that differ in size: they are cropped on the host.

    Raises:
        RecipeError: `data.residence` asks for it.
    """
    if data.pipeline == "batched" and data.residence == "device" and part.images.size is None:
        raise RecipeError(
            f"data.residence: the images of {data.name} differ in size, so they cannot lie on the device: allowed are auto"
            " and host"
        )


def on_device(data: Data, part: Part, device: torch.device) -> bool:
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
    pipeline = PilBatches if recipe.data.pipeline == "pil" else BatchedBatches
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

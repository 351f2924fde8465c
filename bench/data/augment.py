"""Augmentation of a whole batch on the device, each sample with random parameters of its own.

`sample_augment_params` draws the parameters of an epoch on the host; `BatchTransform` applies them. Crop and resize are two
batched matrix products with one weight matrix per sample, as Pillow's antialiased resize (src/libImaging/Resample.c). From
there to the normalisation images are whole grey levels in uint8, a quarter of the memory traffic of float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench.config.schema import Augment
from bench.data.rand_augment import parse, rand_augment, sample_operations, to_levels
from bench.data.upload import upload
from bench.rng import Stream, generator

MAX_ATTEMPTS = 10  # boxes that torchvision's crop and timm's erasing try before they give up
CPU_CHUNK_IMAGES = 32  # that a CPU augments at once, so that they stay in its caches


@dataclass(frozen=True)
class AugmentParams:
    """The random parameters of an epoch, one row per position in the global sample order."""

    boxes: Tensor  # [positions, 4] float32, top, left, height, width of the crop in px of the (padded) native image
    flips: Tensor  # [positions] bool
    erased: Tensor  # [positions, 4] int64, top, left, height, width in px of the input; height 0 erases nothing
    noise: Tensor  # [positions, 2] int64, row and column of the noise bank where the filling begins
    kinds: np.ndarray | None = None  # of RandAugment's operations, as `sample_operations` returns them; None without it
    arguments: np.ndarray | None = None

    def to(self, device: torch.device) -> AugmentParams:
        """The parameters with their tensors on the device. The operations stay on the host, which sorts samples by them."""
        tensors = {n: upload(getattr(self, n).numpy(), device) for n in ("boxes", "flips", "erased", "noise")}
        return replace(self, **tensors)

    def __getitem__(self, rows: slice | np.ndarray) -> AugmentParams:
        return AugmentParams(*(None if (value := getattr(self, f.name)) is None else value[rows] for f in fields(self)))


def sample_augment_params(
    augment: Augment, native: tuple[int, int] | np.ndarray, size: int, count: int, seed: int, epoch: int
) -> AugmentParams:
    """Draw the parameters for `count` positions of one epoch.

    native: height and width of the stored images, px; or [count, 2] for the image at each position.
    """
    crop = generator(seed, Stream.CROP, epoch)
    if augment.crop == "random_resized":
        boxes = _random_boxes(crop, count, native, augment.crop_area, augment.crop_ratio)
    else:
        padding = augment.padding if augment.crop == "padded" else 0
        corner = crop.integers(0, 2 * padding, size=(count, 2), endpoint=True)
        boxes = np.concatenate([corner, np.broadcast_to(native, (count, 2))], axis=1)
    flips = generator(seed, Stream.FLIP, epoch).random(count) < augment.flip
    # timm's RandomErasing: area 2 % to 33 %, aspect 0.3 to 1/0.3, strictly smaller than the image, otherwise nothing
    erasing = generator(seed, Stream.ERASE, epoch)
    erased = _random_boxes(erasing, count, (size, size), (0.02, 1 / 3), (0.3, 1 / 0.3), erase=augment.erase)
    operations = sample_operations(parse(augment.rand_augment), count, seed, epoch) if augment.rand_augment else ()
    noise = generator(seed, Stream.NOISE, epoch).integers(0, size, size=(count, 2), endpoint=True)
    return AugmentParams(
        torch.from_numpy(np.array(boxes, dtype=np.float32)),
        torch.from_numpy(flips),
        torch.from_numpy(erased),
        torch.from_numpy(noise),
        *operations,
    )


def _random_boxes(
    random: np.random.Generator,
    count: int,
    image: tuple[int, int] | np.ndarray,
    area: tuple[float, float],
    ratio: tuple[float, float],
    erase: float | None = None,
) -> np.ndarray:
    """Draw [count, 4] int64 boxes by rejection, as torchvision's RandomResizedCrop or timm's RandomErasing.

    The area (in fractions of the image) is uniform, the aspect ratio uniform in its logarithm, and the first attempt that
    fits is taken. If none fits, a crop is central and as large as the ratio (width / height) allows.

    erase: None for crops. For erasing its probability; the ratio is height / width, a box does not fill the image, and is
        empty if none fits.
    """
    sides = np.broadcast_to(np.asarray(image, np.int64), (count, 2))
    uniform = random.random((count, 2 * MAX_ATTEMPTS + 3))
    pixels = (area[0] + (area[1] - area[0]) * uniform[:, :MAX_ATTEMPTS]) * sides.prod(1)[:, None]
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * uniform[:, MAX_ATTEMPTS : 2 * MAX_ATTEMPTS])
    if erase is not None:
        aspect = 1 / aspect
    boxes = np.rint(np.sqrt(np.stack([pixels / aspect, pixels * aspect], axis=2))).astype(np.int64)  # height, width
    fits = ((boxes > 0) & (boxes <= sides[:, None] - (0 if erase is None else 1))).all(2)
    if erase is None:
        height, width = sides.T
        largest = np.rint(np.stack([width / ratio[0], height * ratio[1]], axis=1)).astype(np.int64)
        fallback = np.minimum(sides, largest)
    else:
        fits &= uniform[:, -1:] < erase
        fallback = np.zeros_like(sides)
    found = fits.any(1)[:, None]
    boxes = np.where(found, boxes[np.arange(count), fits.argmax(1)], fallback)
    corners = np.where(found, (uniform[:, -3:-1] * (sides - boxes + 1)).astype(np.int64), (sides - boxes) // 2)
    return np.concatenate([corners, boxes], axis=1)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5: Pillow's BICUBIC."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


def _triangle(x: Tensor) -> Tensor:
    """The triangle kernel: Pillow's BILINEAR."""
    return (1 - x.abs()).clamp(min=0)


def resize_weights(start: Tensor, length: Tensor, size: int, native: int, kernel: Literal["bicubic", "bilinear"]) -> Tensor:
    """The weights of Pillow's antialiased resize of the crop [start, start + length) to `size`, along one axis.

    start and length are [batch] float, native is the length of the stored axis, all in px.
    Returns [batch, size, native] float32; rows sum to one and are zero outside the crop.
    """
    scale = (length / size)[:, None, None]
    stretch = scale.clamp(min=1)  # the kernel widens when the image shrinks
    centre = (torch.arange(size, device=start.device) + 0.5)[None, :, None] * scale
    pixel = torch.arange(native, device=start.device)[None, None, :] - start[:, None, None]
    function = _cubic if kernel == "bicubic" else _triangle
    weights = function((pixel + 0.5 - centre) / stretch)
    weights = weights * ((pixel >= 0) & (pixel < length[:, None, None]))
    return weights / weights.sum(-1, keepdim=True)


def crop_and_resize(
    pixels: Tensor, boxes: Tensor, size: int, kernel: Literal["bicubic", "bilinear"], flips: Tensor | None = None
) -> Tensor:
    """Crop each image to its box and resize it, as Pillow does: [batch, height, width, 3] to [batch, 3, size, size] uint8.

    The horizontal pass comes first, and each pass rounds to whole grey levels. (Pillow 13 begins with the vertical pass if
    that is cheaper; the published runs used an older one.)

    boxes: [batch, 4] float, top, left, height, width in px; or [1, 4] for all.
    flips: [batch] bool, whether to mirror the result left to right.
    """
    batch, height, width, _ = pixels.shape
    top, left, box_height, box_width = boxes.float().unbind(1)
    columns = resize_weights(left, box_width, size, width, kernel)
    rows = resize_weights(top, box_height, size, height, kernel)
    if flips is not None:
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    images = pixels.permute(0, 1, 3, 2).reshape(batch, height * 3, width).float()
    # Pillow rounds halves up
    images = torch.matmul(images, columns.transpose(1, 2)).add_(0.5).floor_().clamp_(0, 255)
    images = torch.matmul(rows, images.view(batch, height, 3 * size)).add_(0.5)
    return to_levels(images.view(batch, size, 3, size).permute(0, 2, 1, 3))


class BatchTransform:
    """The training and test transforms of a recipe, for batches on one device.

    seed: of the noise that fills erased boxes, one bank for the whole run.
    fused: whether torch.compile fuses the operations of RandAugment.
    """

    def __init__(self, augment: Augment, size: int, seed: int, device: torch.device, fused: bool = False) -> None:
        self._augment, self._size, self._fused = augment, size, fused
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (augment.mean, augment.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std
        bank = generator(seed, Stream.NOISE, 2**32 - 1).standard_normal((3, 2 * size, 2 * size), np.float32)
        self._bank = torch.from_numpy(bank).to(device)
        fill = [min(255, round(255 * level)) for level in augment.mean]  # timm's fill colour
        self._fill = torch.tensor(fill, dtype=torch.uint8, device=device).view(3, 1, 1)

    def train(self, pixels: Tensor, params: AugmentParams, cropped: bool = False) -> Tensor:
        """Augment and normalise [batch, height, width, 3] uint8 to [batch, 3, size, size] float32.

        cropped: whether the pixels are already cropped to their boxes and resized, [batch, size, size, 3].
        """
        out = torch.empty(len(pixels), 3, self._size, self._size, device=pixels.device)
        chunk = CPU_CHUNK_IMAGES if pixels.device.type == "cpu" else len(pixels)
        for first in range(0, len(pixels), chunk):
            rows = slice(first, first + chunk)
            self.normalise(self.augment(pixels[rows], params[rows], cropped), params[rows], out[rows])
        return out

    def augment(self, pixels: Tensor, params: AugmentParams, cropped: bool = False) -> Tensor:
        """The first part of `train`, before normalising and erasing: [batch, 3, size, size] uint8."""
        if cropped:
            images = pixels.permute(0, 3, 1, 2)
            images = torch.where(params.flips[:, None, None, None], images.flip(3), images).contiguous()
        else:
            if padding := self._augment.padding:
                pixels = torch.nn.functional.pad(pixels, (0, 0, padding, padding, padding, padding))
            images = crop_and_resize(pixels, params.boxes, self._size, "bicubic", params.flips)
        if params.kinds is not None:
            images = rand_augment(images, params.kinds, params.arguments, self._fill, self._fused)
        return images

    def normalise(self, images: Tensor, params: AugmentParams, out: Tensor | None = None) -> Tensor:
        """The second part of `train`: normalise, and erase if the recipe does. out: where to write the result."""
        out = torch.empty(images.shape, device=images.device) if out is None else out
        out.copy_(images).mul_(self._scale).add_(self._shift)
        if self._augment.erase:
            (erase_each if out.device.type == "cpu" else erase)(out, params.erased, params.noise, self._bank)
        return out

    def test(self, pixels: Tensor) -> Tensor:
        """Resize (bilinear, no crop) and normalise [batch, height, width, 3] uint8 to [batch, 3, size, size] float32."""
        whole = torch.zeros(1, 4, device=pixels.device)
        whole[0, 2], whole[0, 3] = pixels.shape[1:3]
        return crop_and_resize(pixels, whole, self._size, "bilinear").mul(self._scale).add_(self._shift)


def erase(images: Tensor, erased: Tensor, noise: Tensor, bank: Tensor) -> None:
    """Fill the boxes of [batch, 3, size, size] images from the bank, all at once and without the host.

    erased, noise: of `AugmentParams`, on the device of the images. bank: [3, 2 · size, 2 · size].
    """
    size = images.shape[-1]
    offset = (
        torch.arange(size, device=images.device) - erased[:, :2, None]
    )  # [batch, 2, size], of rows and columns in the box
    rows, columns = ((offset >= 0) & (offset < erased[:, 2:, None])).unbind(1)
    windows = bank.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)  # [row, column, 3, size, size], a view
    filled = windows[noise[:, 0], noise[:, 1]]
    torch.where((rows[:, :, None] & columns[:, None])[:, None], filled, images, out=images)


def erase_each(images: Tensor, erased: Tensor, noise: Tensor, bank: Tensor) -> None:
    """What `erase` does, box by box, which reads and writes only the boxes: faster on a CPU."""
    for image, (top, left, height, width), (row, column) in zip(images, erased.tolist(), noise.tolist(), strict=True):
        if height:
            rows, columns = slice(top, top + height), slice(left, left + width)
            image[:, rows, columns] = bank[:, row + top : row + top + height, column + left : column + left + width]

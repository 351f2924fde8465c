"""RandAugment of a whole batch on the device, each sample with operations of its own (arXiv 1909.13719).

The distribution is that of timm's transform of the same configuration. Each operation gives Pillow's grey levels, or levels
that differ by one where Pillow rounds differently. Operations are drawn on the host, so nothing waits for the device.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from bench.config.schema import RecipeError
from bench.data.upload import upload
from bench.rng import Stream, generator


class Kind(IntEnum):
    """The operations. Those that are computed together have consecutive numbers."""

    NONE = -1
    INVERT = 0
    POSTERIZE = 1
    SOLARIZE = 2
    SOLARIZE_ADD = 3
    BRIGHTNESS = 4
    AUTO_CONTRAST = 5
    EQUALIZE = 6
    COLOR = 7
    CONTRAST = 8
    SHARPNESS = 9
    SHEAR_X = 10
    TRANSLATE_X = 11
    SHEAR_Y = 12
    TRANSLATE_Y = 13
    ROTATE = 14


KINDS = len(Kind) - 1
MAX_MAGNITUDE = 10  # at which an operation is strongest
MAX_LAYERS = 16
# degrees, px per px, fractions of the side
STRONGEST = {Kind.ROTATE: 30, Kind.SHEAR_X: 0.3, Kind.SHEAR_Y: 0.3, Kind.TRANSLATE_X: 0.45, Kind.TRANSLATE_Y: 0.45}
UNIFORM_DEVIATION = 100  # timm: with a larger mstd magnitudes are uniform
RANGES = {"m": (0, MAX_MAGNITUDE), "mstd": (0, math.inf), "inc": (0, 1), "n": (1, MAX_LAYERS), "p": (0, 1)}
SECTION = re.compile(r"(mstd|p|(?:m|inc|n)(?=[0-9]+$))([0-9]+(?:\.[0-9]+)?)")  # m, inc and n take whole numbers
_compiled = functools.cache(functools.partial(torch.compile, dynamic=True))  # one graph for groups of any size


@dataclass(frozen=True)
class Settings:
    """The settings in a configuration such as `rand-m9-mstd0.5-inc1`."""

    magnitude: float = MAX_MAGNITUDE  # m, 0 to 10
    deviation: float = 0.0  # mstd, standard deviation of each magnitude around m; above 100: uniform from 0 to m
    increasing: bool = False  # inc, whether posterize, solarize and the enhancements get stronger with the magnitude
    layers: int = 2  # n, operations per image, drawn with replacement
    probability: float = 0.5  # p, that an operation is applied


def parse(text: str) -> Settings:
    """Read a timm configuration, in any order. Raises RecipeError if the batched pipeline lacks what it asks for."""
    first, *sections = text.split("-")
    values = {match[1]: float(match[2]) for section in sections if (match := SECTION.fullmatch(section))}
    in_range = all(RANGES[name][0] <= value <= RANGES[name][1] for name, value in values.items())
    if first != "rand" or len(values) < len(sections) or not in_range:
        raise RecipeError(
            f"augment.rand_augment: got {text!r}, data.pipeline=batched allows rand with m0 to m{MAX_MAGNITUDE}, mstd, inc0"
            f" or inc1, n1 to n{MAX_LAYERS} and p0 to p1, each at most once, as rand-m9-mstd0.5-inc1; data.pipeline=pil"
            " allows all of timm's"
        )
    magnitude, layers = values.get("m", MAX_MAGNITUDE), int(values.get("n", 2))
    return Settings(magnitude, values.get("mstd", 0.0), bool(values.get("inc", 0)), layers, values.get("p", 0.5))


def sample_operations(settings: Settings, count: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the operations of `count` positions of one epoch, [count, layers] in the order of application.

    Returns (int8 values of `Kind`, NONE if no operation is applied; float64 arguments, as of `argument`).
    """
    # A fixed number of random numbers per position, so that a row does not depend on the count.
    uniform = generator(seed, Stream.RAND_AUGMENT, epoch).random((count, settings.layers, 5))
    which, applied, sign, radius, angle = np.moveaxis(uniform, 2, 0)
    kinds = (which * KINDS).astype(np.int8)
    if settings.deviation > UNIFORM_DEVIATION:
        magnitude = settings.magnitude * radius
    else:  # normal, by Box and Muller
        normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
        magnitude = np.clip(settings.magnitude + settings.deviation * normal, 0, MAX_MAGNITUDE)
    arguments = np.zeros(kinds.shape)
    for kind in Kind:
        here = kinds == kind
        arguments[here] = argument(kind, magnitude[here], sign[here] > 0.5, settings.increasing)
    kinds[applied >= settings.probability] = Kind.NONE
    return kinds, arguments


def argument(kind: Kind, magnitude: np.ndarray, negative: np.ndarray, increasing: bool) -> np.ndarray:
    """The results of timm's level functions for magnitudes from 0 to 10: the arguments of Pillow's functions, float64.

    Degrees, number of bits to keep, threshold, level to add, factor, shear in px per px, or translation in fractions of the
    side. 0 for operations without one.
    """
    level = magnitude / MAX_MAGNITUDE
    signed = np.where(negative, -level, level)
    if kind in STRONGEST:
        return signed * STRONGEST[kind]
    if kind in (Kind.COLOR, Kind.CONTRAST, Kind.BRIGHTNESS, Kind.SHARPNESS):
        return np.maximum(0.1, 1 + signed * 0.9) if increasing else level * 1.8 + 0.1
    if kind == Kind.POSTERIZE:
        bits = np.floor(level * 4)
        return 4 - bits if increasing else bits
    if kind == Kind.SOLARIZE:
        threshold = np.floor(level * 256)
        return 256 - threshold if increasing else threshold
    if kind == Kind.SOLARIZE_ADD:
        return np.floor(level * 110)
    return np.zeros_like(level)


def rand_augment(images: Tensor, kinds: np.ndarray, arguments: np.ndarray, fill: Tensor, fused: bool = False) -> Tensor:
    """Apply to each sample of [batch, 3, size, size] uint8 its operations, from `sample_operations`.

    fill: [3, 1, 1] uint8, on the device of the images, the colour outside a moved image.
    fused: whether torch.compile fuses the many small operations that each one consists of.
    """
    groups = (
        (Kind.INVERT, Kind.EQUALIZE, _map_levels),
        (Kind.COLOR, Kind.COLOR, lambda group: group.call(_colour, group.values[0])),
        (Kind.CONTRAST, Kind.CONTRAST, lambda group: group.call(_contrast, group.values[0])),
        (Kind.SHARPNESS, Kind.SHARPNESS, lambda group: group.call(_sharpness, group.values[0])),
        (Kind.SHEAR_X, Kind.TRANSLATE_Y, lambda group: group.call(_slide, *group.values, group.below(Kind.SHEAR_Y), fill)),
        (Kind.ROTATE, Kind.ROTATE, lambda group: group.call(_rotate, *group.values, fill)),
    )
    # In each layer samples are sorted by operation, so that each group is a view.
    orders = np.argsort(kinds, axis=0, kind="stable").T
    places = np.argsort(orders, axis=1)
    moves = upload(np.stack([orders[0], *map(np.take, places, orders[1:]), places[-1]]), images.device)
    kinds, arguments = (np.take_along_axis(of_samples.T, orders, 1) for of_samples in (kinds, arguments))
    values = upload(_values(kinds, arguments, images.shape[-1]), images.device)
    for layer, move in enumerate(moves[:-1]):
        images = images.index_select(0, move)
        for first, last, function in groups:
            rows = slice(*np.searchsorted(kinds[layer], (first, last + 1)).tolist())
            if rows.start < rows.stop:
                group = _Group(images[rows], kinds[layer, rows], arguments[layer, rows], values[layer, :, rows], fused)
                images[rows] = function(group)
    return images.index_select(0, moves[-1])


@dataclass(frozen=True)
class _Group:
    """Samples of one layer whose operations are computed together, sorted by them."""

    images: Tensor  # [batch, 3, size, size] uint8
    kinds: np.ndarray
    arguments: np.ndarray
    values: Tensor  # [2, batch] float32, on the device, from `_values`
    fused: bool

    def below(self, kind: Kind) -> int:
        """Number of samples with an operation of a smaller number."""
        return int(np.searchsorted(self.kinds, kind))

    def call(self, function: Callable[..., Tensor], *tensors: Tensor | int) -> Tensor:
        """The result of a function of the images and other tensors."""
        return (_compiled(function) if self.fused else function)(self.images, *tensors)


def _values(kinds: np.ndarray, arguments: np.ndarray, size: int) -> np.ndarray:
    """[layers, 2, batch] float32: cosine and sine of rotations, shear and px of shifted rows, else the argument and 0."""
    rotated, radians = kinds == Kind.ROTATE, np.radians(arguments)
    moved = (kinds == Kind.TRANSLATE_X) | (kinds == Kind.TRANSLATE_Y)
    first = np.select([rotated, moved], [np.cos(radians), 0], arguments)
    second = np.select([rotated, moved], [np.sin(radians), arguments * size], 0)
    return np.stack([first, second], 1).astype(np.float32)


def to_levels(values: Tensor) -> Tensor:
    """Grey levels truncated to whole ones from 0 to 255: contiguous uint8. Overwrites the values."""
    # By way of int16, since torch's conversion from float to uint8 is slow on a CPU.
    return values.clamp_(0, 255).to(torch.int16).to(torch.uint8, memory_format=torch.contiguous_format)


def _map_levels(group: _Group) -> Tensor:
    """Operations that map each grey level to another: one table per sample and channel."""
    fixed, stretched = group.below(Kind.AUTO_CONTRAST), group.below(Kind.EQUALIZE)
    images, parts = group.images, []
    if fixed:
        tables = upload(_tables(group.kinds[:fixed], group.arguments[:fixed]), images.device)
        parts.append(tables[:, None].expand(-1, 3, -1))
    if fixed < stretched:
        parts.append(_auto_contrast(images[fixed:stretched]))  # not fused: its division has to be rounded correctly
    if stretched < len(images):
        parts.append(replace(group, images=images[stretched:]).call(_equalize))
    return group.call(_look_up, torch.cat(parts))


def _look_up(images: Tensor, tables: Tensor) -> Tensor:
    """The new levels of images, from [batch, 3, 256] tables."""
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def _tables(kinds: np.ndarray, arguments: np.ndarray) -> np.ndarray:
    """[operations, 256] uint8, the new level of each level."""
    kind, argument, level = kinds[:, None], arguments[:, None], np.arange(256)
    lost = np.where(kind == Kind.POSTERIZE, 8 - argument, 0).astype(int)  # 8 of 8 bits: black, as Pillow before 13
    new = {
        Kind.INVERT: 255 - level,
        Kind.POSTERIZE: level >> lost << lost,
        Kind.SOLARIZE: np.where(level < argument, level, 255 - level),
        Kind.SOLARIZE_ADD: np.where(level < 128, np.minimum(level + argument, 255), level),
        # Pillow's blend with black, in float32
        Kind.BRIGHTNESS: np.clip(level.astype(np.float32) * argument.astype(np.float32), 0, 255),
    }
    return np.select([kind == one for one in new], list(new.values())).astype(np.uint8)


def _auto_contrast(images: Tensor) -> Tensor:
    """[batch, 3, 256] uint8: the tables that stretch each channel over all levels."""
    low, high = [side(images, (2, 3)).float()[..., None] for side in (torch.amin, torch.amax)]
    level = torch.arange(256.0, device=images.device)
    # One division of whole numbers, which is exact in float32. Pillow multiplies by a rounded scale in double precision and
    # may get a value just below a whole number.
    stretched = ((level - low) * 255 / (high - low)).clamp_(0, 255)
    return torch.where(high > low, stretched, level).to(torch.uint8)


def _equalize(images: Tensor) -> Tensor:
    """[batch, 3, 256] uint8: the tables that spread the levels of each channel evenly."""
    level = torch.arange(256, device=images.device)
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int32, device=images.device)
    one = torch.ones((), dtype=torch.int32, device=images.device)
    pixels = images.flatten(2).long()
    counts.scatter_add_(2, pixels, one.expand_as(pixels))
    brightest = counts.gather(2, ((counts > 0) * level).amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest).div(255, rounding_mode="floor")
    below = counts.cumsum(2) - counts
    spread = (below + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    return torch.where(step > 0, spread, level).to(torch.uint8)


def _blend(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Pillow's blend, base + factor * (images - base), truncated. base: [batch, …] float32, factors: [batch]."""
    return to_levels((images - base).mul_(factors[:, None, None, None]).add_(base))


def _grey(images: Tensor) -> Tensor:
    """[batch, 1, size, size] float32: Pillow's luminance, whole levels. Its sums are below 2**24, so float32 is exact."""
    levels = images.float()
    red, green, blue = levels[:, 0], levels[:, 1], levels[:, 2]  # of unbind, torch.compile makes a graph per batch size
    return red.mul_(19595).add_(green.mul_(38470)).add_(blue.mul_(7471)).add_(0x8000).mul_(2**-16).floor_()[:, None]


def _colour(images: Tensor, factors: Tensor) -> Tensor:
    return _blend(_grey(images), images, factors)


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    grey = _grey(images)
    pixels = grey[0].numel()
    total = grey.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    mean = (2 * total + pixels).div(2 * pixels, rounding_mode="floor")  # rounded, halves up
    return _blend(mean.float(), images, factors)


def _sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean of 3x3 pixels in which the middle counts five times; the border is not changed."""
    base = images.float()
    across = base[..., :-2] + base[..., 1:-1] + base[..., 2:]
    total = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    total.add_(base[:, :, 1:-1, 1:-1], alpha=4)
    base[:, :, 1:-1, 1:-1] = total.div_(13).add_(0.5).floor_()
    return _blend(base, images, factors)


def _cubic_weights(along: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `_cubic` needs of a position between the second and the third pixel, 0 to 1."""
    squared = along * along
    cubed = squared * along
    return 2 * squared - cubed - along, along + squared - cubed, cubed - squared


def _cubic(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Pillow's interpolation when it transforms images: Keys' cubic with a = -1 (its resize has -0.5).

    It is computed in differences from the second pixel, so that flat areas stay exactly flat: the result is truncated, and
    99.99 would become 99.
    """
    value = (first - second).mul_(weights[0])
    value.addcmul_(third - second, weights[1])
    return value.addcmul_(fourth - second, weights[2]).add_(second)


def _slide(images: Tensor, shear: Tensor, pixels: Tensor, rows: int, fill: Tensor) -> Tensor:
    """Shear and translate, which shift whole rows in the first `rows` images, whole columns in the others."""
    # px by which each row is shifted; columns are the rows of the transposed image
    shift = shear[:, None] * (torch.arange(images.shape[-1], device=images.device) + 0.5) + pixels[:, None]
    moved = _slide_rows(torch.cat([images[:rows], images[rows:].transpose(2, 3)]), shift, fill)
    moved[rows:] = moved[rows:].transpose(2, 3).clone()
    return moved


def _slide_rows(images: Tensor, shift: Tensor, fill: Tensor) -> Tensor:
    """Read each row `shift` [batch, size] px to the right."""
    size = images.shape[-1]
    start = shift.floor()
    along = torch.arange(-1, size + 2, device=images.device)  # four pixels around each position; neighbours share three
    index = (start.long()[..., None] + along).clamp_(0, size - 1)
    pixels = images.gather(3, index[:, None].expand(-1, 3, -1, -1)).float()
    value = _cubic(*[pixels[..., i : i + size] for i in range(4)], _cubic_weights((shift - start)[:, None, :, None]))
    place = shift[..., None] + (torch.arange(size, device=images.device) + 0.5)
    inside = (place >= 0) & (place < size)
    return _filled(value, inside, fill)


def _rotate(images: Tensor, cos: Tensor, sin: Tensor, fill: Tensor) -> Tensor:
    """Rotate counterclockwise around the centre."""
    batch, _, size, _ = images.shape
    cos, sin = cos[:, None, None], sin[:, None, None]
    middle = torch.arange(size, device=images.device) + 0.5 - size / 2
    across = cos * middle - sin * middle[:, None] + size / 2
    down = sin * middle + cos * middle[:, None] + size / 2
    inside = (across >= 0) & (across < size) & (down >= 0) & (down < size)
    across, down = [place.sub_(0.5).clamp_(-0.5, size - 0.5).flatten(1) for place in (across, down)]
    left, top = across.floor(), down.floor()
    columns = [(left.long() + right).clamp_(0, size - 1) for right in (-1, 0, 1, 2)]
    pixels, weights = images.flatten(2), _cubic_weights((across - left)[:, None])
    # Written into memory that is allocated once: new pages cost a CPU more than the look-ups.
    neighbours, values = torch.empty(2, 4, batch, 3, size * size, device=images.device)
    for i, below in enumerate((-1, 0, 1, 2)):
        row = (top.long() + below).clamp_(0, size - 1).mul_(size)
        for neighbour, column in zip(neighbours, columns, strict=True):
            neighbour.copy_(pixels.gather(2, (row + column)[:, None].expand(-1, 3, -1)))
        values[i] = _cubic(*neighbours, weights)
    turned = _cubic(*values, _cubic_weights((down - top)[:, None]))
    return _filled(turned.view(batch, 3, size, size), inside, fill)


def _filled(values: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    """Whole levels inside, the fill colour outside. Computed by products, since torch.where is slow on a CPU."""
    inside = inside[:, None].to(torch.uint8)
    return to_levels(values).mul_(inside).add_((1 - inside) * fill)

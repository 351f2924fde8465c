"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899): two samples become two mixed ones, with timm's mathematics.

As in timm's mode `pair` (timm/data/mixup.py), each pair has a share λ from a Beta distribution: the first sample is λ of
itself and 1 - λ of the second, and the second the other way round. CutMix exchanges a box of (1 - λ) of the area; if the
border clips it, λ becomes what is left. The samples at positions 2j and 2j + 1 of the global order are a pair (timm: the
first and the last of a batch, and so on), so it does not matter how many processes or micro-batches share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.config.schema import Augment
from bench.data.upload import upload
from bench.rng import Stream, generator


class Mixed(NamedTuple):
    """What mixed samples have beside the label of their larger share."""

    shares: Tensor  # [batch] float32, the larger share, from 0.5 to 1
    labels: Tensor  # [batch] int64, of the smaller share

    def rows(self, rows: slice) -> Mixed:
        """Those of some samples of the batch."""
        return Mixed(self.shares[rows], self.labels[rows])


@dataclass(frozen=True)
class MixParams:
    """The random parameters of an epoch, one row per pair: row j is of the positions 2j and 2j + 1."""

    shares: Tensor  # [pairs] float32, λ
    cut: Tensor  # [pairs] bool, whether a box is exchanged, and no blend made
    boxes: Tensor  # [pairs, 4] int64, top, bottom, left, right of that box in px, bottom and right exclusive; else empty

    def rows(self, positions: slice) -> MixParams:
        """Those of some positions, which begin and end with a pair."""
        pairs = slice(positions.start // 2, positions.stop // 2)
        return MixParams(*(getattr(self, f.name)[pairs] for f in fields(self)))


def sample_mix_params(
    augment: Augment, size: int, positions: int, seed: int, epoch: int, device: torch.device
) -> MixParams | None:
    """Draw the parameters of one epoch on the host and copy them to the device; None if the recipe mixes nothing.

    size: of the input, px.
    """
    if not augment.mixes:
        return None
    pairs, rng = positions // 2, generator(seed, Stream.MIX, epoch)
    switch = augment.mix_switch if augment.mixup and augment.cutmix else float(augment.cutmix > 0)
    mixed, cut = rng.random(pairs) < augment.mix_prob, rng.random(pairs) < switch
    centres = rng.integers(size, size=(pairs, 2))
    shares = np.ones(pairs, np.float32)
    for alpha, chosen in ((augment.mixup, ~cut), (augment.cutmix, cut)):
        if alpha:
            shares = np.where(mixed & chosen, rng.beta(alpha, alpha, pairs).astype(np.float32), shares)
    cut &= mixed
    boxes = np.where(cut[:, None], cut_boxes(shares, centres, size), 0)
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    shares = np.where(cut, 1 - area / size**2, shares).astype(np.float32)
    return MixParams(*(upload(values, device) for values in (shares, cut, boxes)))


def cut_boxes(shares: np.ndarray, centres: np.ndarray, size: int) -> np.ndarray:
    """The boxes of CutMix, as timm's `rand_bbox`: [pairs, 4] int64, top, bottom, left, right, clipped to the image.

    Args:
        shares: [pairs] float32, λ before the clipping.
        centres: [pairs, 2] int64, row and column.
    """
    side = (size * np.sqrt(1 - shares)).astype(np.int64)[:, None]
    first, last = (np.clip(edge, 0, size) for edge in (centres - side // 2, centres + (side + 1) // 2))
    return np.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], axis=1)


def mix(images: Tensor, labels: Tensor, params: MixParams) -> tuple[Tensor, Tensor, Mixed]:
    """Mix each sample with its partner. Nothing waits for the device.

    Args:
        images: [batch, 3, size, size], normalised; labels: [batch] int64.
        params: of the positions of these samples.

    Returns:
        The mixed images, the label of the larger share of each (its own at one half), and the rest.
    """
    pairs = images.unflatten(0, (-1, 2))  # [pairs, 2, 3, size, size]
    partners, place = pairs.flip(1), torch.arange(images.shape[-1], device=images.device)
    top, bottom, left, right = params.boxes[:, :, None].unbind(1)
    inside = ((place >= top) & (place < bottom))[:, :, None] & ((place >= left) & (place < right))[:, None, :]
    blend = torch.where(params.cut, 1.0, params.shares).view(-1, 1, 1, 1, 1)
    images = torch.where(inside[:, None, None], partners, pairs * blend + partners * (1 - blend)).flatten(0, 1)
    partner_labels = labels.view(-1, 2).flip(1).flatten()
    shares = params.shares.repeat_interleave(2, output_size=len(labels))
    own = shares >= 0.5
    mixed = Mixed(torch.where(own, shares, 1 - shares), torch.where(own, partner_labels, labels))
    return images, torch.where(own, labels, partner_labels), mixed

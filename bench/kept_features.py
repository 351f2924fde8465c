"""Offline guidance: the guide's features of the unaugmented training images, computed once, kept in the cache, and cropped
and flipped as each sample is (the released code's `OFFLINE`)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bench.cache import cache_folder, locked
from bench.data.augment import resize_weights
from bench.data.batches import Batch, unaugmented
from bench.data.parts import Part, Store
from bench.data.upload import upload
from bench.guide import Guide
from bench.schema import Recipe, RecipeError

BATCH = 200  # consecutive images whose statistics the guide's batch norm uses together, as released


class KeptFeatures:
    """The guide's maps of every training image, memory-mapped, float16.

    Attributes:
        shapes: (channels, height, width) of each map.
    """

    def __init__(self, folder: Path) -> None:
        stages = sorted(folder.glob("stage*.npy"))
        self._stages = [np.load(path, mmap_mode="r") for path in stages]
        self.shapes = [stage.shape[1:] for stage in self._stages]

    def maps(self, batch: Batch) -> list[Tensor]:
        """The maps of a batch's samples, [batch, channels, height, width] float32, on the device of its images, each cut to
        the sample's crop, stretched back to the whole map and mirrored as the sample was.

        As released, the crop is cut down to whole cells of the map; colour operations and erasing leave no trace.
        """
        device = batch.images.device
        return [replay(upload(stage[batch.chosen], device).float(), batch.boxes, batch.flips) for stage in self._stages]


def replay(maps: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Crop and flip [batch, channels, height, width] maps of whole images.

    Args:
        boxes: [batch, 4] float, top, left, height, width in shares of the image.
        flips: [batch] bool.

    Returns:
        The maps at their own size again, resized bilinearly. A crop of less than one cell keeps that cell.
    """
    height, width = maps.shape[2:]
    sides = (height, width, height, width)
    # 1e-4 of a cell: a share such as 6/32 of a map of 32 cells must not fall to 5.99…
    top, left, tall, wide = ((boxes[:, k] * side + 1e-4).floor() for k, side in enumerate(sides))
    tall, wide = tall.clamp(min=1), wide.clamp(min=1)
    down = resize_weights(top.clamp(max=height - 1), tall, height, height, "bilinear")
    across = resize_weights(left.clamp(max=width - 1), wide, width, width, "bilinear")
    across = torch.where(flips[:, None, None], across.flip(1), across)
    return down[:, None] @ maps @ across.transpose(1, 2)[:, None]


def kept_features(guide: Guide, key: str, recipe: Recipe, store: Store, device: torch.device) -> KeptFeatures:
    """The features of a guide for the images that a recipe trains on, computed if they are not in the cache. One process of
    a machine computes; the others wait for its lock.

    Args:
        key: which guide it is, `KeptGuide.key`.
        recipe: of the student.

    Raises:
        RecipeError: they do not fit on the disk.
    """
    part = store.training(recipe.data)
    which = f"{store.fingerprint} {recipe.guidance.guide_norm} {recipe.guide.model.taps} ".encode() + part.chosen.tobytes()
    folder = cache_folder() / "features" / f"{key}-{hashlib.sha256(which).hexdigest()[:16]}"
    with locked(folder, f"features of {recipe.guide.id}"):
        if folder.exists():
            with contextlib.suppress(OSError, ValueError, EOFError, KeyError, TypeError):
                kept = KeptFeatures(folder)
                said = json.loads((folder / "done.json").read_text(encoding="utf-8"))
                if [len(part), said["shapes"]] == [said["images"], [list(shape) for shape in kept.shapes]]:
                    return kept
            print(f"warning: the features in {folder} are damaged and are made anew", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
        _compute(guide.to(device), recipe.guide, part, device, folder)
        return KeptFeatures(folder)


@torch.no_grad()
def _compute(guide: Guide, recipe: Recipe, part: Part, device: torch.device, folder: Path) -> None:
    shapes = guide.shapes
    values = sum(int(np.prod(shape)) for shape in shapes)
    size, free = 2 * values * len(part), shutil.disk_usage(folder.parent).free
    print(f"features of {recipe.id}: {len(part):,} images of {values:,} values, {size / 2**20:,.0f} MiB in {folder.parent}")
    if size > free:
        raise RecipeError(f"guidance.offline: the features take {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free")
    for left in folder.parent.glob(f"{folder.name}.*.tmp"):  # by a process that was killed
        shutil.rmtree(left)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        stages = [
            np.lib.format.open_memmap(temporary / f"stage{k}.npy", "w+", np.float16, (len(part), *shape))
            for k, shape in enumerate(shapes)
        ]
        for path in temporary.iterdir():
            with open(path, "r+b") as file:  # a disk that fills up under a memory map would kill the process
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        for first in tqdm(range(0, len(part), BATCH), "features", disable=None):
            _, maps = guide(unaugmented(recipe, part.images, part.chosen[first : first + BATCH], device))
            for stage, of_batch in zip(stages, maps, strict=True):
                stage[first : first + BATCH] = of_batch.half().cpu().numpy()
        for stage in stages:
            stage.flush()
        (temporary / "done.json").write_text(json.dumps({"images": len(part), "shapes": shapes}), encoding="utf-8")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

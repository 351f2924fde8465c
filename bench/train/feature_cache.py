"""Offline guidance: the teacher's features of the unaugmented training images, computed once and stored in the cache.

Each sample's crop and flip are replayed on its stored maps (`OFFLINE` in the released code).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bench.config.schema import Recipe, RecipeError
from bench.data.augment import resize_weights
from bench.data.loaders import Batch, unaugmented
from bench.data.subsets import DecodedDataset, Subset
from bench.data.upload import upload
from bench.guidance import Shape
from bench.locks import cache_folder, locked
from bench.storage import sha256
from bench.train.teacher import Teacher

LOG = logging.getLogger(__name__)
MAX_GPU_FRACTION = 1 / 4  # of the free memory of a GPU, for maps; more stay on the disk
BATCH_IMAGES = 200  # consecutive images that share the statistics of the teacher's batch norm, as released


class FeatureCache:
    """The teacher's maps of every training image, float16: on the GPU if they fit there, else memory-mapped.

    Args:
        images: their number.
        shapes: (channels, height, width) of each map.

    Raises:
        OSError, ValueError, EOFError: the files in the folder are damaged, or not these maps.
    """

    def __init__(self, folder: Path, images: int, shapes: Sequence[Shape], device: torch.device) -> None:
        self.shapes = shapes
        self._stages = [np.load(folder / f"stage{k}.npy", mmap_mode="r") for k in range(len(shapes))]
        if [stage.shape for stage in self._stages] != [(images, *shape) for shape in shapes]:
            raise ValueError("other shapes")
        self._on_device = []
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        if sum(stage.nbytes for stage in self._stages) <= free * MAX_GPU_FRACTION:
            self._on_device = [torch.from_numpy(np.array(stage)).to(device) for stage in self._stages]

    def stored(self, batch: Batch) -> StoredMaps:
        """The maps of a batch's samples, on the device of its images."""
        device = batch.images.device
        if self._on_device:
            indices = upload(batch.indices, device)
            stages = [stage[indices] for stage in self._on_device]
        else:
            stages = [upload(stage[batch.indices], device) for stage in self._stages]
        return StoredMaps(stages, batch.boxes, batch.flips)


class StoredMaps(NamedTuple):
    """Maps of whole images, and how the samples were cropped and mirrored: `replay` has the shapes."""

    stages: list[Tensor]  # float16
    boxes: Tensor
    flips: Tensor

    def maps(self) -> list[Tensor]:
        """The maps of the samples, float32.

        Each is cropped as the sample was, resized back to the whole map and mirrored if the sample was. As released, the
        crop is rounded down to whole cells of the map, and colour operations and erasing are not replayed.
        """
        return [replay(stage.float(), self.boxes, self.flips) for stage in self.stages]


def replay(maps: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Crop and flip [batch, channels, height, width] maps of whole images.

    Args:
        boxes: [batch, 4] float, top, left, height, width in fractions of the image.
        flips: [batch] bool.

    Returns:
        The maps at their own size, resized bilinearly. A crop of less than one cell keeps that cell.
    """
    height, width = maps.shape[2:]
    sides = (height, width, height, width)
    # 1e-4 of a cell is added, so that 6/32 of a map of 32 cells is not rounded down from 5.99…
    top, left, tall, wide = ((boxes[:, k] * side + 1e-4).floor() for k, side in enumerate(sides))
    tall, wide = tall.clamp(min=1), wide.clamp(min=1)
    down = resize_weights(top.clamp(max=height - 1), tall, height, height, "bilinear")
    across = resize_weights(left.clamp(max=width - 1), wide, width, width, "bilinear")
    across = torch.where(flips[:, None, None], across.flip(1), across)
    return down[:, None] @ maps @ across.transpose(1, 2)[:, None]


def open_teacher(
    recipe: Recipe, weights: Path | None, key: str, dataset: DecodedDataset, device: torch.device
) -> Teacher | FeatureCache | None:
    """The frozen teacher of a guided recipe, or its stored features with `teacher.offline`; None without a teacher.

    Args:
        weights: of the teacher; None: initial ones.
        key: the teacher's name in the cache.
    """
    if recipe.teacher is None:
        return None
    classes, maps = dataset.classes(recipe.data), "maps" in recipe.guidance.needs
    teacher = Teacher(recipe.teacher, classes, weights, recipe.guidance.teacher, maps=maps)
    if not recipe.guidance.teacher.offline:
        return teacher
    # a teacher that is trained again has its old key, and other features
    key = key if weights is None else f"{key}-{sha256(weights)[:16]}"
    return open_feature_cache(teacher, key, recipe, dataset, device)


def open_feature_cache(
    teacher: Teacher, key: str, recipe: Recipe, dataset: DecodedDataset, device: torch.device
) -> FeatureCache:
    """The features of a teacher for the training images of a recipe, computed if they are not in the cache.

    One process of a machine computes them; the others wait for its lock.

    Args:
        key: of the teacher and its weights, for the name of the folder.
        recipe: of the student.

    Raises:
        RecipeError: they do not fit on the disk.
    """
    subset = dataset.training(recipe.data)
    config = f"{dataset.fingerprint} {recipe.guidance.teacher.bn} {recipe.teacher.model.feature_layers} "
    digest = hashlib.sha256(config.encode() + subset.indices.tobytes()).hexdigest()
    folder = cache_folder() / "features" / f"{key}-{digest[:16]}"
    with locked(folder, f"features of {recipe.teacher.id}"):
        if folder.exists():
            with contextlib.suppress(OSError, ValueError, EOFError):
                return FeatureCache(folder, len(subset), teacher.shapes, device)
            LOG.warning(f"the features in {folder} are damaged and are computed again")
            shutil.rmtree(folder)
        _compute(teacher.to(device), recipe.teacher, subset, device, folder)
        return FeatureCache(folder, len(subset), teacher.shapes, device)


@torch.no_grad()
def _compute(teacher: Teacher, recipe: Recipe, subset: Subset, device: torch.device, folder: Path) -> None:
    shapes = teacher.shapes
    values = sum(int(np.prod(shape)) for shape in shapes)
    size, free = 2 * values * len(subset), shutil.disk_usage(folder.parent).free
    mib = f"{size / 2**20:,.0f} MiB"
    LOG.info(f"features of {recipe.id}: {len(subset):,} images, {values:,} values each, {mib} in {folder.parent}")
    if size > free:
        raise RecipeError(f"teacher.offline: the features take {mib}, {free / 2**20:,.0f} MiB are free")
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    temporary.mkdir()
    try:
        stages = [
            np.lib.format.open_memmap(temporary / f"stage{k}.npy", "w+", np.float16, (len(subset), *shape))
            for k, shape in enumerate(shapes)
        ]
        for path in temporary.iterdir() if hasattr(os, "posix_fallocate") else ():  # macOS has none
            with open(path, "r+b") as file:  # a full disk under a memory map would kill the process
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        for first in tqdm(range(0, len(subset), BATCH_IMAGES), "features", disable=None):
            outputs = teacher(unaugmented(recipe, subset.images, subset.indices[first : first + BATCH_IMAGES], device))
            for stage, maps in zip(stages, outputs.maps, strict=True):
                stage[first : first + BATCH_IMAGES] = maps.half().cpu().numpy()
        for stage in stages:
            stage.flush()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

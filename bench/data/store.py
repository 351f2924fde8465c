"""The decoded store: a dataset's pixels as uint8, decoded once, memory-mapped by every process and every later run.

One folder a dataset in the cache: `{train,test}.pixels` (all images' RGB bytes, one after the other), `{train,test}.npz`
(sizes and labels) and `store.json`, written last, with the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.cache import cache_folder, locked
from bench.data.sources import Source, locate
from bench.draws import Stream, generator
from bench.recipes import Data, RecipeError


@dataclass(frozen=True)
class Images:
    """Decoded images of one split, in the order of their source."""

    pixels: np.ndarray  # uint8, flat
    sizes: np.ndarray  # int32 [count, 2]: height, width in px
    labels: np.ndarray  # int64 [count]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.sizes.astype(np.int64).prod(1) * 3)])

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, [height, width, 3] uint8."""
        height, width = self.sizes[index]
        return self.pixels[self._offsets[index] : self._offsets[index + 1]].reshape(height, width, 3)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that all images share, or None where they differ."""
        first = self.sizes[0]
        return (int(first[0]), int(first[1])) if (self.sizes == first).all() else None

    def array(self) -> np.ndarray:
        """[count, height, width, 3] uint8 of images that share one size, without a copy."""
        return self.pixels.reshape(len(self), *self.size, 3)


@dataclass(frozen=True)
class Store:
    """A decoded dataset."""

    name: str
    train: Images
    test: Images
    fingerprint: str  # SHA-256 over all pixels, sizes and labels, hex

    def kept(self, data: Data) -> np.ndarray:
        """Indices of the training images that a recipe uses: all, or `data.train_limit` drawn once for all seeds."""
        everything = np.arange(len(self.train))
        if data.train_limit is None or data.train_limit >= len(everything):
            return everything
        return np.sort(generator(0, Stream.SUBSET).permutation(len(everything))[: data.train_limit])


def open_store(data: Data, data_dir: str | Path) -> Store:
    """The dataset of a recipe, decoded on first use; safe when several processes want it at once.

    Raises:
        RecipeError: the dataset is missing, does not decode, or has other counts than its recipe says.
    """
    source = locate(data, data_dir)
    folder = cache_folder() / "datasets" / f"{data.name}-{source.key}"
    if not (folder / "store.json").is_file():
        with locked(folder, f"dataset {data.name}"):
            if not (folder / "store.json").is_file():
                print(f"decoding {source.data.name} from {source}, once", flush=True)
                _decode(source, folder)
    described = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    store = Store(data.name, _open_split(folder, "train"), _open_split(folder, "test"), described["fingerprint"])
    for split, images, expected in (
        ("training", store.train, data.train_images),
        ("test", store.test, data.test_images),
    ):
        if expected is not None and len(images) != expected:
            raise RecipeError(f"dataset {data.name!r} ({source}): {len(images)} {split} images, its recipe says {expected}")
        if images.labels.min() < 0 or images.labels.max() >= data.classes:
            raise RecipeError(
                f"dataset {data.name!r} ({source}): {split} labels from {images.labels.min()} to {images.labels.max()},"
                f" its recipe says {data.classes} classes"
            )
    return store


def _open_split(folder: Path, split: str) -> Images:
    with np.load(folder / f"{split}.npz", allow_pickle=False) as arrays:
        return Images(np.memmap(folder / f"{split}.pixels", np.uint8, "r"), arrays["sizes"], arrays["labels"])


def _decode(source: Source, folder: Path) -> None:
    """Write the store to a temporary folder, then move it into place."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    digest = hashlib.sha256()
    try:
        for split in ("train", "test"):
            sizes, labels = [], []
            with open(temporary / f"{split}.pixels", "wb") as file:
                quiet = not sys.stderr.isatty()
                for pixels, label in tqdm(source.images(split), f"decoding {source.data.name} {split}", disable=quiet):
                    file.write(pixels.tobytes())
                    digest.update(pixels.tobytes())
                    sizes.append(pixels.shape[:2])
                    labels.append(label)
            if not labels:
                raise RecipeError(f"dataset {source.data.name!r} ({source}): split {split!r} holds no images")
            arrays = {"sizes": np.array(sizes, np.int32), "labels": np.array(labels, np.int64)}
            digest.update(arrays["sizes"].tobytes() + arrays["labels"].tobytes())
            np.savez(temporary / f"{split}.npz", **arrays)
        (temporary / "store.json").write_text(json.dumps({"fingerprint": digest.hexdigest()}), encoding="utf-8")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

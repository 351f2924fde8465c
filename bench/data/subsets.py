"""A decoded dataset in memory, and the parts of it that a recipe means: what is trained on, what accuracy is counted on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.config.schema import Data, RecipeError
from bench.rng import Stream, generator


@dataclass(frozen=True)
class Images:
    """Decoded images of one split, in the order of their source."""

    pixels: np.ndarray  # uint8, flat
    sizes: np.ndarray  # int32 [count, 2]: height, width in px
    labels: np.ndarray  # int64 [count]
    names: np.ndarray  # texts [count], as the source names them

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
class Subset:
    """Some images of a split: what a run trains on, or is evaluated on.

    indices: their positions in `images`, ascending.
    """

    images: Images
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        """int64 [count]."""
        return self.images.labels[self.indices]


@dataclass(frozen=True)
class DecodedDataset:
    """A decoded dataset, and the parts of it that a recipe's `data` means.

    test: None where the dataset has no test split of its own.
    names: of the classes, where the source names them.
    fingerprint: SHA-256 over all pixels, sizes and labels, hex.
    """

    name: str
    train: Images
    test: Images | None
    names: tuple[str, ...] | None
    fingerprint: str

    def classes(self, data: Data) -> int:
        """How many a network has to tell apart."""
        return data.subset or data.classes or (len(self.names) if self.names else int(self.train.labels.max()) + 1)

    def training(self, data: Data) -> Subset:
        """The images to train on: without the held-out ones, and no more than `data.train_limit`, drawn once for all seeds
        so that a larger limit holds the smaller one's."""
        chosen = np.setdiff1d(self._may_train(data), self._held_out(data), assume_unique=True)
        if data.train_limit is not None:
            if data.train_limit > len(chosen):
                raise RecipeError(f"data.train_limit: got {data.train_limit}, but {len(chosen)} training images are left")
            drawn = generator(0, Stream.SUBSET).permutation(len(chosen))[: data.train_limit]
            chosen = chosen[np.sort(drawn)]
        return Subset(self.train, chosen)

    def evaluation(self, data: Data) -> Subset:
        """The images that accuracy is counted on: the test set, or with `data.holdout` the held-out training images."""
        if not data.holdout and self.test is not None:
            return Subset(self.test, _of_classes(self.test, data))
        chosen = self._held_out(data) if data.holdout else self._test_of_train(data)
        if not len(chosen):
            key = "holdout" if data.holdout else "test_share"
            raise RecipeError(f"data.{key}: no class of {data.name} has two training images, so none can be evaluated on")
        return Subset(self.train, chosen)

    def evaluated_on(self, data: Data) -> str:
        """What `evaluation` is: "test", the dataset's own test set; "share", one cut from its only set; "holdout"."""
        if data.holdout:
            return "holdout"
        return "test" if self.test is not None else "share"

    def _may_train(self, data: Data) -> np.ndarray:
        everything = _of_classes(self.train, data)
        return everything if self.test is not None else np.setdiff1d(everything, self._test_of_train(data))

    def _held_out(self, data: Data) -> np.ndarray:
        return _stratified(self._may_train(data), self.train, data.holdout, Stream.HOLDOUT)

    def _test_of_train(self, data: Data) -> np.ndarray:
        return _stratified(_of_classes(self.train, data), self.train, data.test_share, Stream.TEST_SHARE)


def _of_classes(images: Images, data: Data) -> np.ndarray:
    return np.arange(len(images)) if data.subset is None else np.flatnonzero(images.labels < data.subset)


def _stratified(chosen: np.ndarray, images: Images, share: float, stream: Stream) -> np.ndarray:
    """A share of each class of the chosen images, at least one of a class with two, drawn once for all seeds."""
    if not share:
        return chosen[:0]
    labels = images.labels[chosen]
    parts = []
    for label in np.unique(labels):
        members = chosen[labels == label]
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        parts.append(generator(0, stream, int(label)).permutation(members)[:count])
    return np.sort(np.concatenate(parts))

"""A decoded dataset and its subsets: the images to train on and the images to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.config.schema import Data, RecipeError
from bench.rng import Stream, generator


@dataclass(frozen=True)
class Images:
    """The decoded images of one split, in the order of their source."""

    pixels: np.ndarray  # uint8, flat
    sizes: np.ndarray  # int32 [count, 2]: height, width in px
    labels: np.ndarray  # int64 [count]
    names: np.ndarray  # strings [count], as in the source

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
        """(height, width) in px of all images, or None if they differ."""
        first = self.sizes[0]
        return (int(first[0]), int(first[1])) if (self.sizes == first).all() else None

    def array(self) -> np.ndarray:
        """All images of one size as [count, height, width, 3] uint8, without a copy."""
        return self.pixels.reshape(len(self), *self.size, 3)


@dataclass(frozen=True)
class Subset:
    """Some images of a split, to train on or to evaluate on."""

    images: Images
    indices: np.ndarray  # int64 [count], their positions in `images`, ascending

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        """int64 [count]."""
        return self.images.labels[self.indices]


@dataclass(frozen=True)
class DecodedDataset:
    """A decoded dataset, with `data.subset` of its classes; its methods return the subsets that `data` asks for."""

    train: Images
    test: Images | None  # None: no test split
    names: tuple[str, ...] | None  # of the classes, if the source names them
    fingerprint: str  # SHA-256 over all pixels, sizes and labels, hex

    @property
    def splits(self) -> dict[str, Images]:
        """The images by "train" and, if there is one, "test"."""
        return {"train": self.train} if self.test is None else {"train": self.train, "test": self.test}

    def classes(self, data: Data) -> int:
        """The number of classes of a network for this dataset."""
        return data.subset or data.classes or (len(self.names) if self.names else int(self.train.labels.max()) + 1)

    def class_names(self, data: Data) -> tuple[str, ...] | None:
        """The names of these classes, in the order of the labels; None unless the source names them all."""
        count = self.classes(data)
        return self.names[:count] if self.names and len(self.names) >= count else None

    def training(self, data: Data) -> Subset:
        """The images to train on, without those held out.

        Of these, at most `data.train_limit`, the same for all seeds; a larger limit includes the images of a smaller one.
        """
        indices, _ = self._divide(data)
        if data.train_limit is not None:
            if data.train_limit > len(indices):
                raise RecipeError(f"data.train_limit: got {data.train_limit}, but {len(indices)} training images are left")
            kept = generator(0, Stream.SUBSET).permutation(len(indices))[: data.train_limit]
            indices = indices[np.sort(kept)]
        return Subset(self.train, indices)

    def evaluation(self, data: Data) -> Subset:
        """The images to evaluate on: the test set or, with `data.holdout`, the training images that are held out."""
        if not data.holdout and self.test is not None:
            return Subset(self.test, np.arange(len(self.test)))
        _, indices = self._divide(data)
        if not len(indices):
            key = "holdout" if data.holdout else "test_share"
            raise RecipeError(f"data.{key}: no class of {data.name} has two training images, so none can be evaluated on")
        return Subset(self.train, indices)

    def _divide(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training split: (to train on, to evaluate on). The second are empty if the test set is used."""
        indices, evaluated = np.arange(len(self.train)), np.array([], int)
        if self.test is None:
            evaluated = _stratified(indices, self.train, data.test_share, Stream.TEST_SHARE)
            indices = np.setdiff1d(indices, evaluated)
        if data.holdout:
            evaluated = _stratified(indices, self.train, data.holdout, Stream.HOLDOUT)
            indices = np.setdiff1d(indices, evaluated)
        return indices, evaluated

    def evaluated_on(self, data: Data) -> str:
        """What `evaluation` returns: the dataset's "test" set; a "share" of its training set as test set; a "holdout"."""
        if data.holdout:
            return "holdout"
        return "test" if self.test is not None else "share"


def _stratified(indices: np.ndarray, images: Images, share: float, stream: Stream) -> np.ndarray:
    """A share of each class of these images, at least one of a class that has two; the same for all seeds."""
    labels = images.labels[indices]
    parts = []
    for label in np.unique(labels):
        members = indices[labels == label]
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        parts.append(generator(0, stream, int(label)).permutation(members)[:count])
    return np.sort(np.concatenate(parts))

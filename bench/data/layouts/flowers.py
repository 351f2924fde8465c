"""Oxford Flowers-102 as its authors distribute it: `jpg/` or `102flowers.tgz`, `imagelabels.mat`, `setid.mat` (Nilsback and
Zisserman, ICVGIP 2008). The training set is the official train and validation sets together (facts of arXiv 2207.10026)."""

from __future__ import annotations

import io
from functools import partial

import numpy as np

from bench.config.schema import Data
from bench.data.files import Files
from bench.data.layouts import Contents, Item, LayoutMismatch

# What `python -m bench data check` says of `verify`.
VERIFIED = "images a class are those of imagelabels.mat, so the labels stand in its order (but for classes of equal counts)"
NOT_VERIFIED = "the order of the labels was not compared: imagelabels.mat and setid.mat are not in the data folder"
MARKS = ("imagelabels.mat", "setid.mat")


def read(files: Files, data: Data) -> Contents:
    """The official splits; labels are those of `imagelabels.mat`, from 0.

    Raises:
        LayoutMismatch: a `.mat` file is missing, or the images are.
    """
    labels, train, test, root = labels_and_splits(files)
    images, inside = files, root
    if f"{root}jpg/image_00001.jpg" not in files:
        if f"{root}102flowers.tgz" not in files or not files.place.is_dir():
            raise LayoutMismatch("both jpg/image_00001.jpg and 102flowers.tgz")
        images, inside = Files(files.place / root / "102flowers.tgz"), ""
        if "jpg/image_00001.jpg" not in images:  # which reads it here, once, and not in every thread that decodes
            raise LayoutMismatch("jpg/image_00001.jpg in 102flowers.tgz")

    def items(ids: np.ndarray) -> list[Item]:
        names = [f"{inside}jpg/image_{i:05d}.jpg" for i in ids]
        return [Item(n, int(labels[i - 1]), partial(images.read, n)) for i, n in zip(ids, names, strict=True)]

    return Contents(items(train), items(test), None)


def labels_and_splits(files: Files) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """(labels from 0 by image, image numbers from 1 of train + validation, of test, the folder they lie in)."""
    from scipy.io import loadmat

    root = files.root_of(*MARKS)
    if root is None:
        raise LayoutMismatch(" or ".join(MARKS))
    labels, sets = (loadmat(io.BytesIO(files.read(root + name))) for name in MARKS)
    train = np.concatenate([sets["trnid"][0], sets["valid"][0]]).astype(int)
    return labels["labels"][0].astype(int) - 1, train, sets["tstid"][0].astype(int), root


def verify(files: Files, train: np.ndarray, test: np.ndarray) -> list[str]:
    """What labels of another copy of the dataset contradict in `imagelabels.mat`, in sentences; none when they agree.

    Copies may number the flowers in another order. Their images are not numbered, so classes are told by their counts.

    Raises:
        LayoutMismatch: the `.mat` files are not among `files`.
    """
    labels, train_ids, test_ids, _ = labels_and_splits(files)
    out = []
    for split, found, ids in (("training", train, train_ids), ("test", test, test_ids)):
        expected, counts = np.bincount(labels[ids - 1]), np.bincount(found)
        if not np.array_equal(expected, counts):
            out.append(f"{split} images a class are not those of imagelabels.mat: the labels stand in another order")
    return out

"""Oxford Flowers-102 as its authors distribute it: `jpg/` or `102flowers.tgz`, `imagelabels.mat`, `setid.mat` (Nilsback and
Zisserman, ICVGIP 2008). The training set is the official training and validation sets together, as in arXiv 2207.10026."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from scipy.io import loadmat

from bench.config.schema import Data
from bench.data.files import Contents, Files, LayoutMismatch

LABEL_FILES = ("imagelabels.mat", "setid.mat")
# Remarks of `python -m bench data check`
VERIFIED = "the images per class are those of imagelabels.mat, so the labels have its order (except classes of equal size)"
NOT_VERIFIED = "the order of the labels was not compared: imagelabels.mat and setid.mat are not in the data folder"


def read(files: Files, data: Data) -> Contents:
    """The official splits; labels are those of `imagelabels.mat`, from 0."""
    labels, train, test, root = labels_and_splits(files)
    images, folder = files, root
    if f"{root}jpg/image_00001.jpg" not in files:
        if f"{root}102flowers.tgz" not in files or not files.path.is_dir():
            raise LayoutMismatch("both jpg/image_00001.jpg and 102flowers.tgz")
        images, folder = Files(files.path / root / "102flowers.tgz"), ""
        if "jpg/image_00001.jpg" not in images:  # reads the archive here, once, and not in every decoding thread
            raise LayoutMismatch("jpg/image_00001.jpg in 102flowers.tgz")
    splits = ([(f"{folder}jpg/image_{i:05d}.jpg", int(labels[i - 1])) for i in ids] for ids in (train, test))
    return Contents(*(images.items(labelled) for labelled in splits), None)


def labels_and_splits(files: Files) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """(labels from 0 per image, image numbers from 1 of train + validation, those of test, the folder of the files)."""
    root = files.root_of(*LABEL_FILES)
    labels, sets = (loadmat(io.BytesIO(files.read(root + name))) for name in LABEL_FILES)
    train = np.concatenate([sets["trnid"][0], sets["valid"][0]]).astype(int)
    return labels["labels"][0].astype(int) - 1, train, sets["tstid"][0].astype(int), root


def verify(places: Sequence[Files], train: np.ndarray, test: np.ndarray) -> tuple[list[str], list[str]]:
    """Compare the labels of another copy of the dataset with `imagelabels.mat`. Returns (remarks, problems).

    Copies may number the classes in another order. Their images have no numbers, so the images per class are compared.
    """
    for files in places:
        try:
            labels, train_ids, test_ids, _ = labels_and_splits(files)
        except LayoutMismatch:
            continue
        problems = [
            f"{split} images per class are not those of imagelabels.mat: the labels have another order"
            for split, found, ids in (("training", train, train_ids), ("test", test, test_ids))
            if not np.array_equal(np.bincount(labels[ids - 1]), np.bincount(found))
        ]
        return ([] if problems else [VERIFIED]), problems
    return [NOT_VERIFIED], []

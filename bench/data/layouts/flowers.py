"""Oxford Flowers-102 as its authors distribute it: `jpg/` or `102flowers.tgz`, `imagelabels.mat`, `setid.mat` (Nilsback and
Zisserman, ICVGIP 2008). The training set is the official training and validation sets together, as in arXiv 2207.10026."""

from __future__ import annotations

import io

import numpy as np
from scipy.io import loadmat

from bench.config.schema import Data
from bench.data.files import Contents, Files, Item, LayoutMismatch

LABEL_FILES = ("imagelabels.mat", "setid.mat")


def read(files: Files, data: Data) -> Contents:
    """The official splits; labels are those of `imagelabels.mat`, from 0."""
    root = files.root_of(*LABEL_FILES)
    labels, sets = (loadmat(io.BytesIO(files.read(root + name))) for name in LABEL_FILES)
    images, folder = files, root
    if f"{root}jpg/image_00001.jpg" not in files:
        if f"{root}102flowers.tgz" not in files or not files.path.is_dir():
            raise LayoutMismatch("both jpg/image_00001.jpg and 102flowers.tgz")
        images, folder = Files(files.path / root / "102flowers.tgz"), ""
        if "jpg/image_00001.jpg" not in images:  # reads the archive here, once, and not in every decoding thread
            raise LayoutMismatch("jpg/image_00001.jpg in 102flowers.tgz")

    def items(ids: np.ndarray) -> list[Item]:
        return images.items((f"{folder}jpg/image_{i:05d}.jpg", int(labels["labels"][0, i - 1]) - 1) for i in ids)

    train, valid, test = (sets[name][0] for name in ("trnid", "valid", "tstid"))
    return Contents(items(np.concatenate([train, valid])), items(test), None)

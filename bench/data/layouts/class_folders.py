"""A folder a class, all in one place or in `train/` and `test/`: the layout of everybody's own images."""

from __future__ import annotations

import posixpath
from functools import partial

from PIL import Image

from bench.config.schema import Data, RecipeError
from bench.data.files import Files
from bench.data.layouts import Contents, Item, LayoutMismatch

TESTS = ("test", "val", "valid", "validation")
NO_IMAGES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # that Pillow knows by name and does not decode


def read(files: Files, data: Data) -> Contents:
    """Classes are the names of the folders, sorted; files whose ending is no image's are left alone. A folder around it
    all, as archives have, does not count.

    Raises:
        LayoutMismatch: fewer than two class folders with images.
        RecipeError: the test split has a class that the training split has not.
    """
    Image.init()
    known = Image.registered_extensions().items()
    endings = tuple(ending for ending, kind in known if kind in Image.OPEN and kind not in NO_IMAGES)
    images = [name for name in files.names if name.lower().endswith(endings)]
    outer = posixpath.commonpath([posixpath.dirname(name) for name in images]) if images else ""
    paths = {name: name.removeprefix(outer).strip("/").split("/") for name in images}
    # a split holds class folders; a class that happens to be called train holds images
    tops = {path[0].lower(): path[0] for path in paths.values() if len(path) > 2}
    test = next((tops[name] for name in TESTS if name in tops), None) if "train" in tops else None
    if test is None:
        train_images = {name: path[0] for name, path in paths.items() if len(path) > 1}
        test_images = None
    else:
        train_images, test_images = (
            {name: path[1] for name, path in paths.items() if path[0] == split and len(path) > 2}
            for split in (tops["train"], test)
        )
    classes = sorted(set(train_images.values()))
    if len(classes) < 2:
        raise LayoutMismatch(f"two or more class folders with images; {len(classes)} found")
    if unknown := sorted(set((test_images or {}).values()) - set(classes)):
        raise RecipeError(f"{files}: {test}/ has a class that train/ has not: {unknown[0]}")
    number = {name: label for label, name in enumerate(classes)}

    def items(chosen: dict[str, str]) -> list[Item]:
        return [Item(name, number[folder], partial(files.read, name)) for name, folder in chosen.items()]

    left_out = tuple(sorted(set(files.names) - set(train_images) - set(test_images or ())))
    return Contents(items(train_images), items(test_images) if test_images else None, tuple(classes), left_out)

"""One folder per class, directly or in `train/` and `test/`: the layout for a user's own images."""

from __future__ import annotations

import posixpath

from PIL import Image

from bench.config.schema import Data, RecipeError
from bench.data.decode import formats
from bench.data.files import Contents, Files, LayoutMismatch

TEST_FOLDERS = ("test", "val", "valid", "validation")


def read(files: Files, data: Data) -> Contents:
    """The images of each class folder. Classes are the folders' names, sorted.

    Files whose extension is not that of an image are left out, and class folders without an image are named. A folder
    around everything, as archives have, is skipped.
    """
    endings = tuple(ending for ending, kind in Image.registered_extensions().items() if kind in formats())
    images = [name for name in files.names if name.lower().endswith(endings)]
    outer = posixpath.commonpath([posixpath.dirname(name) for name in images]) if images else ""
    paths = {name: name.removeprefix(outer).strip("/").split("/") for name in images}
    # A split holds class folders; a class that happens to be called "train" holds images.
    splits = {path[0].lower(): path[0] for path in paths.values() if len(path) > 2}
    test = next((splits[name] for name in TEST_FOLDERS if name in splits), None) if "train" in splits else None
    if test is None:
        train_images, test_images = {name: path[0] for name, path in paths.items() if len(path) > 1}, {}
    else:
        train_images, test_images = (
            {name: path[1] for name, path in paths.items() if path[0] == split and len(path) > 2}
            for split in (splits["train"], test)
        )
    classes = sorted(set(train_images.values()))
    if len(classes) < 2:
        raise LayoutMismatch(f"two or more class folders with images; {len(classes)} found")
    if unknown := sorted(set(test_images.values()) - set(classes)):
        raise RecipeError(f"{files}: {test}/ has a class that train/ lacks: {unknown[0]}")
    base = (*filter(None, outer.split("/")), *([splits["train"]] if test else []))  # the folder of the class folders
    folders = (tuple(folder.split("/")) for folder in files.folders)
    found = {folder[len(base)] for folder in folders if folder[: len(base)] == base and len(folder) > len(base)}
    number = {name: label for label, name in enumerate(classes)}
    train_items, test_items = (
        files.items(((name, number[folder]) for name, folder in split.items())) for split in (train_images, test_images)
    )
    left_out = tuple(sorted(set(files.names) - set(train_images) - set(test_images)))
    return Contents(train_items, test_items or None, tuple(classes), left_out, tuple(sorted(found - set(classes))))

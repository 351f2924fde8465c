"""Tiny ImageNet as Stanford's CS231n distributes it: `train/<wnid>/images/*.JPEG` and `val/` with its annotations.

The labels of its `test/` were never published, so `val` is the test set.
"""

from __future__ import annotations

from bench.config.schema import Data, RecipeError
from bench.data.files import Contents, Files, LayoutMismatch

ANNOTATIONS = "val/val_annotations.txt"
WORDS = "words.txt"  # wnid, tab, words


def read(files: Files, data: Data) -> Contents:
    """The two splits. Classes are the WordNet ids in `train/`, sorted, as the released code numbers them.

    Their names are those in words.txt, as "goldfish, Carassius auratus"; a class that it lacks keeps its id.
    """
    root = files.root_of(ANNOTATIONS)
    paths = [(name, name.removeprefix(root).split("/")) for name in files.names if name.startswith(root)]
    train = [(name, path[1]) for name, path in paths if path[0] == "train" and len(path) == 4 and path[2] == "images"]
    classes = sorted({wnid for _, wnid in train})
    if not classes:
        raise LayoutMismatch("train/<class>/images/*.JPEG")
    number = {wnid: label for label, wnid in enumerate(classes)}
    test = []
    for line, text in enumerate(files.read(root + ANNOTATIONS).decode().splitlines(), 1):
        name, wnid, *_ = [*text.split("\t"), "", ""]
        if wnid not in number:
            raise RecipeError(f"{files}: {ANNOTATIONS} line {line}: class {wnid!r} is not in train/")
        test.append((f"{root}val/images/{name}", number[wnid]))
    words = files.read(root + WORDS).decode(errors="replace").splitlines() if root + WORDS in files else []
    word = {wnid: text for wnid, _, text in (line.partition("\t") for line in words) if text}
    names = tuple(word.get(wnid, wnid) for wnid in classes)
    return Contents(files.items(((name, number[wnid]) for name, wnid in train)), files.items(test), names)

"""CIFAR-10 and CIFAR-100 as their authors distribute them for Python: pickled batches of pixels (Krizhevsky 2009)."""

from __future__ import annotations

import codecs
import io
import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.config.schema import Data
from bench.data.files import Contents, Files, Item, LayoutMismatch

CIFAR10 = ([f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta")
CIFAR100 = (["train"], "test", "meta")


def read(files: Files, data: Data) -> Contents:
    """The batches of CIFAR-10 or CIFAR-100, whichever is present; `data.label_column` selects fine or coarse labels."""
    for train, test, meta in (CIFAR10, CIFAR100):
        try:
            root = files.root_of(*train, test, meta)
        except LayoutMismatch:
            continue
        names = _unpickle(files.read(root + meta))
        classes = names.get(f"{data.label_column}_names", names.get("label_names"))
        column = data.label_column + "s"
        paths = [root + batch for batch in train]
        train_items = (item for path in paths for item in _items(files, path, column))
        labels = partial(_labels, files, paths, column)
        return Contents(train_items, _items(files, root + test, column), tuple(classes), labels=labels)
    raise LayoutMismatch("train, test or meta of CIFAR-100, and of CIFAR-10 data_batch_1 … 5, test_batch or batches.meta")


def _labels(files: Files, paths: Sequence[str], column: str) -> Iterator[int]:
    return (int(label) for path in paths for label in _unpickle(files.read(path))[column])


def _items(files: Files, name: str, column: str) -> Iterator[Item]:
    batch = _unpickle(files.read(name))
    pixels = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for i, label in enumerate(batch[column]):
        yield Item(f"{name} image {i}", int(label), lambda i=i: np.ascontiguousarray(pixels[i]))


class _Unpickler(pickle.Unpickler):
    """Builds only numpy arrays and plain containers; a pickle could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a CIFAR batch")


def _unpickle(content: bytes) -> dict[str, Any]:
    # The batches were written by Python 2, whose strings are read as bytes.
    batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    text = {_text(name): value for name, value in batch.items()}
    return {name: [_text(v) for v in value] if name.endswith("names") else value for name, value in text.items()}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value

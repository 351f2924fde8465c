"""The layouts of datasets on disk: one module per layout, named by `data.layout`, with `read(files, data) -> Contents`.

`read` raises LayoutMismatch if the files are not in its layout, RecipeError if they are, but contradict themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.data.files import Files


@dataclass(frozen=True)
class Item:
    """An image that has not been decoded."""

    name: str
    label: int
    load: Callable[[], bytes | np.ndarray]  # its encoded bytes, or its pixels, [height, width, 3] uint8


@dataclass(frozen=True)
class Contents:
    """The images of a dataset's files."""

    train: Iterable[Item]
    test: Iterable[Item] | None  # None: no test split
    classes: tuple[str, ...] | None  # the names of the labels 0, 1, …; None if the files do not name them
    left_out: tuple[str, ...] = ()  # files that are not images by their names


class LayoutMismatch(LookupError):
    """The files are not in this layout; the message names what is missing."""


def items_of(files: Files, labelled: Iterable[tuple[str, int]]) -> list[Item]:
    """The items of (name, label) pairs of encoded images."""
    return [Item(name, label, partial(files.read, name)) for name, label in labelled]

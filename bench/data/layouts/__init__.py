"""The layouts in which datasets lie on disk: one file each, with `read(files, data)`; a dataset's recipe names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Item:
    """An image that has not been decoded.

    name: as an error names it.
    load: its encoded bytes, or its pixels, [height, width, 3] uint8.
    """

    name: str
    label: int
    load: Callable[[], bytes | np.ndarray]


@dataclass(frozen=True)
class Contents:
    """What a dataset's files hold.

    test: None where there is no test split.
    classes: the names of the labels 0, 1, …; None where nothing names them.
    left_out: files that are no images by their names.
    """

    train: Iterable[Item]
    test: Iterable[Item] | None
    classes: tuple[str, ...] | None
    left_out: tuple[str, ...] = ()


class LayoutMismatch(LookupError):
    """The files are not in this layout; the message says what is missing."""

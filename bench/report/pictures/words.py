"""How wide words are, and their outlines: in DejaVu Sans, which comes with matplotlib, so that both are alike everywhere.

Browsers may set an SVG in another font; DejaVu is one of the widest, so what has room in it has room in those. Words are
never read as mathematics: `$` and `\\` in a name are only characters.
"""

from __future__ import annotations

import bisect
import functools
import warnings
from collections.abc import Iterable
from pathlib import Path as FilePath

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import text_to_path

ELLIPSIS = "…"


@functools.cache
def _font(bold: bool) -> FontProperties:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return FontProperties(fname=FilePath(matplotlib.get_data_path(), "fonts", "ttf", name), size=1)


def clean(words: str) -> str:
    """Without control characters, marks of direction and halves of characters, which no picture can hold."""
    if words.isprintable():
        return words
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in words)


@functools.lru_cache(maxsize=4096)
def outline(words: str, bold: bool = False) -> Path:
    """The outline of words at size 1, its baseline at 0, upwards positive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font does not have become boxes
        vertices, codes = text_to_path.get_text_path(_font(bold), words, ismath=False)
    if not len(vertices):
        return Path([[0, 0]], [Path.MOVETO])
    return Path(vertices, codes).transformed(matplotlib.transforms.Affine2D().scale(1 / text_to_path.FONT_SCALE))


@functools.lru_cache(maxsize=4096)
def _unit_width(words: str, bold: bool) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return text_to_path.get_text_width_height_descent(words, _font(bold), ismath=False)[0]


def width(words: str, size: float, bold: bool = False) -> float:
    """Of words at a size, in its unit."""
    return _unit_width(clean(words), bold) * size


def fit(words: str, size: float, room: float, bold: bool = False) -> str:
    """Words, with so much left out of their middle that they are no wider than `room`; names differ at their ends too."""
    words = clean(words)
    if width(words, size, bold) <= room:
        return words

    def short(kept: int) -> str:
        return words[: (kept + 1) // 2] + ELLIPSIS + words[len(words) - kept // 2 :]

    too_many = bisect.bisect(range(len(words)), room, key=lambda kept: width(short(kept), size, bold))
    return short(max(too_many - 1, 1))


def wrap(words: str, size: float, room: float, bold: bool = False) -> list[str]:
    """Lines no wider than `room`, broken at spaces; a single word that is wider is shortened."""
    lines: list[str] = []
    for word in clean(words).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width(longer, size, bold) <= room:
            lines[-1] = longer
        else:
            lines.append(fit(word, size, room, bold))
    return lines


def widest(several: Iterable[str], size: float, bold: bool = False) -> float:
    """The width of the widest of several texts; 0 of none."""
    return max((width(words, size, bold) for words in several), default=0.0)

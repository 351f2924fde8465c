"""The look of all figures: colours, light and dark, the style of each method, titles, notes and labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from bench.report.frame import BASELINE

DEFAULT_WIDTH_INCHES = 5.2
DASHES_AND_MARKERS = (("-", "o"), ((0, (4, 1.3)), "s"), ((0, (1.2, 1.2)), "^"))


@dataclass(frozen=True)
class Theme:
    """Colours as #RRGGBB. hairline: of axes. methods: the baseline first, then the others in the order of the suite.

    The hues are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart, lighter on
    dark and darker on white. The contrast with the surface is at least 3 for methods and 4.5 for text, as WCAG 2.2 asks.
    """

    surface: str
    text: str
    muted: str
    grid: str
    hairline: str
    methods: tuple[str, ...]

    def rc(self, width: float) -> dict[str, Any]:
        """matplotlib's settings for figures of a width in inches; narrow ones have smaller text, of at least 7 pt."""
        colours = {
            self.surface: ("figure.facecolor", "axes.facecolor", "savefig.facecolor"),
            self.text: ("text.color", "axes.titlecolor"),
            self.muted: ("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"),
            self.hairline: ("axes.edgecolor", "xtick.color", "ytick.color"),
            self.grid: ("grid.color",),
        }
        base = matplotlib.rc_params_from_file(Path(__file__).with_name("figures.mplstyle"), use_default_template=False)
        size = min(9.5, max(7.0, 9.5 * width / DEFAULT_WIDTH_INCHES))
        return {**base, "font.size": size, **{name: colour for colour, names in colours.items() for name in names}}

    def method(self, methods: Sequence[str], name: str) -> dict[str, Any]:
        """Colour, dashes and marker by place among the methods of a suite; colours come again with other dashes."""
        others = [method for method in methods if method != BASELINE]
        turn, colour = (0, -1) if name == BASELINE else divmod(others.index(name), len(self.methods) - 1)
        dashes, marker = DASHES_AND_MARKERS[turn % len(DASHES_AND_MARKERS)]
        return {"color": self.methods[colour + 1], "linestyle": dashes, "marker": marker}


LIGHT = Theme(
    surface="#FFFFFF",
    text="#1A1A1A",
    muted="#595959",
    grid="#E4E4E4",
    hairline="#8C8C8C",
    methods=("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#0C3A5C", "#5B4A00"),
)
DARK = Theme(
    surface="#0D1117",
    text="#E6EDF3",
    muted="#9DA7B3",
    grid="#262C36",
    hairline="#6E7681",
    methods=("#F5702A", "#45A9EE", "#22A274", "#EE82BE", "#B4E0FF", "#F7CF5B"),
)


def clean(name: str, max_chars: int = 24) -> str:
    """A name shortened in its middle, without characters that figures cannot hold, such as control characters."""
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    half = max_chars // 2
    return name if len(name) <= max_chars else f"{name[:half]}…{name[half + 1 - max_chars :]}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, as +2.93."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def line_inches() -> float:
    """The height of a line of text."""
    return matplotlib.rcParams["font.size"] * 1.3 / 72


def new_figure(width: float, height: float, title: str | None, note: str, legend: Sequence[Any] = ()) -> Figure:
    """A figure with title and legend above and a note below; their heights are added to that of the rest, in inches."""
    chars = int(width * 72 / (matplotlib.rcParams["font.size"] * 0.56))
    titles, notes = textwrap.wrap(title or "", int(chars * 0.75)), textwrap.wrap(note, int(chars * 1.15))
    columns = max(1, chars // max((len(mark.get_label()) + 5 for mark in legend), default=1))
    lines = 1.5 * len(titles) + 0.85 * len(notes) + 1.3 * -(-len(legend) // columns)
    figure = Figure((width, height + lines * line_inches()), layout="constrained")
    figure.supxlabel("\n".join(notes), x=0.05 / width, ha="left", color=matplotlib.rcParams["axes.labelcolor"])
    if legend:  # its title is the figure's, since matplotlib would put both in the same place
        figure.legend(
            handles=legend,
            loc="outside upper left",
            ncols=columns,
            title="\n".join(titles) or None,
            title_fontproperties={"weight": "bold"},
            alignment="left",
        )
    elif titles:
        figure.suptitle("\n".join(titles), x=0.05 / width, ha="left")
    return figure


def label_right(axes: Axes, end: tuple[float, float], text: str, **line: Any) -> Annotation:
    """Write a label to the right of the axes, with a line to it from a place in data coordinates."""
    arrow = {"arrowstyle": "-", "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0, **line}
    place = {"xytext": (1.03, end[1]), "textcoords": ("axes fraction", "data"), "annotation_clip": False}
    return axes.annotate(text, end, **place, va="center", arrowprops=arrow)


def spread_labels(figure: Figure, labels: Sequence[Sequence[Annotation]]) -> None:
    """Move the labels on the right of each axes apart, in their order, after the last change of the layout."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for column in labels:
        axes, boxes = column[0].axes, [label.get_window_extent() for label in column]
        places = np.array([(box.y0 + box.y1) / 2 for box in boxes])
        order = np.argsort(places, kind="stable")
        distance = min(1.15 * boxes[0].height, axes.bbox.height / max(1, len(boxes) - 1))
        for _ in range(1000):
            push = (distance - np.diff(places[order])).clip(0) / 2
            places[order[:-1]] -= push
            places[order[1:]] += push
            places = places.clip(axes.bbox.y0, axes.bbox.y1)
        for label, place in zip(column, places, strict=True):
            label.set_y(axes.transData.inverted().transform((0, place))[1])

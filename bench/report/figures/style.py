"""The look of all figures: colours, the style of each method, titles and notes, and labels that do not overlap."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import RcParams, rc_params_from_file, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from bench.report.frame import BASELINE

DEFAULT_WIDTH_INCHES = 5.2
DASHES_AND_MARKERS = (("-", "o"), ((0, (4, 1.3)), "s"), ((0, (1.2, 1.2)), "^"))


class Theme(NamedTuple):
    """Colours as #RRGGBB. hairline: of axes. methods: the baseline first.

    The hues are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart, lighter on
    dark and darker on white. The contrast with the surface is at least 3 for methods and 4.5 for text, as WCAG 2.2 asks.
    """

    surface: str
    text: str
    muted: str
    grid: str
    hairline: str
    methods: tuple[str, ...]


def read_style(name: str) -> RcParams:
    """matplotlib's settings in a style file of this folder."""
    return rc_params_from_file(Path(__file__).with_name(f"{name}.mplstyle"), use_default_template=False)


def read_theme(name: str) -> Theme:
    """The colours in a style file."""
    rc = read_style(name)
    names = ("axes.facecolor", "text.color", "axes.labelcolor", "grid.color", "axes.edgecolor")
    return Theme(*(rc[name] for name in names), tuple(rc["axes.prop_cycle"].by_key()["color"]))


LIGHT, DARK = read_theme("light"), read_theme("dark")


def figure_style(name: str, width: float) -> dict[str, Any]:
    """matplotlib's settings for "light" or "dark" figures of a width in inches; text is smaller in narrow ones."""
    size = min(9.5, max(7.0, 9.5 * width / DEFAULT_WIDTH_INCHES))  # points
    return {**read_style("common"), **read_style(name), "font.size": size}


def method_style(methods: Sequence[str], name: str) -> dict[str, Any]:
    """Colour, dashes and marker by place among the methods of a suite; colours come again with other dashes.

    The colour is `C0`, `C1` …, matplotlib's name for a place in `Theme.methods`.
    """
    others = [method for method in methods if method != BASELINE]
    turn, colour = (0, -1) if name == BASELINE else divmod(others.index(name), len(LIGHT.methods) - 1)
    dashes, marker = DASHES_AND_MARKERS[turn % len(DASHES_AND_MARKERS)]
    return {"color": f"C{colour + 1}", "linestyle": dashes, "marker": marker}


def clean(name: str, max_chars: int = 24) -> str:
    """A name shortened in its middle, without characters that figures cannot hold, such as control characters."""
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    half = max_chars // 2
    return name if len(name) <= max_chars else f"{name[:half]}…{name[half + 1 - max_chars :]}"


def signed(value: float, digits: int) -> str:
    """A difference with its sign, as +2.93."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def line_inches() -> float:
    """The height of a line of text."""
    return rcParams["font.size"] * 1.3 / 72


def new_figure(width: float, height: float, title: str | None, note: str, legend: Sequence[Any] = ()) -> Figure:
    """A figure with title and legend above and a note below; their heights are added to that of the rest, in inches."""
    chars = int(width * 72 / (rcParams["font.size"] * 0.56))
    titles, notes = textwrap.wrap(title or "", int(chars * 0.75)), textwrap.wrap(note, int(chars * 1.15))
    columns = max(1, chars // max((len(mark.get_label()) + 5 for mark in legend), default=1))
    lines = 1.5 * len(titles) + 0.85 * len(notes) + 1.3 * -(-len(legend) // columns)
    figure = Figure((width, height + lines * line_inches()), layout="constrained")
    figure.supxlabel("\n".join(notes), x=0.07 / width, ha="left", color=rcParams["axes.labelcolor"])
    if legend:  # its title is the figure's, since matplotlib would put both in the same place
        place = {"loc": "outside upper left", "alignment": "left", "ncols": columns}
        bold = {"weight": "bold"}
        figure.legend(handles=legend, title="\n".join(titles) or None, title_fontproperties=bold, **place)
    elif titles:
        figure.suptitle("\n".join(titles), x=0.07 / width, ha="left")
    return figure


def label_right(axes: Axes, end: Sequence[float], text: str, **line: Any) -> Annotation:
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
        low, high = axes.bbox.y0 + boxes[0].height / 2, axes.bbox.y1 - boxes[0].height / 2
        distance = min(1.15 * boxes[0].height, (high - low) / max(1, len(boxes) - 1))
        for _ in range(1000):
            push = (distance - np.diff(places[order])).clip(0) / 2
            places[order[:-1]] -= push
            places[order[1:]] += push
            places = places.clip(low, high)
        for label, place in zip(column, places, strict=True):
            label.set_y(axes.transData.inverted().transform((0, place))[1])

"""What all figures share: data and files, and the look: colours, the style of each method, titles, notes and labels."""

from __future__ import annotations

import functools
import hashlib
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import RcParams, rc_context, rc_params_from_file, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from bench.config.names import path_part
from bench.config.suite import BASELINE
from bench.report.frame import METHOD
from bench.report.suite_report import FEW_METHODS
from bench.storage import replacing

FILES = {"light": (".svg", ".png", ".pdf"), "dark": (".dark.svg", ".dark.png")}
DEFAULT_WIDTH_INCHES = 5.2
MAX_NAME_CHARS = 120
CELL_COLUMNS = [
    *(*METHOD, "status", "seeds", "diverged_seeds", "last_mean", "last_std", "device_hours", "device_unit"),
    *("teacher_mean", "gain_mean", "gain_low", "gain_high", "verdict", "verdict_holm", "comparisons"),
    *("epochs_to_reach_mean", "speedup_epochs_mean"),
]
NUMBERS = {"data.train_limit": "training images", "train.epochs": "epochs"}  # keys whose value counts something
COLOURS = {  # by name on the page: where the style files have them
    "surface": "axes.facecolor",
    "text": "text.color",
    "muted": "axes.labelcolor",
    "grid": "grid.color",
    "hairline": "axes.edgecolor",
}


@dataclass(frozen=True)
class Plot:
    """What a figure shows.

    cells, curves: its data: CELL_COLUMNS of cells, and the curves of finished runs.
    labels: {dataset: its name with the number of classes}, where these are not all of it.
    methods: of the whole suite, the reference first.
    measure: what accuracies are, "test accuracy" or "held-out accuracy".
    reference: the method that gains are over.
    """

    title: str
    cells: pd.DataFrame
    curves: pd.DataFrame
    labels: dict[str, str]
    methods: tuple[str, ...]
    measure: str
    reference: str

    def of(self, model: str, dataset: str, variant: str) -> Plot:
        """The part about a cell."""
        cells, curves = (
            f[(f["model"] == model) & (f["dataset"] == dataset) & (f["variant"] == variant)]
            for f in (self.cells, self.curves)
        )
        settings = row_label("", variant).splitlines()[1:]
        title = ", ".join([f"{clean(model, 60)} on {self.label(dataset)}", *settings])
        return replace(self, title=title, cells=cells, curves=curves)

    def label(self, dataset: str) -> str:
        """The name of a dataset, as it may stand in a figure."""
        return clean(self.labels.get(dataset, dataset), 40)

    @property
    def teachers(self) -> np.ndarray:
        """The accuracies of the teachers in %, each once."""
        return self.cells["teacher_mean"].dropna().unique()

    @property
    def over(self) -> str:
        """What gains are over, in words."""
        return "the baseline" if self.reference == BASELINE else clean(self.reference)

    @property
    def setting_lines(self) -> int:
        """The number of lines that `row_label` adds for varied values."""
        return max(row_label("", variant).count("\n") for variant in self.cells["variant"])

    @property
    def has_many(self) -> bool:
        """Whether there are more methods than colours."""
        return len(self.methods) > FEW_METHODS

    def colour(self, method: str) -> str:
        """The colour of a method, see `method_colour`."""
        return method_colour(self.methods, method, self.reference)

    def legend(self, **look: Any) -> list[Line2D]:
        """The entries of a legend: one per method; if there are many, one for the reference and one for all others."""
        names = {clean(name): self.colour(name) for name in self.methods}
        if self.has_many:
            names = {clean(self.reference): "C0", "other methods": "C1"}
        return [Line2D([], [], label=name, color=colour, **look) for name, colour in names.items()]

    def seeds(self) -> str:
        """The number of seeds that means are over, in words."""
        return seeds_in_words(self.cells.loc[self.cells["seeds"] > 0, "seeds"])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what is shown and of the code that draws it; versions of libraries are not in it."""
        # Numbers are rounded so far that they are the same on all machines.
        data = [frame.to_csv(index=False, float_format="%.4f") for frame in (self.cells, self.curves)]
        code = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.*"))]
        shown = (self.title, self.labels, self.methods, self.measure, self.reference, data, code)
        return hashlib.sha256(repr(shown).encode()).hexdigest()

    def stamp(self, width: float, title: bool) -> str:
        """What a file of this figure holds; the layout is not part of the digest."""
        return f"digest {self.digest} width {width:g} title {'yes' if title else 'no'}"


def seeds_in_words(numbers: pd.Series) -> str:
    """The numbers of seeds that means are over, in words."""
    low, high = numbers.min(), numbers.max()
    return "One seed" if high == 1 else f"Mean of {low} seeds" if low == high else f"Mean of {low} to {high} seeds"


def write_figure(draw: Callable[[], Figure], folder: Path, name: str, width: float, title: str, stamp: str) -> None:
    """Draw a figure in light and dark and write its files, which hold a stamp instead of dates and versions."""
    metadata = {
        "svg": {"Title": title, "Description": stamp, "Creator": None, "Date": None},
        "png": {"Description": stamp, "Software": None},
        "pdf": {"Keywords": stamp, "Creator": None, "Producer": None, "CreationDate": None},
    }
    for theme, endings in FILES.items():
        with rc_context(figure_style(theme, width)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn
            figure = draw()
            for ending in endings:
                with replacing(folder / f"{name}{ending}", sync=False) as temporary:
                    kind = ending.rpartition(".")[2]
                    figure.savefig(temporary, format=kind, metadata=metadata[kind])


def read_stamp(path: Path) -> str:
    """The stamp in a file; "" if it has none or cannot be read."""
    try:
        found = re.search(rb"digest [0-9a-f]{64} width [0-9.e+-]+ title (yes|no)", path.read_bytes())
    except OSError:
        return ""
    return found[0].decode() if found else ""


def figure_name(model: str, dataset: str, variant: str = "") -> str:
    """The name of the figure of a cell, without suffix: `<model>-<dataset>`, and the varied values if there are any.

    A hash follows if another cell could have that name, if it is long, or has characters that LaTeX may not take.
    """
    plain = "-".join(filter(None, (path_part(model), path_part(dataset), variant)))
    name = re.sub(r"[^A-Za-z0-9_+-]", "_", plain)[:MAX_NAME_CHARS]
    if name == plain and name.count("-") == 1:
        return name
    cell = (model, dataset, variant) if variant else (model, dataset)
    return f"{name}-{hashlib.sha256(repr(cell).encode()).hexdigest()[:8]}"


def figure_paths(folder: Path, name: str) -> list[Path]:
    """The files of a figure."""
    return [folder / f"{name}{ending}" for endings in FILES.values() for ending in endings]


def _read_style(name: str) -> RcParams:
    return rc_params_from_file(Path(__file__).with_name(f"{name}.mplstyle"), use_default_template=False)


def _colours(theme: str) -> dict[str, str]:
    rc = _read_style(theme)
    methods = {f"method-{place}": colour for place, colour in enumerate(rc["axes.prop_cycle"].by_key()["color"])}
    return {name: rc[key] for name, key in COLOURS.items()} | methods


LIGHT, DARK = _colours("light"), _colours("dark")  # {name: #RRGGBB}; method-0 is the reference


def figure_style(theme: str, width: float) -> dict[str, Any]:
    """matplotlib's settings for "light" or "dark" figures of a width in inches; text is smaller in narrow ones."""
    size = min(9.5, max(7.0, 9.5 * width / DEFAULT_WIDTH_INCHES))  # points
    return {**_read_style("common"), **_read_style(theme), "font.size": size}


def method_colour(methods: Sequence[str], name: str, reference: str = BASELINE) -> str:
    """The colour of a method by its place in a suite: `C0`, `C1` …, matplotlib's name for method-0, method-1 …

    More than FEW_METHODS methods share C1, and the reference alone has C0: so many colours could not be told apart.
    """
    if name == reference:
        return "C0"
    if len(methods) > FEW_METHODS:
        return "C1"
    return f"C{1 + [method for method in methods if method != reference].index(name)}"


def clean(name: str, max_chars: int = 24) -> str:
    """A name shortened in its middle, without characters that figures cannot hold, such as control characters."""
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    half = max_chars // 2
    return name if len(name) <= max_chars else f"{name[:half]}…{name[half + 1 - max_chars :]}"


def row_label(name: str, variant: str, max_chars: int = 24) -> str:
    """A name, shortened to a number of characters, and each varied key with its value in a line of its own."""
    settings = re.split(r", (?=[\w.]+=)", variant) if variant else []
    return "\n".join([clean(name, max_chars), *(clean(_setting(text), 36) for text in settings)])


def _setting(text: str) -> str:
    """A key with its value as readers see it: "data.train_limit=500" is "500 training images"."""
    key, _, value = text.partition("=")
    return f"{int(value):,} {NUMBERS[key]}" if key in NUMBERS and value.isdecimal() else text


def signed(value: float, digits: int) -> str:
    """A difference with its sign, as +2.93."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def teacher_line() -> dict[str, Any]:
    """How a line at the accuracy of the teacher is drawn."""
    return {"color": rcParams["axes.labelcolor"], "linewidth": 0.9, "linestyle": (0, (1.2, 1.6)), "zorder": 1}


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
        order, tallest = np.argsort(places, kind="stable"), max(box.height for box in boxes)
        low, high = axes.bbox.y0 + tallest / 2, axes.bbox.y1 - tallest / 2
        steps = np.arange(len(boxes)) * min(1.1 * tallest, (high - low) / max(1, len(boxes) - 1))
        # The mean of pushing labels up, from the lowest, and down, from the highest.
        up = np.maximum.accumulate(places[order] - steps)
        down = np.minimum.accumulate((places[order] - steps)[::-1])[::-1]
        places[order] = ((up + down) / 2).clip(low, high - steps[-1]) + steps
        for label, place in zip(column, places, strict=True):
            label.set_y(axes.transData.inverted().transform((0, place))[1])

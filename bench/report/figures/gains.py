"""Gains over the reference with their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from bench.report.figures import base
from bench.report.frame import METHOD, guidance_of
from bench.report.suite_report import by_gain

ROW_LINES = 1.5  # height of a row of gains with a name of one line, in lines of text
NEIGHBOUR = 0.75  # distance of rows of one guidance, in rows
CLEAR = ("better", "worse")
PALE = 0.4  # the share of a method's colour in a pale disc
MAX_COLUMNS = 2  # of panels, which leaves room for the gains as numbers


def draw_gains(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw gains with the confidence intervals of the tables, and, if there are two methods alone, their accuracies."""
    return (_draw_pairs if len(plot.methods) == 2 else _draw_methods)(plot, width, title)


def _draw_pairs(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw a row per student and variant: the accuracies of the two methods, and the gain beside them."""
    method = next(name for name in plot.methods if name != plot.reference)
    reference, gains = (plot.cells[plot.cells["method"] == name] for name in (plot.reference, method))
    datasets = list(gains.groupby("dataset", sort=False))
    row_lines = ROW_LINES + plot.setting_lines
    height = (sum(len(after) * row_lines + 3.3 for _, after in datasets) + 3.5) * base.line_inches()
    note = (
        f"Left: {plot.measure} of the last epoch, small: of each seed{'; dotted: the teacher' * (len(plot.teachers) == 1)}."
    )
    note += f" Right: gain over {plot.over} with the same seed. {plot.seeds()}; lines: 95 % confidence intervals; rings: no"
    note += " clear difference, or too few seeds."
    figure = base.new_figure(width, height, title, note, plot.legend(linestyle="", marker="o"))
    grid = figure.subplots(len(datasets), 2, sharex="col", squeeze=False)
    for (left, right), (dataset, own) in zip(grid, datasets, strict=True):
        before, after = (
            cells.set_index(["model", "variant"], drop=False) for cells in (reference[reference["dataset"] == dataset], own)
        )
        places = range(len(after))
        _draw_accuracies(left, before, after, plot)
        _draw_panel(right, after, places, plot)
        left.set_title(plot.label(dataset))
        names = [base.row_label(*names) for names in after.index]
        left.set_yticks(places, names, va="center" if plot.setting_lines else "center_baseline")
        left.tick_params(axis="y", length=0, labelcolor=rcParams["text.color"])
        right.set_yticks([])
    grid[-1, 0].set_xlabel(f"{plot.measure} (%)")
    grid[-1, 1].set_xlabel("gain (points)")
    grid[-1, 0].margins(x=0.08)
    grid[-1, 1].set_xlim(*gain_limits(gains, crowded=False))
    return figure


def _draw_accuracies(axes: Axes, before: pd.DataFrame, after: pd.DataFrame, plot: base.Plot) -> None:
    """Draw the accuracies of two methods in a row per cell, the first at the top: means, joined by a line, and seeds."""
    if len(plot.teachers) == 1:
        axes.axvline(plot.teachers[0], **base.teacher_line())
    axes.set_ylim(len(after) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    for row, name in enumerate(after.index):
        pair = [cells.loc[name] for cells in (before, after) if name in cells.index]
        means = [cell["last_mean"] for cell in pair]
        axes.plot(means, [row] * len(means), color=rcParams["axes.edgecolor"], linewidth=2, zorder=1)
        for cell in pair:
            style = {"color": plot.colour(cell["method"]), "linestyle": ""}
            seeds = plot.curves[(plot.curves[METHOD] == cell[METHOD]).all(axis=1)]
            axes.plot(seeds["test_accuracy"], [row] * len(seeds), marker=".", **style)
            axes.plot(cell["last_mean"], row, marker="o", **style)


def _draw_methods(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw a panel per cell with a row per method that has a run of this student, the best on average first."""
    every = plot.cells[plot.cells["method"] != plot.reference]
    gains = every[every["status"] != "not run"]
    datasets = list(gains["dataset"].unique())
    columns = min(len(datasets), MAX_COLUMNS)
    students = [(own, _method_rows(own)) for _, own in gains.groupby(["model", "variant"], sort=False)]
    lines = [(*student, datasets[i : i + columns]) for student in students for i in range(0, len(datasets), columns)]
    # the student's name is written upwards beside its methods
    panel_lines = [
        max(ROW_LINES * (rows["place"].iloc[-1] + 1), 0.5 * len(base.clean(own["model"].iloc[0]))) for own, rows, _ in lines
    ]
    height = (sum(panel_lines) + len(lines) * (plot.setting_lines + 1.6) + 3) * base.line_inches()
    note = f"Gain in {plot.measure} of the last epoch over {plot.over} with the same seed. {plot.seeds()}"
    note += "; lines: 95 % confidence intervals; rings: no clear difference, or too few seeds"
    if (most := gains["comparisons"].max()) > 1:
        note += f"; pale discs: no clear difference if corrected for {most:.0f} comparisons (Holm)"
    low, high = gain_limits(gains, plot.has_many)
    if low > gains["gain_low"].min() or high < gains["gain_high"].max():
        note += "; lines without a cap are cut off"
    if len(gains) < len(every):
        note += "; not shown: what has not been run"
    figure = base.new_figure(width, height, title, f"{note}.")
    grid = figure.subplots(len(lines), columns, sharex=True, squeeze=False, height_ratios=panel_lines)
    for line, (own, rows, shown) in zip(grid, lines, strict=True):
        for axes, dataset in zip(line, shown, strict=False):
            panel = own[own["dataset"] == dataset].set_index("method", drop=False).reindex(rows.index)
            _draw_panel(axes, panel, rows["place"], plot)
            axes.set_title(base.row_label(plot.label(dataset), own["variant"].iloc[0], 40))
            axes.set_yticks(rows["place"], rows["text"], va="center_baseline")
            axes.tick_params(axis="y", labelleft=axes is line[0], length=0, labelcolor=rcParams["text.color"])
        for label, is_setting in zip(line[0].get_yticklabels(), rows["is_setting"], strict=True):
            if is_setting:
                label.set_color(rcParams["axes.labelcolor"])
        line[0].set_ylabel(base.clean(own["model"].iloc[0]), weight="bold", color=rcParams["text.color"])
        for axes in line[len(shown) :]:
            axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("gain (points)")
    axes.set_xlim(low, high)
    return figure


def _method_rows(gains: pd.DataFrame) -> pd.DataFrame:
    """A row per method, sorted by the mean gain, see `by_gain`.

    place: 0 at the top. text: the label; is_setting: only the settings of a method whose name is above.
    """
    means = gains.groupby("method", sort=False)["gain_mean"].mean()
    methods = means.index[by_gain(means)]
    names = methods.map(guidance_of).to_series(methods)
    repeated = names == names.shift()
    is_setting = repeated & names.isin(methods) & (names != methods)
    texts = [base.clean(method.partition(" ")[2] if short else method) for method, short in is_setting.items()]
    places = np.where(repeated, NEIGHBOUR, 1.0).cumsum() - 1
    return pd.DataFrame({"place": places, "text": texts, "is_setting": is_setting})


def gain_limits(gains: pd.DataFrame, crowded: bool) -> tuple[float, float]:
    """The range of gains in a figure: all means and intervals; if crowded, all means, while intervals may be cut off."""
    ends, means = gains[["gain_mean", "gain_low", "gain_high"]], gains["gain_mean"]
    low, high = min(0, ends.min(axis=None)), max(0, ends.max(axis=None))
    if crowded:
        room = 0.4 * max(means.max() - means.min(), 1)
        low, high = max(low, min(0, means.min()) - room), min(high, max(0, means.max()) + room)
    margin = max(high - low, 0.5) * 0.07
    return max(low - margin, -100), min(high + margin, 100)


def _draw_panel(axes: Axes, panel: pd.DataFrame, places: Sequence[float], plot: base.Plot) -> None:
    """Draw the gain of each cell in its row, the first at the top."""
    axes.set_ylim(max(places) + 0.6, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=rcParams["axes.edgecolor"], linewidth=0.9)
    place = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
    for row, cell in zip(places, panel.itertuples(), strict=True):
        if pd.isna(cell.gain_mean):
            status = "no paired seed" if cell.status == "no pair" else "" if pd.isna(cell.status) else cell.status
            axes.annotate(status, (0, row), (4, 0), **place, color=rcParams["axes.labelcolor"], in_layout=False)
            continue
        axes.errorbar(cell.gain_mean, row, xerr=interval_ends(cell), **gain_mark(axes, plot, cell))
        weight = "bold" if cell.verdict_holm in CLEAR else "normal"
        right = {"xycoords": ("axes fraction", "data"), "weight": weight}
        axes.annotate(base.signed(cell.gain_mean, 2), (1, row), (5, 0), **place, **right)


def interval_ends(cell: Any) -> list[list[float]] | None:
    """The interval of a gain as `errorbar` takes it; None if there is none. cell: a row of `Plot.cells`."""
    if not cell.gain_high > cell.gain_low:
        return None
    return [[cell.gain_mean - cell.gain_low], [cell.gain_high - cell.gain_mean]]


def gain_mark(axes: Axes, plot: base.Plot, cell: Any) -> dict[str, Any]:
    """How `errorbar` draws a gain: a disc where the interval excludes zero, a pale one where only the uncorrected one does,
    else a ring."""
    colour, ground = (np.array(to_rgb(one)) for one in (plot.colour(cell.method), axes.get_facecolor()))
    filled = [verdict in CLEAR for verdict in (cell.verdict, cell.verdict_holm)]
    strength = PALE if filled == [True, False] else float(filled[1])
    face = to_hex(strength * colour + (1 - strength) * ground)
    return {"marker": "o", "capsize": 2.5, "capthick": 1.2, "color": to_hex(colour), "markerfacecolor": face}

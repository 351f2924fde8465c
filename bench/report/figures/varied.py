"""Gain and accuracy against a number that a suite varies, the number of training images for example."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from bench.report.figures import base
from bench.report.figures.gains import gain_limits, gain_mark, interval_ends

HEIGHT = 0.3  # of a panel, of the figure's width
MAX_TICKS = 6  # values that are written on the axis one by one
STEP_POINTS = 2.5  # between the marks of methods of one value


def name_of(key: str) -> str:
    """A varied key in words."""
    return f"number of {base.NUMBERS[key]}" if key in base.NUMBERS else key


def draw_varied(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw a row per student and dataset: gains with the confidence intervals of the tables, and accuracies beside them."""
    key = plot.cells["variant"].iloc[0].partition("=")[0]
    cells = plot.cells.assign(number=plot.cells["variant"].str.partition("=")[2].astype(float))
    rows = list(cells.groupby(["model", "dataset"], sort=False))
    note = f"Left: gain in {plot.measure} of the last epoch over {plot.over} with the same seed; lines: 95 % confidence"
    note += " intervals; rings: no clear difference, or too few seeds."
    crosses = "; crosses: the teacher" if len(plot.teachers) else ""
    note += f" Right: {plot.measure}; bars: ± 1 standard deviation{crosses}. {plot.seeds()}."
    height = len(rows) * (width * HEIGHT + 2.6 * base.line_inches()) + 1.5 * base.line_inches()
    figure = base.new_figure(width, height, title, note, plot.legend(marker="o", linestyle=""))
    grid = figure.subplots(len(rows), 2, sharex=True, sharey="col", squeeze=False)
    for (left, right), ((model, dataset), own) in zip(grid, rows, strict=True):
        left.set_title(f"{base.clean(model)} on {plot.label(dataset)}")
        left.set_ylabel("gain (points)")
        right.set_ylabel(f"{plot.measure} (%)")
        left.axhline(0, color="C0", linewidth=0.9)
        shown = own[own["seeds"] > 0].sort_values("number")
        for place, method in enumerate(plot.methods):
            line = shown[shown["method"] == method]
            if line.empty:
                continue
            if method != plot.reference:
                shift = STEP_POINTS * (place - len(plot.methods) / 2) * (len(plot.methods) > 2)
                _draw_gains(left, line, plot, shift)
            style = {"color": plot.colour(method), "marker": "o", "linewidth": 1.2, "elinewidth": 1.2}
            right.errorbar(line["number"], line["last_mean"], np.nan_to_num(line["last_std"]), **style)
        teachers = shown.dropna(subset="teacher_mean").drop_duplicates(["number", "teacher_mean"])
        right.plot(teachers["number"], teachers["teacher_mean"], "x", color=rcParams["axes.labelcolor"])
        for axes in (left, right):
            axes.grid(axis="y")
    values = np.unique(cells["number"])
    if values[0] > 0:
        left.set_xscale("log")
    if len(values) <= MAX_TICKS:
        left.xaxis.set(major_locator=FixedLocator(values), minor_locator=NullLocator())
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    left.margins(x=0.08)
    left.set_ylim(*gain_limits(cells[cells["method"] != plot.reference], crowded=False))
    for axes in grid[-1]:
        axes.set_xlabel(base.clean(name_of(key), 40))
    return figure


def _draw_gains(axes: Axes, line: pd.DataFrame, plot: base.Plot, shift: float) -> None:
    """Draw the gains of a method over the numbers; shift: of its marks, in points."""
    place = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    axes.plot(line["number"], line["gain_mean"], color=plot.colour(line["method"].iloc[0]), linewidth=1, transform=place)
    for cell in line.dropna(subset="gain_mean").itertuples():
        mark = gain_mark(axes, plot, cell)
        axes.errorbar(cell.number, cell.gain_mean, interval_ends(cell), transform=place, zorder=3, **mark)

"""Gains over the baseline with their confidence intervals, on an axis of differences."""

from __future__ import annotations

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.plot import Plot
from bench.report.figures.style import clean, line_inches, method_style, new_figure, signed
from bench.report.frame import BASELINE

ROW_LINES = 1.5  # height of a row, in lines of text
MAX_COLUMNS = 2  # of panels, which leaves room for the gains as numbers


def draw_gains(plot: Plot, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset with a row per student; with several methods, a panel per student and dataset with a row per
    method, the best on average first."""
    gains = difference_intervals(plot.cells)
    by_method = len(plot.methods) > 2
    row_name = "method" if by_method else "model"
    datasets = list(gains["dataset"].unique())
    columns = min(len(datasets), MAX_COLUMNS)
    groups = [own for _, own in gains.groupby("model", sort=False)] if by_method else [gains]
    lines = [(own, datasets[i : i + columns]) for own in groups for i in range(0, len(datasets), columns)]
    height = (len(lines) * (gains[row_name].nunique() * ROW_LINES + 1.6) + 3) * line_inches()
    note = f"Gain in {plot.measure} of the last epoch over the baseline with the same seed. {plot.seeds()}"
    note += "; lines: 95 % confidence intervals; rings: no clear difference, or too few seeds."
    figure = new_figure(width, height, title, note)
    grid = figure.subplots(len(lines), columns, sharex=True, squeeze=False)
    for line, (own, shown) in zip(grid, lines, strict=True):
        order = own.groupby(row_name, sort=False)["gain_mean"].mean()
        names = (order.sort_values(ascending=False) if by_method else order).index
        for axes, dataset in zip(line, shown, strict=False):
            panel = own[own["dataset"] == dataset].set_index(row_name, drop=False).loc[names]
            _draw_panel(axes, panel, plot)
            axes.set_title(clean(dataset))
            axes.set_yticks(range(len(names)), [clean(name) for name in names], va="center_baseline")
            axes.tick_params(axis="y", labelleft=axes is line[0], length=0, labelcolor=rcParams["text.color"])
        if by_method:
            line[0].set_ylabel(clean(own["model"].iloc[0]), weight="bold", color=rcParams["text.color"])
        for axes in line[len(shown) :]:
            axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("gain (points)")
    low, high = min(0, gains["low"].min()), max(0, gains["high"].max())
    margin = max(high - low, 0.5) * 0.07
    axes.set_xlim(max(low - margin, -100), min(high + margin, 100))
    return figure


def difference_intervals(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells without the baselines, with `low` and `high`, the ends of the interval as tables have it.

    Without an interval, both are the mean.
    """
    gains = cells[cells["method"] != BASELINE]
    mean = gains["gain_mean"]
    return gains.assign(low=gains["gain_low"].fillna(mean), high=gains["gain_high"].fillna(mean))


def _draw_panel(axes: Axes, panel: pd.DataFrame, plot: Plot) -> None:
    """Draw a row per cell, the first at the top: a disc where the interval excludes zero, else a ring."""
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=rcParams["axes.edgecolor"], linewidth=0.9)
    place = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
    for row, cell in enumerate(panel.itertuples()):
        if pd.isna(cell.gain_mean):
            status = "no paired seed" if cell.status == "no pair" else cell.status
            axes.annotate(status, (0, row), (4, 0), **place, color=rcParams["axes.labelcolor"], in_layout=False)
            continue
        style, clear = method_style(plot.methods, cell.method), cell.verdict in ("better", "worse")
        face = style["color"] if clear else axes.get_facecolor()
        ends = [[cell.gain_mean - cell.low], [cell.high - cell.gain_mean]]
        caps = {"capsize": 2.5 if cell.high > cell.low else 0, "capthick": 1.2}
        axes.errorbar(cell.gain_mean, row, xerr=ends, color=style["color"], marker="o", markerfacecolor=face, **caps)
        right = {"xycoords": ("axes fraction", "data"), "weight": "bold" if clear else "normal"}
        axes.annotate(signed(cell.gain_mean, 2), (1, row), (5, 0), **place, **right)

"""Gains over the baseline with their confidence intervals, on an axis of differences."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.plot import Plot
from bench.report.figures.style import Theme, clean, line_inches, new_figure, signed
from bench.report.frame import BASELINE, CELL

ROW_LINES = 1.5  # height of a row, in lines of text
MAX_COLUMNS, MAX_COLUMNS_WITH_NUMBERS = 4, 2  # beside datasets in two columns, gains are written as numbers, too


def draw_gains(plot: Plot, theme: Theme, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset with a row per student; with several methods, a panel per student and dataset with a row per
    method, the best on average first."""
    gains = with_drawn_intervals(plot.cells)
    by_method = len(plot.methods) > 2
    row_name = "method" if by_method else "model"
    datasets = list(gains["dataset"].unique())
    columns = min(len(datasets), MAX_COLUMNS if by_method else MAX_COLUMNS_WITH_NUMBERS)
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
            _draw_panel(axes, panel, plot, theme, numbers=columns <= MAX_COLUMNS_WITH_NUMBERS)
            axes.set_title(clean(dataset))
            axes.set_yticks(range(len(names)), [clean(name) for name in names], va="center_baseline")
            axes.tick_params(axis="y", labelleft=axes is line[0], length=0, labelcolor=theme.text)
        if by_method:
            line[0].set_ylabel(clean(own["model"].iloc[0]), weight="bold", color=theme.text)
        for axes in line[len(shown) :]:
            axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("gain (points)")
    low, high = min(0, gains["drawn_low"].min()), max(0, gains["drawn_high"].max())
    margin = max(high - low, 0.5) * 0.07
    axes.set_xlim(max(low - margin, -100), min(high + margin, 100))
    return figure


def with_drawn_intervals(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells but the baselines', with the part of each interval that a difference can have: accuracies are 0 to 100 %."""
    baseline = cells[cells["method"] == BASELINE].set_index(CELL)["last_mean"].rename("baseline")
    gains = cells[cells["method"] != BASELINE].join(baseline, on=CELL)
    mean = gains["gain_mean"]
    low = gains["gain_low"].fillna(mean).clip(lower=-gains["baseline"]).clip(upper=mean)
    high = gains["gain_high"].fillna(mean).clip(upper=100 - gains["baseline"]).clip(lower=mean)
    return gains.assign(drawn_low=low, drawn_high=high)


def _draw_panel(axes: Axes, panel: pd.DataFrame, plot: Plot, theme: Theme, numbers: bool) -> None:
    """Draw a row per cell, the first at the top: a disc where the interval excludes zero, else a ring."""
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=theme.hairline, linewidth=0.9)
    place = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
    for row, cell in enumerate(panel.itertuples()):
        if pd.isna(cell.gain_mean):
            status = "no paired seed" if cell.status == "no pair" else cell.status
            axes.annotate(status, (0, row), (4, 0), **place, color=theme.muted)
            continue
        colour, clear = theme.method(plot.methods, cell.method)["color"], cell.verdict in ("better", "worse")
        axes.hlines(row, cell.drawn_low, cell.drawn_high, color=colour, linewidth=1.6)
        ends = [end for end in (cell.gain_low, cell.gain_high) if end in (cell.drawn_low, cell.drawn_high)]
        axes.plot(ends, [row] * len(ends), "|", color=colour, markersize=6, markeredgewidth=1.2)  # where not cut off
        axes.plot(
            cell.gain_mean, row, "o", color=colour, markersize=5.5, markerfacecolor=colour if clear else theme.surface
        )
        if numbers:
            end = {"xycoords": ("axes fraction", "data"), "weight": "bold" if clear else "normal"}
            axes.annotate(signed(cell.gain_mean), (1, row), (5, 0), **place, **end)

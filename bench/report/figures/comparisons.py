"""Figures that compare methods: gains over the reference, and accuracy against training time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures import base

ROW_LINES = 1.5  # height of a row of gains with a name of one line, in lines of text
MAX_COLUMNS = 2  # of panels, which leaves room for the gains as numbers
COST_HEIGHT = 0.36  # of a panel, of the figure's width


def draw_gains(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset with a row per student and variant; with several methods, a panel per cell with a row per
    method, the best on average first. Lines are the confidence intervals of the tables."""
    gains = plot.cells[plot.cells["method"] != plot.reference]
    by_method = len(plot.methods) > 2
    row_names = ["method"] if by_method else ["model", "variant"]
    row_lines = ROW_LINES + plot.setting_lines * (not by_method)
    panel_lines = len(gains[row_names].drop_duplicates()) * row_lines
    if by_method:  # the student's name is written upwards beside its methods
        panel_lines = max(panel_lines, 0.5 * gains["model"].map(base.clean).str.len().max()) + plot.setting_lines
    datasets = list(gains["dataset"].unique())
    columns = min(len(datasets), MAX_COLUMNS)
    groups = [own for _, own in gains.groupby(["model", "variant"], sort=False)] if by_method else [gains]
    lines = [(own, datasets[i : i + columns]) for own in groups for i in range(0, len(datasets), columns)]
    height = (len(lines) * (panel_lines + 1.6) + 3) * base.line_inches()
    note = f"Gain in {plot.measure} of the last epoch over {plot.over} with the same seed. {plot.seeds()}"
    note += "; lines: 95 % confidence intervals; rings: no clear difference, or too few seeds."
    figure = base.new_figure(width, height, title, note)
    grid = figure.subplots(len(lines), columns, sharex=True, squeeze=False)
    for line, (own, shown) in zip(grid, lines, strict=True):
        order = own.groupby(row_names, sort=False)["gain_mean"].mean()
        names = (order.sort_values(ascending=False) if by_method else order).index
        texts = [base.clean(name) if by_method else base.row_label(*name) for name in names]
        for axes, dataset in zip(line, shown, strict=False):
            _draw_panel(axes, own[own["dataset"] == dataset].set_index(row_names, drop=False).reindex(names), plot)
            variant = own["variant"].iloc[0] if by_method else ""
            axes.set_title(base.row_label(dataset, variant))
            axes.set_yticks(range(len(names)), texts, va="center" if row_lines > ROW_LINES else "center_baseline")
            axes.tick_params(axis="y", labelleft=axes is line[0], length=0, labelcolor=rcParams["text.color"])
        if by_method:
            line[0].set_ylabel(base.clean(own["model"].iloc[0]), weight="bold", color=rcParams["text.color"])
        for axes in line[len(shown) :]:
            axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("gain (points)")
    ends = gains[["gain_mean", "gain_low", "gain_high"]]
    low, high = min(0, ends.min(axis=None)), max(0, ends.max(axis=None))
    margin = max(high - low, 0.5) * 0.07
    axes.set_xlim(max(low - margin, -100), min(high + margin, 100))
    return figure


def _draw_panel(axes: Axes, panel: pd.DataFrame, plot: base.Plot) -> None:
    """Draw a row per cell, the first at the top: a disc where the interval excludes zero, else a ring."""
    axes.set_ylim(len(panel) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=rcParams["axes.edgecolor"], linewidth=0.9)
    place = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
    for row, cell in enumerate(panel.itertuples()):
        if pd.isna(cell.gain_mean):
            status = "no paired seed" if cell.status == "no pair" else "" if pd.isna(cell.status) else cell.status
            axes.annotate(status, (0, row), (4, 0), **place, color=rcParams["axes.labelcolor"], in_layout=False)
            continue
        style, clear = plot.style(cell.method), cell.verdict in ("better", "worse")
        mark = {"color": style["color"], "markerfacecolor": style["color"] if clear else axes.get_facecolor()}
        ends = None
        if cell.gain_high > cell.gain_low:
            ends = [[cell.gain_mean - cell.gain_low], [cell.gain_high - cell.gain_mean]]
        axes.errorbar(cell.gain_mean, row, xerr=ends, marker="o", capsize=2.5, capthick=1.2, **mark)
        right = {"xycoords": ("axes fraction", "data"), "weight": "bold" if clear else "normal"}
        axes.annotate(base.signed(cell.gain_mean, 2), (1, row), (5, 0), **place, **right)


def draw_cost(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset and kind of device, with lines from the reference of each cell to its other methods."""
    cells = plot.cells[plot.cells["seeds"] > 0]
    panels = list(cells.groupby(["dataset", "device_unit"], sort=False))
    note = f"{plot.measure.capitalize()} of the last epoch. {plot.seeds()}; bars: ± 1 standard deviation."
    note += " Not included: training the teachers that all runs share."
    panel_height = width * COST_HEIGHT * (2 if len(plot.methods) > 2 else 1)
    if plot.setting_lines:
        labels_in_panel = max(len(own[["model", "variant"]].drop_duplicates()) for _, own in panels)
        panel_height = max(panel_height, 1.2 * (1 + plot.setting_lines) * labels_in_panel * base.line_inches())
    height = len(panels) * (panel_height + 3 * base.line_inches())
    figure = base.new_figure(width, height, title, note, plot.legend(linestyle=""))
    grid, labels = figure.subplots(len(panels), squeeze=False)[:, 0], []
    for axes, ((dataset, unit), panel) in zip(grid, panels, strict=True):
        hours = panel["device_hours"] / panel["seeds"]
        word, factor = ("hours", 1) if hours.max() >= 1.5 else ("minutes", 60)
        axes.set_title(base.clean(dataset))
        axes.set(xlabel=f"{unit.replace('hours', word)} per run", ylabel=f"{plot.measure} (%)")
        axes.margins(x=0.06, y=0.1)
        line = {"color": rcParams["axes.edgecolor"], "linewidth": 0.8, "zorder": 1}
        labels.append([])
        for (model, variant), own in panel.assign(time=hours * factor).groupby(["model", "variant"], sort=False):
            places = own[["time", "last_mean"]].to_numpy()
            for cell, place in zip(own.itertuples(), places, strict=True):
                if own["method"].iloc[0] == plot.reference:  # if it finished, it is the first
                    axes.plot(*np.transpose([places[0], place]), **line)
                style = {**plot.style(cell.method), "linestyle": ""}
                axes.errorbar(*place, np.nan_to_num(cell.last_std), elinewidth=1.2, **style)
            to_end = {**line, "linewidth": 0.5, "linestyle": ":"}
            labels[-1].append(base.label_right(axes, places[-1], base.row_label(model, variant), **to_end))
    base.spread_labels(figure, labels)
    return figure

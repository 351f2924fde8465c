"""Accuracy against training time."""

from __future__ import annotations

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure

from bench.report.figures import base

HEIGHT = 0.36  # of a panel, of the figure's width


def draw_cost(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset and kind of device, with lines from the reference of each cell to its other methods.

    Many methods: a panel per cell, in which the reference and the methods that none beats in both have names.
    """
    cells, by_cell = plot.cells[plot.cells["seeds"] > 0], ["model", "variant"] if plot.has_many else []
    panels = list(cells.groupby(["dataset", "device_unit", *by_cell], sort=False))
    note = f"{plot.measure.capitalize()} of the last epoch. {plot.seeds()}; bars: ± 1 standard deviation."
    note += " Not included: training the teachers that all runs share."
    if plot.has_many:
        note += f" Named: {base.clean(plot.reference)}, and the methods that no other beats in both time and accuracy."
    panel_height = width * HEIGHT * (1.5 if plot.has_many else 2 if len(plot.methods) > 2 else 1)
    if plot.setting_lines and not plot.has_many:
        labels_in_panel = max(len(own[["model", "variant"]].drop_duplicates()) for _, own in panels)
        panel_height = max(panel_height, 1.2 * (1 + plot.setting_lines) * labels_in_panel * base.line_inches())
    height = len(panels) * (panel_height + 3 * base.line_inches())
    figure = base.new_figure(width, height, title, note, plot.legend(linestyle="", marker="o"))
    grid, labels = figure.subplots(len(panels), squeeze=False)[:, 0], []
    for axes, ((dataset, unit, *cell_names), panel) in zip(grid, panels, strict=True):
        hours = panel["device_hours"] / panel["seeds"]
        word, factor = ("hours", 1) if hours.max() >= 1.5 else ("minutes", 60)
        axes.set_title(plot.of(cell_names[0], dataset, cell_names[1]).title if cell_names else plot.label(dataset))
        axes.set(xlabel=f"{unit.replace('hours', word)} per run", ylabel=f"{plot.measure} (%)")
        axes.margins(x=0.06, y=0.1)
        line = {"color": rcParams["axes.edgecolor"], "linewidth": 0.8, "zorder": 1}
        labels.append([])
        for (model, variant), own in panel.assign(time=hours * factor).groupby(["model", "variant"], sort=False):
            places = own[["time", "last_mean"]].to_numpy()
            for cell, place in zip(own.itertuples(), places, strict=True):
                if own["method"].iloc[0] == plot.reference and not plot.has_many:  # if it finished, it is the first
                    axes.plot(*np.transpose([places[0], place]), **line)
                style = {"color": plot.colour(cell.method), "marker": "o", "linestyle": ""}
                axes.errorbar(*place, np.nan_to_num(cell.last_std), elinewidth=1.2, **style)
            named = {base.row_label(model, variant): places[-1]}
            if plot.has_many:
                best = own.sort_values("time")["last_mean"].cummax().reindex(own.index)
                shown = own[(own["last_mean"] >= best) | (own["method"] == plot.reference)]
                named = {base.clean(row.method): (row.time, row.last_mean) for row in shown.itertuples()}
            to_end = {**line, "linewidth": 0.5, "linestyle": ":"}
            labels[-1] += [base.label_right(axes, place, text, **to_end) for text, place in named.items()]
    base.spread_labels(figure, labels)
    return figure

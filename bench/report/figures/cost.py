"""What accuracy costs: accuracy of the last epoch against the device time per run."""

from __future__ import annotations

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.figures.plot import Plot
from bench.report.figures.style import clean, label_right, line_inches, method_style, new_figure, spread_labels
from bench.report.frame import BASELINE

HEIGHT = 0.36  # of a panel, of the figure's width


def draw_cost(plot: Plot, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset and kind of device, with lines from each student's baseline to its other methods."""
    cells = plot.cells[plot.cells["seeds"] > 0]
    panels = list(cells.groupby(["dataset", "device_unit"], sort=False))
    styles = {name: {**method_style(plot.methods, name), "linestyle": ""} for name in plot.methods}
    legend = [Line2D([], [], label=clean(name), **style) for name, style in styles.items()]
    note = f"{plot.measure.capitalize()} of the last epoch. {plot.seeds()}; bars: ± 1 standard deviation. {plot.remark}"
    height = len(panels) * (width * HEIGHT * (2 if len(plot.methods) > 2 else 1) + 3 * line_inches())
    figure = new_figure(width, height, title, note, legend)
    grid, labels = figure.subplots(len(panels), squeeze=False), []
    for axes, ((dataset, unit), panel) in zip(grid.flat, panels, strict=True):
        hours = panel["device_hours"] / panel["seeds"]
        word, factor = ("hours", 1) if hours.max() >= 1.5 else ("minutes", 60)
        axes.set_title(clean(dataset))
        axes.set(xlabel=f"{unit.replace('hours', word)} per run", ylabel=f"{plot.measure} (%)")
        axes.margins(x=0.06, y=0.1)
        line = {"color": rcParams["axes.edgecolor"], "linewidth": 0.8, "zorder": 1}
        for name, own in panel.assign(time=hours * factor).groupby("model", sort=False):
            places = own[["time", "last_mean"]].to_numpy()
            for cell, place in zip(own.itertuples(), places, strict=True):
                if own["method"].iloc[0] == BASELINE:  # if it finished, it is the first
                    axes.plot(*np.transpose([places[0], place]), **line)
                axes.errorbar(*place, np.nan_to_num(cell.last_std), elinewidth=1.2, **styles[cell.method])
            labels.append(label_right(axes, places[-1], clean(name), **{**line, "linewidth": 0.5, "linestyle": ":"}))
    spread_labels(figure, [[label for label in labels if label.axes is axes] for axes in grid.flat])
    return figure

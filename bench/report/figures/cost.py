"""What accuracy costs: accuracy of the last epoch against the device time per run."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.figures.plot import Plot
from bench.report.figures.style import Theme, clean, label_right, line_inches, new_figure, spread_labels

HEIGHT = 0.36  # of a panel, of the figure's width


def draw_cost(plot: Plot, theme: Theme, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset and kind of device, in which an arrow leads from each student's baseline to its other method;
    with several other methods, a panel per student as well."""
    cells = plot.cells[plot.cells["seeds"] > 0]
    by_method = len(plot.methods) > 2
    panels = list(cells.groupby(["dataset", "device_unit", *(["model"] if by_method else [])], sort=False))
    columns = min(len(panels), 2 if by_method else 1)
    rows = -(-len(panels) // columns)
    styles = {name: {**theme.method(plot.methods, name), "linestyle": ""} for name in plot.methods}
    legend = [Line2D([], [], label=clean(name), **style) for name, style in styles.items()]
    note = f"{plot.measure.capitalize()} of the last epoch. {plot.seeds()}; bars: ± 1 standard deviation. {plot.remark}"
    figure = new_figure(width, rows * (width * HEIGHT + 3 * line_inches()), title, note, legend)
    grid, labels = figure.subplots(rows, columns, squeeze=False), []
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, ((dataset, unit, *model), panel) in zip(grid.flat, panels, strict=False):
        hours = panel["device_hours"] / panel["seeds"]
        word, factor = next(
            pair
            for pair in (("hours", 1), ("minutes", 60), ("seconds", 3600))
            if hours.max() * pair[1] >= 1.5 or pair[1] > 60
        )
        axes.set_title(", ".join(clean(name) for name in (*model, dataset)))
        axes.set(xlabel=f"{unit.replace('hours', word)} per run", ylabel=f"{plot.measure} (%)")
        axes.margins(x=0.06, y=0.1)
        for cell in panel.assign(time=hours * factor).itertuples():
            axes.errorbar(cell.time, cell.last_mean, np.nan_to_num(cell.last_std), elinewidth=1.2, **styles[cell.method])
        if by_method:
            axes.grid(axis="y")
            continue
        labels.append([])
        for name, own in panel.assign(time=hours * factor).groupby("model", sort=False):
            places = own[["time", "last_mean"]].to_numpy()
            if len(places) == 2:
                arrow = {"arrowstyle": "-|>", "color": theme.hairline, "shrinkA": 2, "shrinkB": 3, "mutation_scale": 8}
                axes.annotate("", places[1], places[0], arrowprops=arrow)
            line = {"color": theme.hairline, "linewidth": 0.5, "linestyle": ":"}
            labels[-1].append(label_right(axes, tuple(places[-1]), clean(name), **line))
    spread_labels(figure, labels)
    return figure

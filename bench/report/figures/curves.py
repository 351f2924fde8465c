"""Test accuracy per epoch: of a cell, and of a whole suite as small multiples."""

from __future__ import annotations

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.figures import base

HEIGHT = 0.52  # of the width
FEW_METHODS = 4  # whose bands and marks can be told apart
PANEL_INCHES = 0.66  # height of a small multiple


def draw_curves(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw all methods of a cell, named at their ends, and rings where they reach the reference's accuracy."""
    cells = plot.cells[plot.cells["seeds"] > 0].set_index("method")
    few, last = len(cells) <= FEW_METHODS, plot.curves["epoch"].max()
    height = max(width * HEIGHT, (len(cells) * (4 if few else 1.2) + 3) * base.line_inches())
    figure = base.new_figure(width, height, title, _note(plot, few))
    axes, labels = figure.subplots(), []
    axes.set(xlabel="epoch", ylabel=f"{plot.measure} (%)", xlim=(min(1, last - 1), last))
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for method, cell in cells[::-1].iterrows():  # the reference on top
        end = _draw_method(axes, plot, method, few, linewidth=1.8 if few else 1.2), cell["last_mean"]
        std = "" if pd.isna(cell["last_std"]) else f" ± {cell['last_std']:.2f}"
        name, accuracy = base.clean(method), cell["last_mean"]
        text = f"{name}\n{accuracy:.2f}{std} %" if few else f"{accuracy:.1f}  {name}"
        if few and not pd.isna(cell["speedup_epochs_mean"]):
            text += f"\n{cell['speedup_epochs_mean']:.1f}× as fast"
        line = {**plot.style(method), "linewidth": 1}
        del line["marker"]
        labels.append(base.label_right(axes, end, text, **line))
    if plot.reference in cells.index and last > 1:
        _mark_reached(axes, cells, plot)
    base.spread_labels(figure, [labels])
    return figure


def draw_suite(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw small multiples with one range of accuracies, a row per student and variant and a column per dataset."""
    rows, datasets = plot.cells[["model", "variant"]].drop_duplicates(), plot.cells["dataset"].unique()
    two = len(plot.methods) == 2
    note = f"{plot.measure.capitalize()} (%) per epoch. {plot.seeds()}."
    note += " Numbers: gain of the last epoch, in points." if two else ""
    panel_height = max(PANEL_INCHES, 1.2 * (1 + plot.setting_lines) * base.line_inches())
    height = len(rows) * panel_height + 3 * base.line_inches()
    figure = base.new_figure(width, height, title, note, plot.legend(marker=""))
    grid = figure.subplots(len(rows), len(datasets), sharex="col", sharey=True, squeeze=False)
    for line, row in zip(grid, rows.itertuples(index=False), strict=True):
        line[0].set_ylabel(base.row_label(*row), rotation=0, ha="right", va="center", color=rcParams["text.color"])
        for axes, dataset in zip(line, datasets, strict=True):
            part = plot.of(row.model, dataset, row.variant)
            for method in part.cells.loc[part.cells["seeds"] > 0, "method"][::-1]:
                _draw_method(axes, part, method, two, linewidth=1.3)
            axes.grid(axis="y")
            axes.locator_params(axis="y", nbins=3)
            texts = part.cells.loc[part.cells["seeds"] == 0, "status"].unique()
            if two and not len(texts):
                texts = [base.signed(gain, 1) for gain in part.cells["gain_mean"].dropna()]
            axes.text(0.98, 0.08, "\n".join(texts), transform=axes.transAxes, ha="right", size="small")
    for axes, dataset in zip(grid[0], datasets, strict=True):
        axes.set_title(base.clean(dataset, 14), size="small", weight="normal")
        last = plot.curves.loc[plot.curves["dataset"] == dataset, "epoch"].max()
        if not pd.isna(last):  # else no run of this cell is finished
            axes.set(xlim=(min(1, last - 1), last), xticks=[last])
    return figure


def _draw_method(axes: Axes, plot: base.Plot, method: str, band: bool, linewidth: float) -> int:
    """Draw the mean over seeds; with `band`, also ± 1 standard deviation. Returns the last epoch."""
    curves = plot.curves[plot.curves["method"] == method]
    accuracy = curves.pivot(index="epoch", columns="seed", values="test_accuracy").dropna()
    mean, std, style = accuracy.mean(axis=1), accuracy.std(axis=1), plot.style(method)
    if band and accuracy.shape[1] > 1:
        axes.fill_between(accuracy.index, mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0)
    style["marker"] = style["marker"] if len(accuracy) == 1 else ""
    axes.plot(mean, **style, linewidth=linewidth)
    return curves["epoch"].max()


def _mark_reached(axes: Axes, cells: pd.DataFrame, plot: base.Plot) -> None:
    """Draw the accuracy that the reference ends at, and rings at the mean epochs in which methods reach it."""
    level = cells.at[plot.reference, "last_mean"]
    axes.axhline(level, color="C0", linewidth=0.8, linestyle=(0, (4, 3)))
    for method, epoch in cells.drop(plot.reference)["epochs_to_reach_mean"].dropna().items():
        colour = plot.style(method)["color"]
        axes.plot(epoch, level, "o", markersize=6, markerfacecolor=rcParams["axes.facecolor"], color=colour, zorder=4)


def _note(plot: base.Plot, bands: bool) -> str:
    text = plot.seeds() + ("; band: ± 1 standard deviation" if bands and plot.cells["seeds"].max() > 1 else "")
    if plot.cells["epochs_to_reach_mean"].count() > 1:  # the reference's own is one
        text += f"; rings: the epoch, mean over seeds, in which a run first has the final accuracy of {plot.over}"
    lost = plot.cells[plot.cells["diverged_seeds"] > 0].itertuples()
    parts = [f"{row.diverged_seeds} of {row.seeds + row.diverged_seeds} of {base.clean(row.method)}" for row in lost]
    return f"{text}. Diverged runs, left out: {', '.join(parts)}." if parts else f"{text}."

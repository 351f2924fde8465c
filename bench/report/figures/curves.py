"""Test accuracy per epoch: of a student on a dataset, and of a whole suite as small multiples."""

from __future__ import annotations

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.report.figures.plot import Plot
from bench.report.figures.style import clean, label_right, line_inches, method_style, new_figure, signed, spread_labels
from bench.report.frame import BASELINE

HEIGHT = 0.52  # of the width
FEW_METHODS = 4  # whose bands and marks can be told apart
FEW_SEEDS = 5  # whose own curves can be told apart
PANEL_INCHES = 0.66  # height of a small multiple
MARK_HEIGHT = 0.09  # of a mark's text, of the height of the axes


def draw_curves(plot: Plot, width: float, title: str | None) -> Figure:
    """Draw all methods on a student and dataset, named at their ends, and where they reach the baseline's accuracy."""
    cells = plot.cells[plot.cells["seeds"] > 0].set_index("method")
    few, last = len(cells) <= FEW_METHODS, plot.curves["epoch"].max()
    height = max(width * HEIGHT, (len(cells) * (2.5 if few else 1.2) + 3) * line_inches())
    figure = new_figure(width, height, title, _note(plot, few))
    axes, labels = figure.subplots(), []
    axes.set(xlabel="epoch", ylabel=f"{plot.measure} (%)", xlim=(min(1, last - 1), last))
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for method, cell in cells[::-1].iterrows():  # the baseline on top
        _draw_method(axes, plot, method, few, linewidth=1.8 if few else 1.2)
        std = "" if pd.isna(cell["last_std"]) else f" ± {cell['last_std']:.2f}"
        text = f"{clean(method)}\n{cell['last_mean']:.2f}{std} %" if few else f"{cell['last_mean']:.1f}  {clean(method)}"
        style = method_style(plot.methods, method)
        end = plot.curves.loc[plot.curves["method"] == method, "epoch"].max(), cell["last_mean"]
        labels.append(label_right(axes, end, text, color=style["color"], linestyle=style["linestyle"], linewidth=1))
    if BASELINE in cells.index and last > 1:
        _mark_baseline_reached(axes, cells, plot, few)
    spread_labels(figure, [labels])
    return figure


def draw_suite(plot: Plot, width: float, title: str | None) -> Figure:
    """Draw small multiples with one range of accuracies, a row per student and a column per dataset."""
    models, datasets = (list(plot.cells[name].unique()) for name in ("model", "dataset"))
    legend = [
        Line2D([], [], label=clean(name), **{**method_style(plot.methods, name), "marker": ""}) for name in plot.methods
    ]
    note = f"{plot.measure.capitalize()} (%) per epoch. {plot.seeds()}."
    note += " Numbers: gain of the last epoch, in points." if len(plot.methods) == 2 else ""
    figure = new_figure(width, len(models) * PANEL_INCHES + 3 * line_inches(), title, note, legend)
    grid = figure.subplots(len(models), len(datasets), sharex="col", sharey=True, squeeze=False)
    for line, model in zip(grid, models, strict=True):
        line[0].set_ylabel(clean(model), rotation=0, ha="right", va="center", color=rcParams["text.color"])
        for axes, dataset in zip(line, datasets, strict=True):
            part = plot.of(model, dataset)
            for method in part.cells.loc[part.cells["seeds"] > 0, "method"][::-1]:
                _draw_method(axes, part, method, len(plot.methods) == 2, linewidth=1.3)
            axes.grid(axis="y")
            axes.locator_params(axis="y", nbins=3)
            texts = part.cells.loc[part.cells["seeds"] == 0, "status"].unique()
            if len(plot.methods) == 2 and not len(texts):
                texts = [signed(gain, 1) for gain in part.cells["gain_mean"].dropna()]
            axes.text(0.98, 0.08, "\n".join(texts), transform=axes.transAxes, ha="right", size="small")
    for axes, dataset in zip(grid[0], datasets, strict=True):
        axes.set_title(clean(dataset, 14), size="small", weight="normal")
        last = plot.curves.loc[plot.curves["dataset"] == dataset, "epoch"].max()
        axes.set(xlim=(min(1, last - 1), last), xticks=[] if pd.isna(last) else sorted({1, last}))
    for axes in grid[-1]:
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=False):
            label.set_ha(side)
    return figure


def _draw_method(axes: Axes, plot: Plot, method: str, band: bool, linewidth: float) -> None:
    """Draw the mean over seeds; with `band`, also ± 1 standard deviation and single seeds if they are few."""
    curves = plot.curves[plot.curves["method"] == method]
    accuracy = curves.pivot(index="epoch", columns="seed", values="test_accuracy").dropna()
    mean, std, style = accuracy.mean(axis=1), accuracy.std(axis=1), method_style(plot.methods, method)
    if band and accuracy.shape[1] > 1:
        axes.fill_between(accuracy.index, mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0)
    if band and 1 < accuracy.shape[1] <= FEW_SEEDS:
        axes.plot(accuracy, color=style["color"], linewidth=linewidth / 3, alpha=0.5)
    style["marker"] = style["marker"] if len(accuracy) == 1 else ""
    axes.plot(mean, **style, linewidth=linewidth)


def _mark_baseline_reached(axes: Axes, cells: pd.DataFrame, plot: Plot, texts: bool) -> None:
    """Draw the accuracy that the baseline ends at, and rings where methods reach it with all seeds."""
    level = cells.at[BASELINE, "last_mean"]
    axes.axhline(level, color="C0", linewidth=0.8, linestyle=(0, (4, 3)))
    reached = cells[(cells.index != BASELINE) & (cells["reached_seeds"] == cells["gain_seeds"])]
    reached = reached.dropna(subset=["epochs_to_reach_mean"]).sort_values("epochs_to_reach_mean")
    low, high = axes.get_ylim()
    low -= (high - low) * MARK_HEIGHT * len(reached) * texts
    axes.set_ylim(low, high)
    for row, (method, cell) in enumerate(reached.iterrows()):
        colour, epoch = method_style(plot.methods, method)["color"], cell["epochs_to_reach_mean"]
        axes.plot(epoch, level, "o", markersize=6, markerfacecolor=rcParams["axes.facecolor"], color=colour, zorder=4)
        if texts:
            axes.vlines(epoch, low, level, color=colour, linewidth=1.2)
            speedup = "" if pd.isna(cell["speedup_epochs"]) else f": {cell['speedup_epochs']:.1f}× as fast"
            left = epoch < sum(axes.get_xlim()) / 2
            place = {"textcoords": "offset points", "ha": "left" if left else "right", "va": "center", "weight": "bold"}
            box = {"facecolor": rcParams["axes.facecolor"], "edgecolor": "none", "pad": 0.5}
            at = epoch, low + (high - low) * MARK_HEIGHT * (row + 0.6)
            axes.annotate(f"epoch {round(epoch, 1):g}{speedup}", at, (5 if left else -5, 0), **place, bbox=box)


def _note(plot: Plot, bands: bool) -> str:
    seeds = plot.cells["seeds"].max()
    text = plot.seeds() + ("; band: ± 1 standard deviation" if bands and seeds > 1 else "")
    text += "; thin lines: single seeds" if bands and 1 < seeds <= FEW_SEEDS else ""
    if plot.cells["epochs_to_reach_mean"].count() > 1:  # the baseline's own is one
        text += "; rings: where all seeds have reached the baseline's final accuracy"
    lost = plot.cells[plot.cells["diverged_seeds"] > 0]
    parts = [
        f"{row.diverged_seeds} of {row.seeds + row.diverged_seeds} of {clean(row.method)}" for row in lost.itertuples()
    ]
    return f"{text}. Diverged runs, left out: {', '.join(parts)}." if parts else f"{text}."

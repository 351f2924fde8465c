"""Test accuracy per epoch: of a cell, and of a whole suite as small multiples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.report.figures import base
from bench.report.frame import guidance_of

HEIGHT = 0.52  # of the width
FEW = 4  # methods whose single seeds and marks can be told apart
DASHES = ("-", (0, (4, 1.3)), (0, (1.2, 1.2)))  # of the rows of one guidance
CUT = 0.06  # share of the accuracies, of the first epochs mostly, below the small multiples
MULTIPLE_INCHES = 1.6  # least width of a panel with the rows of one guidance
PANEL_INCHES = 0.66  # height of a small multiple
SMALL_INCHES = 1.25  # least width of a small multiple with its student above, twice that with varied values


def draw_curves(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw all methods of a cell, named at their ends, and rings where they reach the reference's accuracy."""
    cells = plot.cells[plot.cells["seeds"] > 0].set_index("method")
    if plot.has_many and len(cells) > 1:
        return _draw_multiples(plot, cells, width, title)
    few, last = len(cells) <= FEW, plot.curves["epoch"].max()
    height = max(width * HEIGHT, (len(cells) * (4 if few else 1.2) + 3) * base.line_inches())
    figure = base.new_figure(width, height, title, _note(plot, few))
    axes, labels = figure.subplots(), []
    axes.set(xlabel="epoch", ylabel=f"{plot.measure} (%)", xlim=(min(1, last - 1), last))
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _draw_teacher(axes, plot)
    for method, cell in cells[::-1].iterrows():  # the reference on top
        end = _draw_method(axes, plot, method, few, linewidth=1.8 if few else 1.2), cell["last_mean"]
        _mark_stops(axes, plot, method)
        std = "" if pd.isna(cell["last_std"]) else f" ± {cell['last_std']:.2f}"
        name, accuracy = base.clean(method), cell["last_mean"]
        text = f"{name}\n{accuracy:.2f}{std} %" if few else f"{accuracy:.1f}  {name}"
        if few and not pd.isna(cell["speedup_epochs_mean"]):
            text += f"\n{cell['speedup_epochs_mean']:.1f}× as fast"
        labels.append(base.label_right(axes, end, text, color=plot.colour(method), linewidth=1))
    if plot.reference in cells.index and last > 1:
        _mark_reached(axes, cells, plot)
    base.spread_labels(figure, [labels])
    return figure


def _draw_multiples(plot: base.Plot, cells: pd.DataFrame, width: float, title: str | None) -> Figure:
    """Draw a panel per guidance, the largest gain first, each with the reference behind its rows."""
    groups = [list(own.index) for _, own in cells.drop(plot.reference, errors="ignore").groupby(guidance_of, sort=False)]
    columns, rows = max(2, int(width / MULTIPLE_INCHES)), max(map(len, groups))
    note = f"{plot.measure.capitalize()} (%) per epoch; numbers: gain of the last epoch, in points; sorted by the largest."
    note = f"{note} {_note(plot, single=False, rings=False)}"
    legend = [Line2D([], [], label=base.clean(plot.reference), color="C0"), Line2D([], [], label="method", color="C1")]
    legend += [Line2D([], [], label="other settings", color="C1", linestyle=DASHES[1])] * (rows > 1)
    lines, last = -(-len(groups) // columns), plot.curves["epoch"].max()
    height = lines * (PANEL_INCHES + (0.8 * rows + 1) * base.line_inches()) + 1.5 * base.line_inches()
    figure = base.new_figure(width, height, title, note, legend)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, own in itertools.zip_longest(grid.flat, groups):
        if own is None:
            axes.set_visible(False)
            continue
        axes.grid(axis="y")
        _draw_teacher(axes, plot)
        if plot.reference in cells.index:
            _draw_method(axes, plot, plot.reference, False, linewidth=1.2)
        for method, dashes in zip(own, itertools.cycle(DASHES)):
            _draw_method(axes, plot, method, False, linewidth=1.4, linestyle=dashes)
            _mark_stops(axes, plot, method)
        settings = [method.partition(" ")[2] if len(own) > 1 else "" for method in own]
        gains = ["" if pd.isna(gain) else base.signed(gain, 2) for gain in cells.loc[own, "gain_mean"]]
        texts = [" ".join(filter(None, (base.clean(setting), gain))) for setting, gain in zip(settings, gains, strict=True)]
        _write_inside(axes, texts)
        axes.set_title(base.clean(guidance_of(own[0]) if len(own) > 1 else own[0]), size="small")
    shown = plot.curves["test_accuracy"]
    grid[0, 0].set(xlim=(min(1, last - 1), last), ylim=(shown.quantile(CUT), None))
    grid[0, 0].locator_params(axis="both", nbins=3)
    return figure


def draw_suite(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw small multiples with one range of accuracies: a row per student and variant, and a column per dataset. Of one
    dataset, several students are in a row."""
    students = [tuple(names) for names in plot.cells[["model", "variant"]].drop_duplicates().to_numpy()]
    datasets = list(plot.cells["dataset"].unique())
    panels = [(student, dataset) for student in students for dataset in datasets]
    is_wrapped = len(datasets) == 1 and len(students) > 1
    least = SMALL_INCHES * (2 if plot.setting_lines else 1)
    columns = min(len(students), max(1, int(width / least))) if is_wrapped else len(datasets)
    lines = -(-len(panels) // columns)
    note = f"{plot.measure.capitalize()} (%) per epoch. {_seeds(plot, len(plot.methods) == 2)}."
    if len(plot.methods) == 2:
        note += " Numbers: gain of the last epoch, in points."
    if plot.has_many:
        note += " Numbers: the largest gain of the last epoch, in points, of the method in blue; grey: others."
    lengths = plot.curves.groupby(["dataset", "model", "variant"])["epoch"].max()
    # panels share an axis if all of a column have the same epochs, else each has its own; one without runs has none
    same = (lengths.groupby("dataset").nunique() <= 1).all() and len(panels) == lines * columns == len(lengths)
    panel_height = max(PANEL_INCHES, 1.2 * (1 + plot.setting_lines) * base.line_inches())
    panel_height += ((not same) + is_wrapped * (1 + plot.setting_lines)) * base.line_inches()
    height = lines * panel_height + 3 * base.line_inches()
    figure = base.new_figure(width, height, title, note, plot.legend())
    grid = figure.subplots(lines, columns, sharex="col" if same else False, sharey=True, squeeze=False)
    for axes, (student, dataset) in zip(grid.flat, panels, strict=False):
        _draw_small(axes, plot.of(student[0], dataset, student[1]))
        last = lengths.get((dataset, *student), 0)
        axes.set_xlim(min(1, last - 1), last)
        axes.set_xticks([last] if last else [], [f"{last} epochs"] if last else [], ha="right", size="small")
        if is_wrapped:
            axes.set_title(base.row_label(*student), size="small", weight="normal")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    if is_wrapped:
        return figure
    for line, student in zip(grid, students, strict=True):
        line[0].set_ylabel(base.row_label(*student), rotation=0, ha="right", va="center", color=rcParams["text.color"])
    for axes, dataset in zip(grid[0], datasets, strict=True):
        axes.set_title(plot.label(dataset).replace(", ", "\n"), size="small", weight="normal")
    return figure


def _draw_small(axes: Axes, plot: base.Plot) -> None:
    """Draw the curves of a cell, and its gain or its status in words."""
    two = len(plot.methods) == 2
    own = plot.cells[plot.cells["seeds"] > 0].set_index("method")
    best = own["gain_mean"].idxmax() if plot.has_many and own["gain_mean"].notna().any() else None
    grey = set(own.index) - {plot.reference, best} if plot.has_many else ()
    for method in sorted(own.index, key=lambda name: (name not in grey, name == plot.reference)):
        look = {"color": rcParams["axes.edgecolor"], "linewidth": 0.5} if method in grey else {"linewidth": 1.3}
        _draw_method(axes, plot, method, two, **look)
    axes.grid(axis="y")
    _draw_teacher(axes, plot)
    axes.locator_params(axis="y", nbins=3)
    texts = plot.cells.loc[plot.cells["seeds"] == 0, "status"].unique()
    if two and not len(texts):
        texts = [base.signed(gain, 1) for gain in plot.cells["gain_mean"].dropna()]
    if plot.has_many:
        texts = [base.clean(best, 16), base.signed(own.at[best, "gain_mean"], 1)] if best else texts[:1]
    _write_inside(axes, texts)


def _write_inside(axes: Axes, lines: Sequence[str]) -> None:
    """Write lines of text into the lower right corner, readable over curves."""
    ground = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "alpha": 0.8, "pad": 1}
    place = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "size": "small", "bbox": ground}
    axes.text(0.98, 0.04, "\n".join(lines), **place)


def _draw_method(axes: Axes, plot: base.Plot, method: str, seeds: bool, **look: Any) -> int:
    """Draw the mean over seeds; with `seeds`, also each of them. look: of the line. Returns the last epoch."""
    curves = plot.curves[plot.curves["method"] == method]
    accuracy = curves.pivot(index="epoch", columns="seed", values="test_accuracy").dropna()
    look = {"color": plot.colour(method), "marker": "o" if len(accuracy) == 1 else ""} | look
    if seeds and accuracy.shape[1] > 1:
        axes.plot(accuracy, **look | {"linewidth": 0.6, "alpha": 0.6})
    axes.plot(accuracy.mean(axis=1), **look)
    return curves["epoch"].max()


def _mark_stops(axes: Axes, plot: base.Plot, method: str) -> None:
    """Draw a tick on the mean where the guidance of a seed ended by itself."""
    curves = plot.curves[plot.curves["method"] == method]
    mean = curves.groupby("epoch")["test_accuracy"].mean().interpolate()  # over epochs that were not evaluated
    stops = mean.reindex(curves["guidance_stop_epoch"].dropna().unique())
    axes.plot(stops, "|", color=plot.colour(method), markersize=8, markeredgewidth=1.2)


def _mark_reached(axes: Axes, cells: pd.DataFrame, plot: base.Plot) -> None:
    """Draw the accuracy that the reference ends at, and rings at the mean epochs in which methods reach it."""
    level = cells.at[plot.reference, "last_mean"]
    axes.axhline(level, color="C0", linewidth=0.8, linestyle=(0, (4, 3)))
    for method, epoch in cells.drop(plot.reference)["epochs_to_reach_mean"].dropna().items():
        look = {"markerfacecolor": rcParams["axes.facecolor"], "color": plot.colour(method)}
        axes.plot(epoch, level, "o", markersize=6, **look, zorder=4)


def _seeds(plot: base.Plot, single: bool) -> str:
    text = plot.seeds() + ("; thin: each seed" if single and plot.cells["seeds"].max() > 1 else "")
    return text + ("; dotted: the teacher" if len(plot.teachers) else "")


def _draw_teacher(axes: Axes, plot: base.Plot) -> None:
    """Draw a line at the accuracy of the teacher, or of each."""
    for accuracy in plot.teachers:
        axes.axhline(accuracy, **base.teacher_line())


def _note(plot: base.Plot, single: bool, rings: bool = True) -> str:
    text = _seeds(plot, single)
    if plot.curves["guidance_stop_epoch"].notna().any():
        text += "; ticks: the epochs after which guidance ended by itself"
    if rings and plot.cells["epochs_to_reach_mean"].count() > 1:  # the reference's own is one
        text += f"; rings: the epoch, mean over seeds, in which a run first has the final accuracy of {plot.over}"
    lost = plot.cells[plot.cells["diverged_seeds"] > 0].itertuples()
    parts = [f"{row.diverged_seeds} of {row.seeds + row.diverged_seeds} of {base.clean(row.method)}" for row in lost]
    return f"{text}. Diverged runs, left out: {', '.join(parts)}." if parts else f"{text}."

"""Figures that compare methods: gains over the reference, and accuracy against training time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from bench.report.figures import base
from bench.report.frame import guidance_of

ROW_LINES = 1.5  # height of a row of gains with a name of one line, in lines of text
NEIGHBOUR = 0.75  # distance of rows of one guidance, in rows
CLEAR = ("better", "worse")
PALE = 0.4  # the share of a method's colour in a pale disc
MAX_COLUMNS = 2  # of panels, which leaves room for the gains as numbers
COST_HEIGHT = 0.36  # of a panel, of the figure's width


def draw_gains(plot: base.Plot, width: float, title: str | None) -> Figure:
    """Draw a panel per dataset with a row per student and variant; with several methods, a panel per cell with a row per
    method, the best on average first. Lines are the confidence intervals of the tables."""
    gains = plot.cells[plot.cells["method"] != plot.reference]
    by_method = len(plot.methods) > 2
    row_names = ["method"] if by_method else ["model", "variant"]
    row_lines = ROW_LINES + plot.setting_lines * (not by_method)
    datasets = list(gains["dataset"].unique())
    columns = min(len(datasets), MAX_COLUMNS)
    groups = [own for _, own in gains.groupby(["model", "variant"], sort=False)] if by_method else [gains]
    rows_of = [(own, _method_rows(own) if by_method else _cell_rows(own)) for own in groups]
    lines = [(*group, datasets[i : i + columns]) for group in rows_of for i in range(0, len(datasets), columns)]
    panel_lines = max(rows["place"].iloc[-1] + 1 for _, rows in rows_of) * row_lines
    if by_method:  # the student's name is written upwards beside its methods
        panel_lines = max(panel_lines, 0.5 * gains["model"].map(base.clean).str.len().max()) + plot.setting_lines
    height = (len(lines) * (panel_lines + 1.6) + 3) * base.line_inches()
    note = f"Gain in {plot.measure} of the last epoch over {plot.over} with the same seed. {plot.seeds()}"
    note += "; lines: 95 % confidence intervals; rings: no clear difference, or too few seeds"
    if (most := gains["comparisons"].max()) > 1:
        note += f"; pale discs: no clear difference if corrected for {most:.0f} comparisons (Holm)"
    low, high = gain_limits(gains, plot.has_many)
    if low > gains["gain_low"].min() or high < gains["gain_high"].max():
        note += "; lines without a cap are cut off"
    note += "."
    figure = base.new_figure(width, height, title, note)
    grid = figure.subplots(len(lines), columns, sharex=True, squeeze=False)
    for line, (own, rows, shown) in zip(grid, lines, strict=True):
        for axes, dataset in zip(line, shown, strict=False):
            panel = own[own["dataset"] == dataset].set_index(row_names, drop=False).reindex(rows.index)
            _draw_panel(axes, panel, rows["place"], plot)
            variant = own["variant"].iloc[0] if by_method else ""
            axes.set_title(base.row_label(dataset, variant))
            axes.set_yticks(rows["place"], rows["text"], va="center" if row_lines > ROW_LINES else "center_baseline")
            axes.tick_params(axis="y", labelleft=axes is line[0], length=0, labelcolor=rcParams["text.color"])
        for label, is_setting in zip(line[0].get_yticklabels(), rows["is_setting"], strict=True):
            if is_setting:
                label.set_color(rcParams["axes.labelcolor"])
        if by_method:
            line[0].set_ylabel(base.clean(own["model"].iloc[0]), weight="bold", color=rcParams["text.color"])
        for axes in line[len(shown) :]:
            axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("gain (points)")
    axes.set_xlim(low, high)
    return figure


def _cell_rows(gains: pd.DataFrame) -> pd.DataFrame:
    """A row per student and variant, in the order of the suite; columns as of `_method_rows`."""
    rows = gains[["model", "variant"]].drop_duplicates().set_index(["model", "variant"])
    return rows.assign(place=range(len(rows)), text=[base.row_label(*names) for names in rows.index], is_setting=False)


def _method_rows(gains: pd.DataFrame) -> pd.DataFrame:
    """A row per method, sorted by the mean gain; those of one guidance are neighbours, placed by the larger gain.

    place: 0 at the top. text: the label; is_setting: only the settings of a method whose name is above.
    """
    means = gains.groupby("method", sort=False)["gain_mean"].mean()
    names = pd.Series(means.index.map(guidance_of), means.index)
    order = pd.DataFrame(
        {"gain": means.groupby(names).transform("max"), "name": names.map({n: i for i, n in enumerate(names[::-1])})}
    )
    rows = order.sort_values(["gain", "name"], ascending=False, kind="stable").drop(columns=["gain", "name"])
    repeated = (own := names[rows.index]) == own.shift()
    is_setting = repeated & own.isin(rows.index)  # the label that is the name alone comes first
    texts = [base.clean(method.partition(" ")[2] if short else method) for method, short in is_setting.items()]
    return rows.assign(place=np.where(repeated, NEIGHBOUR, 1.0).cumsum() - 1, text=texts, is_setting=is_setting)


def gain_limits(gains: pd.DataFrame, crowded: bool) -> tuple[float, float]:
    """The gains that are shown: all with their intervals; if crowded, intervals may go out of what their means need."""
    ends, means = gains[["gain_mean", "gain_low", "gain_high"]], gains["gain_mean"]
    low, high = min(0, ends.min(axis=None)), max(0, ends.max(axis=None))
    if crowded:
        room = 0.4 * max(means.max() - means.min(), 1)
        low, high = max(low, min(0, means.min()) - room), min(high, max(0, means.max()) + room)
    margin = max(high - low, 0.5) * 0.07
    return max(low - margin, -100), min(high + margin, 100)


def _draw_panel(axes: Axes, panel: pd.DataFrame, places: pd.Series, plot: base.Plot) -> None:
    """Draw a row per cell, the first at the top."""
    axes.set_ylim(places.iloc[-1] + 0.6, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=rcParams["axes.edgecolor"], linewidth=0.9)
    place = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
    for row, cell in zip(places, panel.itertuples(), strict=True):
        if pd.isna(cell.gain_mean):
            status = "no paired seed" if cell.status == "no pair" else "" if pd.isna(cell.status) else cell.status
            axes.annotate(status, (0, row), (4, 0), **place, color=rcParams["axes.labelcolor"], in_layout=False)
            continue
        axes.errorbar(cell.gain_mean, row, xerr=interval_ends(cell), **gain_mark(axes, plot, cell))
        weight = "bold" if cell.verdict_holm in CLEAR else "normal"
        right = {"xycoords": ("axes fraction", "data"), "weight": weight}
        axes.annotate(base.signed(cell.gain_mean, 2), (1, row), (5, 0), **place, **right)


def interval_ends(cell: Any) -> list[list[float]] | None:
    """The interval of a gain as `errorbar` takes it; None if there is none. cell: a row of `Plot.cells`."""
    if not cell.gain_high > cell.gain_low:
        return None
    return [[cell.gain_mean - cell.gain_low], [cell.gain_high - cell.gain_mean]]


def gain_mark(axes: Axes, plot: base.Plot, cell: Any) -> dict[str, Any]:
    """How `errorbar` draws a gain: a disc where the interval excludes zero, a pale one where only the uncorrected one does,
    else a ring."""
    colour, ground = (np.array(to_rgb(one)) for one in (plot.colour(cell.method), axes.get_facecolor()))
    filled = [verdict in CLEAR for verdict in (cell.verdict, cell.verdict_holm)]
    strength = PALE if filled == [True, False] else float(filled[1])
    face = to_hex(strength * colour + (1 - strength) * ground)
    return {"marker": "o", "capsize": 2.5, "capthick": 1.2, "color": to_hex(colour), "markerfacecolor": face}


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
    panel_height = width * COST_HEIGHT * (1.5 if plot.has_many else 2 if len(plot.methods) > 2 else 1)
    if plot.setting_lines and not plot.has_many:
        labels_in_panel = max(len(own[["model", "variant"]].drop_duplicates()) for _, own in panels)
        panel_height = max(panel_height, 1.2 * (1 + plot.setting_lines) * labels_in_panel * base.line_inches())
    height = len(panels) * (panel_height + 3 * base.line_inches())
    figure = base.new_figure(width, height, title, note, plot.legend(linestyle="", marker="o"))
    grid, labels = figure.subplots(len(panels), squeeze=False)[:, 0], []
    for axes, ((dataset, unit, *cell_names), panel) in zip(grid, panels, strict=True):
        hours = panel["device_hours"] / panel["seeds"]
        word, factor = ("hours", 1) if hours.max() >= 1.5 else ("minutes", 60)
        axes.set_title(plot.of(cell_names[0], dataset, cell_names[1]).title if cell_names else base.clean(dataset))
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

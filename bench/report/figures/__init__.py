"""The figures of a suite, in `results/<suite>/`, as SVG and PNG in light and dark, and as PDF for papers.

    overview                   gains over the reference with confidence intervals
    cost                       accuracy against the device time per run
    varied                     gains and accuracies against a number that the suite varies
    suite                      all curves side by side, if there are several cells
    curves/<model>-<dataset>   test accuracy per epoch of a cell; in a suite that varies keys, its values follow in the name

Renderers differ between versions, so files are not compared by their bytes: each holds a digest of the data that it shows
and of the code that draws it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.report.figures import base
from bench.report.figures.base import figure_name
from bench.report.figures.cost import draw_cost
from bench.report.figures.curves import draw_curves, draw_suite
from bench.report.figures.gains import draw_gains
from bench.report.figures.varied import draw_varied, name_of
from bench.report.frame import CELL, RUN
from bench.report.suite_report import SuiteReport

DRAW = {"overview": draw_gains, "cost": draw_cost, "varied": draw_varied, "suite": draw_suite, "curves": draw_curves}


def plots_of_suite(report: SuiteReport) -> dict[str, base.Plot]:
    """{path below the folder, without suffix: plot} of all figures that a report gives."""
    cells = report.ranked_cells[base.CELL_COLUMNS]
    if not cells["seeds"].any():
        return {}
    curves = report.curves[~report.curves["diverged"]].drop(columns="diverged")
    datasets, methods, reference = report.suite.datasets, report.suite.methods, report.suite.reference
    labels = {one: label for one in datasets if (label := report.dataset_label(one)) != one}
    title = "Accuracy per epoch of all students and datasets"
    whole = base.Plot(title, cells, curves, labels, methods, report.measure, reference)
    if len(datasets) == 1:
        whole = replace(whole, title=f"Accuracy on {whole.label(datasets[0])}")
    plots = {"cost": replace(whole, title="Accuracy against training time", curves=curves.iloc[:0])}
    if cells["gain_mean"].notna().any():
        over = base.clean(reference)
        title = f"Gain of {base.clean(methods[1])} over {over}" if len(methods) == 2 else f"Gains over {report.reference}"
        plots["overview"] = replace(whole, title=title, curves=curves.groupby(RUN).tail(1))
        if key := report.suite.varied_number:
            plots["varied"] = replace(whole, title=f"Gain against {name_of(key)}", curves=curves.iloc[:0])
    if len(cells[CELL].drop_duplicates()) > 1:
        plots["suite"] = whole
    shown = cells.loc[cells["seeds"] > 0, CELL].drop_duplicates()
    return plots | {f"curves/{figure_name(*cell)}": whole.of(*cell) for cell in shown.itertuples(index=False)}


def write_figures(report: SuiteReport, folder: Path, *, title: bool = True, width: float | None = None) -> list[Path]:
    """Draw the figures of a suite whose data, code or layout changed, and remove files of figures that no longer exist.

    title: whether figures have a title inside. width: in inches. Returns the paths of the files of all figures.
    """
    plots, width = plots_of_suite(report), width or base.DEFAULT_WIDTH_INCHES
    for path in _stale_files(plots, folder):
        path.unlink()
    for name, plot in plots.items():
        stamp = plot.stamp(width, title)
        if any(base.read_stamp(path) != stamp for path in base.figure_paths(folder, name)):
            draw = partial(DRAW[name.partition("/")[0]], plot, width, plot.title if title else None)
            base.write_figure(draw, folder, name, width, plot.title, stamp)
    return [path for name in plots for path in base.figure_paths(folder, name)]


def check_figures(report: SuiteReport, folder: Path) -> list[str]:
    """A sentence for each file of a figure that is missing, superfluous, or not drawn from this data by this code."""
    plots = plots_of_suite(report)
    problems = [
        f"{path}: not drawn from these records by this code"
        for name, plot in plots.items()
        for path in base.figure_paths(folder, name)
        if plot.digest not in base.read_stamp(path)
    ]
    return problems + [f"{path}: no record gives this file" for path in _stale_files(plots, folder)]


def _stale_files(plots: dict[str, base.Plot], folder: Path) -> list[Path]:
    """The files in the places of figures that these plots do not have."""
    plain = [name for name in DRAW if name != "curves"]
    places = [path for name in (*plain, "curves/*") for path in base.figure_paths(folder, name)]
    found = {path for place in places for path in folder.glob(str(place.relative_to(folder)))}
    return sorted(found - {path for name in plots for path in base.figure_paths(folder, name)})

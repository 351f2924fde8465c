"""The figures of a suite, in `results/<suite>/`, as SVG and PNG in light and dark, and as PDF for papers.

    overview                   gains over the baseline with confidence intervals
    cost                       accuracy against the device time per run
    suite                      all curves side by side, if there are several students or datasets
    curves/<model>-<dataset>   test accuracy per epoch of a student on a dataset

Renderers differ between versions, so files are not compared by their bytes: each holds a digest of the data that it shows
and of the code that draws it.
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pandas as pd
from matplotlib import rc_context

from bench.cli import duration
from bench.report.figures.cost import draw_cost
from bench.report.figures.curves import draw_curves, draw_suite
from bench.report.figures.gains import draw_gains
from bench.report.figures.plot import CELL_COLUMNS, CURVE_COLUMNS, FILES, Plot, figure_name, figure_paths, read_stamp
from bench.report.figures.style import DEFAULT_WIDTH_INCHES, clean, figure_style
from bench.report.frame import BASELINE, CELL
from bench.storage import replacing

DRAW = {"overview": draw_gains, "cost": draw_cost, "suite": draw_suite, "curves": draw_curves}


def plots_of_suite(runs: pd.DataFrame, curves: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Plot]:
    """{path below the folder, without suffix: plot} of all figures that these frames give."""
    if not cells["seeds"].any():
        return {}
    methods = tuple(sorted(cells["method"].unique(), key=lambda method: method != BASELINE))
    measure = "held-out accuracy" if (runs["evaluated_on"] == "holdout").any() else "test accuracy"
    cells, curves = cells[CELL_COLUMNS], curves.loc[~curves["diverged"], CURVE_COLUMNS]
    teachers = runs.dropna(subset=["teacher_key"]).drop_duplicates("teacher_key")
    times = ", ".join(f"{clean(row.teacher_id, 60)} {duration(row.teacher_seconds)}" for row in teachers.itertuples())
    remark = f"Not included: training the teachers that all runs share ({times})." if times else ""
    whole = Plot("Accuracy per epoch of all students and datasets", cells, curves, methods, measure)
    plots = {"cost": Plot("Accuracy against training time", cells, curves.iloc[:0], methods, measure, remark)}
    if cells["gain_mean"].notna().any():
        title = f"Gain of {clean(methods[1])} over {BASELINE}" if len(methods) == 2 else "Gains over the baseline"
        plots["overview"] = Plot(title, cells, curves.iloc[:0], methods, measure)
    pairs = cells.loc[cells["seeds"] > 0, CELL].drop_duplicates()
    if len(cells[CELL].drop_duplicates()) > 1:
        plots["suite"] = whole
    return plots | {f"curves/{figure_name(*pair)}": whole.of(*pair) for pair in pairs.itertuples(index=False)}


def write_figures(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    cells: pd.DataFrame,
    folder: Path,
    *,
    title: bool = True,
    width: float | None = None,
) -> list[Path]:
    """Draw the figures of a suite whose data, code or layout changed, and remove files of figures that no longer exist.

    Args:
        runs, curves, cells: see `bench.report.frame` and `bench.report.stats`.
        title: whether figures have a title inside.
        width: in inches, of a paper's column for example.

    Returns:
        The paths of the files of all figures.
    """
    plots, width = plots_of_suite(runs, curves, cells), width or DEFAULT_WIDTH_INCHES
    for path in _stale_files(plots, folder):
        path.unlink()
    for name, plot in plots.items():
        if any(read_stamp(path) != plot.stamp(width, title) for path in figure_paths(folder, name)):
            _draw(name, plot, folder, width, title)
    return [path for name in plots for path in figure_paths(folder, name)]


def check_figures(runs: pd.DataFrame, curves: pd.DataFrame, cells: pd.DataFrame, folder: Path) -> list[str]:
    """A sentence for each file of a figure that is missing, superfluous, or not drawn from this data by this code."""
    plots = plots_of_suite(runs, curves, cells)
    problems = [
        f"{path}: not drawn from these records by this code"
        for name, plot in plots.items()
        for path in figure_paths(folder, name)
        if plot.digest not in read_stamp(path)
    ]
    return problems + [f"{path}: no record gives this file" for path in _stale_files(plots, folder)]


def _stale_files(plots: dict[str, Plot], folder: Path) -> list[Path]:
    """The files in the places of figures that these plots do not have."""
    found = {path for path in folder.glob("curves/*") if path.suffix in (".svg", ".png", ".pdf")}
    found |= {path for name in DRAW for path in figure_paths(folder, name) if path.is_file()}
    return sorted(found - {path for name in plots for path in figure_paths(folder, name)})


def _draw(name: str, plot: Plot, folder: Path, width: float, title: bool) -> None:
    """Draw a figure and write its files, with its stamp instead of dates and versions."""
    stamp = plot.stamp(width, title)
    metadata = {
        "svg": {"Title": plot.title, "Description": stamp, "Creator": None, "Date": None},
        "png": {"Description": stamp, "Software": None},
        "pdf": {"Keywords": stamp, "Creator": None, "Producer": None, "CreationDate": None},
    }
    for style, files in itertools.groupby(FILES, key=lambda file: file[0]):
        with rc_context(figure_style(style, width)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn
            figure = DRAW[name.partition("/")[0]](plot, width, plot.title if title else None)
            for _, ending in files:
                with replacing(folder / f"{name}{ending}", sync=False) as temporary:
                    kind = ending.rpartition(".")[2]
                    figure.savefig(temporary, format=kind, metadata=metadata[kind])

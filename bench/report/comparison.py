"""Tables, figures and a page of recipes that no suite's file names: in `results/local/<name>/`."""

from __future__ import annotations

from pathlib import Path

from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.report.output import draw, write_if_changed, write_suite
from bench.report.page import render_page
from bench.report.records import local_runs
from bench.report.suite_report import SuiteReport
from bench.report.unite import unite
from bench.runs.folder import LOCAL


def write_comparison(
    registry: Registry, suite: Suite, results: str | Path, *, title: bool = True, width: float | None = None
) -> tuple[SuiteReport, Path] | None:
    """Write what a suite's folder has, for this machine's runs of a suite that has no file.

    title, width: see `write_figures`.

    Returns:
        The report, and the path of the page; None if no run has finished.
    """
    runs = local_runs(registry, suite, results)
    if not runs:
        return None
    report, folder = draw(registry, suite, unite(runs)), Path(results, LOCAL, suite.name)
    write_suite(report, folder, title=title, width=width)
    write_if_changed(folder / "index.html", render_page([report], in_folder=True))
    return report, folder / "index.html"

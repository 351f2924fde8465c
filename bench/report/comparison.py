"""Tables, figures and a page of recipes that no suite's file names: in `results/local/<name>/`."""

from __future__ import annotations

from pathlib import Path

from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.report.commands import suite_texts
from bench.report.figures import write_figures
from bench.report.page import render_page
from bench.report.records import local_runs
from bench.report.suite_report import SuiteReport, build_suite_report
from bench.runs.folder import LOCAL
from bench.storage import write_text


def write_comparison(registry: Registry, suite: Suite, results: str | Path) -> tuple[SuiteReport, Path] | None:
    """Write what a suite's folder has for this machine's runs of a suite that has no file.

    Returns:
        The report, and the path of the page; None if no run has finished.
    """
    runs = local_runs(registry, suite, results)
    if not runs:
        return None
    report, folder = build_suite_report(registry, suite, runs), Path(results, LOCAL, suite.name)
    for name, text in {**suite_texts(report), "index.html": render_page([report])}.items():
        write_text(folder / name, text)
    write_figures(report, folder)
    return report, folder / "index.html"

"""This machine's results: `results/local/<suite>/` with records, tables and figures, and the page of all its suites."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from bench.cli import count
from bench.config.numerics import NOT_HERE, numerics_versions
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.config.suite import Suite
from bench.report.definition import find_suite, recipes_by_key, stored_suites, write_definition
from bench.report.output import FigureOptions, draw, write_if_changed, write_suite
from bench.report.page import render_page
from bench.report.records import (
    by_code,
    current_runs,
    local_runs,
    of_same_images,
    read_committed,
    records_path,
    runs_of_other_suites,
)
from bench.report.suite_report import SuiteReport
from bench.report.unite import unite
from bench.runs.finished import FinishedRun
from bench.runs.folder import LOCAL

LOG = logging.getLogger(__name__)


def write_local(
    registry: Registry,
    results: str | Path,
    names: Sequence[str] | None = None,
    *,
    with_published: bool = False,
    **figures: Unpack[FigureOptions],
) -> list[SuiteReport]:
    """Write records, tables and figures of this machine's runs to `results/local/<suite>/`, and the page of all its suites.

    Args:
        names: suites that are written, if they have runs; the page has them and those that were written before. None: all.
        with_published: draw them together with the published runs, also with those that other suites have.

    Raises:
        RecipeError: a named suite is unknown, or a run is damaged.
    """
    results = Path(results)
    local = results / LOCAL
    known = {*registry.names("suites"), *(stored_suites(results) if with_published else ())} if names is None else names
    reports = []
    for name in sorted({*known, *stored_suites(local)}):
        try:
            suite = find_suite(registry, name, local / name, results / name)
            if runs := local_runs(registry, suite, results):
                write_definition(suite, local / name)
                write_if_changed(records_path(local, name), "".join(run.to_line() for run in runs))
            wanted = with_published and (names is not None or runs or read_committed(results, name))
            published = _published(registry, suite, results, runs) if wanted else ()
            report = _draw(registry, results, suite, runs, published)
        except RecipeError as error:
            if names is None or name in names:
                raise
            LOG.warning(f"suite {name} is left out of the page: {error}")
            continue
        if report is not None:
            reports.append(report)
    reports.sort(key=lambda report: report.suite.reading_order)
    chosen = [report for report in reports if names is None or report.suite.name in names]
    for report in chosen:
        write_suite(report, local / report.suite.name, **figures)
    if reports:
        write_if_changed(local / "index.html", render_page(reports))
    return chosen


def _published(registry: Registry, suite: Suite, results: Path, local: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The published runs of a suite, then those of its recipes that other suites have, of the images of the local ones."""
    own = current_runs(registry, suite, read_committed(results, suite.name))
    try:
        others = runs_of_other_suites(registry, suite, results)
    except RecipeError as error:  # the files of another suite must not cost this one its report
        LOG.warning(f"without the runs that other suites have: {error}")
        others = []
    return of_same_images(local, [*own, *others])


def _draw(
    registry: Registry, results: Path, suite: Suite, runs: Sequence[FinishedRun], published: Sequence[FinishedRun] = ()
) -> SuiteReport | None:
    """The report of this machine's runs of a suite together with published ones, None if there are no runs."""
    if not runs and not published:
        return None
    united = unite([*by_code(registry, suite, runs, results), *published])
    others = sum(run not in runs for run in united.runs)
    note = [f"{others} of {count(len(united.runs), 'run')} are published ones."] if others else []
    return draw(registry, suite, united, [*note, *_not_compared(registry, suite, united.runs)])


def _not_compared(registry: Registry, suite: Suite, runs: Sequence[FinishedRun]) -> list[str]:
    """A sentence for each component whose file is not here; the versions in the records are then compared with no code."""
    keys = {run.key[:2] for run in runs}
    recipes = [recipe for key, recipe in recipes_by_key(registry, suite, runs).items() if key in keys]
    versions = [item for recipe in recipes for item in numerics_versions(recipe).items()]
    names = dict.fromkeys(name for name, version in versions if version == NOT_HERE)
    return [f"The file of {name} is not here, so its code was not compared." for name in names]


def write_selection(
    registry: Registry,
    suites: Sequence[Suite],
    results: str | Path,
    *,
    with_published: bool = False,
    **figures: Unpack[FigureOptions],
) -> tuple[list[SuiteReport], list[Path]]:
    """Write the results of suites that a command selects.

    A suite without a file of its name (recipe ids, or a suite that `--set` changes) has its own folder and page.

    with_published: see `write_local`.

    Returns:
        (a report for each suite that has runs, the pages).
    """
    results, reports, pages = Path(results), [], []
    if names := [suite.name for suite in suites if suite.name == suite.file]:
        reports += write_local(registry, results, names, with_published=with_published, **figures)
        pages += [results / LOCAL / "index.html"] if reports else []
    for suite in suites:
        if suite.name == suite.file or not suite.guidance:
            continue
        runs = local_runs(registry, suite, results)
        published = _published(registry, suite, results, runs) if with_published else ()
        if (report := _draw(registry, results, suite, runs, published)) is not None:
            folder = results / LOCAL / suite.name
            write_suite(report, folder, **figures)
            write_if_changed(folder / "index.html", render_page([report], in_folder=True))
            reports.append(report)
            pages.append(folder / "index.html")
    return reports, pages

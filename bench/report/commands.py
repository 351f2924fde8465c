"""The verb `report`: tables, figures and a page of this machine's runs, or a check of the committed ones."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from bench.cli import DONE, PROBLEMS, add_folders, add_selection, count, selected_suites
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.report import tables
from bench.report.committed import check_committed, read_committed
from bench.report.comparison import write_comparison
from bench.report.definition import find_suite, stored_suites, write_definition
from bench.report.output import draw, write_if_changed, write_suite
from bench.report.page import render_page
from bench.report.records import PublishedRun, count_other_runs, current_runs, local_runs, write_runs
from bench.report.suite_report import SuiteReport
from bench.report.unite import unite
from bench.runs.folder import LOCAL, runs_dir

LOG = logging.getLogger(__name__)


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    add_selection(parser)
    parser.add_argument("--suite", help=argparse.SUPPRESS)  # of earlier versions
    parser.add_argument(
        "--with-published", action="store_true", help="together with the committed runs of the same recipes"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a committed file is not as published")
    add_figure_options(parser)
    add_folders(parser, data=False)


def add_figure_options(parser: argparse.ArgumentParser) -> None:
    """How figures are drawn."""
    parser.add_argument("--no-title", action="store_true", help="figures without a title, for papers")
    parser.add_argument("--figure-width", type=float, metavar="INCHES", help="3.25 for example, the column of a paper")


def figure_options(arguments: argparse.Namespace) -> dict[str, bool | float | None]:
    """The options of `add_figure_options` as `write_figures` takes them. Raises RecipeError for an impossible width."""
    width = arguments.figure_width
    if width is not None and not 1 <= width <= 30:
        raise RecipeError(f"--figure-width: got {width:g}, allowed from 1 to 30 inches")
    return {"title": not arguments.no_title, "width": width}


def run_report(arguments: argparse.Namespace) -> int:
    """Draw what this machine has run, or check what is committed."""
    results, figures = Path(arguments.results_dir), figure_options(arguments)
    if arguments.suite is not None:
        raise RecipeError(f"report: --suite is no option any more: write python -m bench report {arguments.suite}")
    names, registry = arguments.what or None, Registry(*arguments.recipes_dir)
    if arguments.check:
        return _check(results, names or stored_suites(results))
    if arguments.set or arguments.protocol or any("/" in word for word in arguments.what):
        suites = selected_suites(arguments, registry)
        names = [suite.name for suite in suites if suite.name == suite.file]
        for suite in (suite for suite in suites if suite.name != suite.file and suite.guidance):
            if (drawn := write_comparison(registry, suite, results, **figures)) is None:
                raise RecipeError(f"no run of {', '.join(suite.ids)} has finished: python -m bench compare runs recipes")
            print_report([drawn[0]])
            print(f"tables, figures and page: {drawn[1]}")
        if not names:
            return DONE
    reports, others = write_local(registry, results, names, with_published=arguments.with_published, **figures)
    if not reports and (names or not others):
        raise RecipeError(
            f"{', '.join(names or ('report',))}: no run below {runs_dir(results)} has finished: run ./run_all.sh"
            f" {names[0] if names else 'quick'} (`python -m bench publish` draws the committed results)"
        )
    print_report(reports)
    if reports:
        print(f"tables, figures and page: {results / LOCAL / 'index.html'}")
    if others:
        words = "run of this machine belongs" if others == 1 else "runs of this machine belong"
        print(f"{others} {words} to no suite: `python -m bench compare ID…` shows the runs of recipes")
    return DONE


def _check(results: Path, names: Sequence[str]) -> int:
    if not names:
        raise RecipeError(f"--results-dir {results}: no suite has committed records here")
    if problems := check_committed(results, names):
        print("\n".join(problems), file=sys.stderr)
        return PROBLEMS
    print(f"{', '.join(names)}: every file is what the records give")
    return DONE


def write_local(
    registry: Registry,
    results: str | Path,
    names: Sequence[str] | None = None,
    *,
    with_published: bool = False,
    title: bool = True,
    width: float | None = None,
) -> tuple[list[SuiteReport], int]:
    """Write records, tables and figures of this machine's runs to `results/local/<suite>/`, and the page of all its suites.

    Args:
        names: suites that are written, if they have runs; None: all that have.
        with_published: draw them together with the committed runs.
        title, width: see `write_figures`.

    Returns:
        (the reports of the suites, the number of this machine's runs that are in no suite).

    Raises:
        RecipeError: a named suite is unknown, or a run is damaged.
    """
    results = Path(results)
    local = results / LOCAL
    known = {*registry.names("suites"), *stored_suites(local), *(stored_suites(results) if with_published else ())}
    reports, found = {}, []
    for name in sorted(known | set(names or ())):
        try:
            report, runs = _draw_local(registry, results, name, with_published)
        except RecipeError as error:
            if names is None or name in names:
                raise
            LOG.warning(f"suite {name} is left out of the page: {error}")
            continue
        found += runs
        if report is not None:
            reports[name] = report
    chosen = [name for name in reports if names is None or name in names]
    for name in chosen:
        write_suite(reports[name], local / name, title=title, width=width)
    if reports:
        write_if_changed(local / "index.html", render_page(list(reports.values())))
    return [reports[name] for name in chosen], count_other_runs(registry, results, found)


def _draw_local(
    registry: Registry, results: Path, name: str, with_published: bool
) -> tuple[SuiteReport | None, list[PublishedRun]]:
    """The report of a suite, None if it has no runs, and its runs of this machine, which are stored with its definition."""
    local = results / LOCAL
    suite, content = find_suite(registry, name, local / name, results / name)
    runs = local_runs(registry, suite, results)
    if runs:
        write_definition(content, local / name)
        write_runs(runs, local, name)
    committed = current_runs(registry, suite, read_committed(results, name)) if with_published else []
    united = unite([*runs, *committed])
    if not united.runs:
        return None, runs
    published = sum(run not in runs for run in united.runs)
    note = [f"{published} of {count(len(united.runs), 'run')} are published ones."] if published else []
    return draw(registry, suite, united, note), runs


def print_report(reports: Sequence[SuiteReport]) -> None:
    """Print the headline of suites."""
    for report in reports:
        table = tables.accuracy_table(report)
        text = tabulate(table, headers="keys", showindex=False, disable_numparse=True)
        print("\n".join([f"suite {report.suite.name}", "", text, tables.accuracy_note(report), *report.remarks, ""]))

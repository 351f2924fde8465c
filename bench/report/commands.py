"""The verb `report`: tables, figures and a page of this machine's runs, or a check of the published ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from bench.cli import DONE, PROBLEMS, add_folders, add_selection, selected_suites
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.report import tables
from bench.report.committed import check_committed
from bench.report.definition import stored_suites
from bench.report.local import write_local, write_selection
from bench.report.output import FigureOptions
from bench.report.records import other_runs_note
from bench.report.suite_report import SuiteReport
from bench.runs.folder import LOCAL, runs_dir


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    add_selection(parser)
    parser.add_argument("--with-published", action="store_true", help="together with published runs of the same recipes")
    parser.add_argument("--check", action="store_true", help="check that the published files are what their records give")
    add_figure_options(parser)
    add_folders(parser, data=False)


def add_figure_options(parser: argparse.ArgumentParser) -> None:
    """How figures are drawn."""
    parser.add_argument("--no-title", action="store_true", help="figures without a title, for papers")
    parser.add_argument("--figure-width", type=float, metavar="INCHES", help="3.25 for example, the column of a paper")


def figure_options(arguments: argparse.Namespace) -> FigureOptions:
    """The options of `add_figure_options`. Raises RecipeError for an impossible width."""
    width = arguments.figure_width
    if width is not None and not 1 <= width <= 30:
        raise RecipeError(f"--figure-width: got {width:g}, allowed from 1 to 30 inches")
    return {"title": not arguments.no_title, "width": width}


def run_report(arguments: argparse.Namespace) -> int:
    """Draw what this machine has run, or check what is published."""
    results, figures = Path(arguments.results_dir), figure_options(arguments)
    names, registry = arguments.what, Registry(*arguments.recipes_dir)
    if arguments.check:
        return _check(results, names or stored_suites(results))
    options = {"with_published": arguments.with_published, **figures}
    options_of_ids = arguments.protocol or arguments.suite or arguments.reference
    if arguments.set or options_of_ids or any("/" in word for word in names):
        suites = selected_suites(arguments, registry)
        reports, pages = write_selection(registry, suites, results, **options)
        drawn = [report.suite.name for report in reports]
        for suite in suites:
            if suite.guidance and suite.name not in drawn:
                what = ", ".join(suite.ids) if suite.recipes else f"suite {suite.name}"
                raise RecipeError(f"no run of {what} has finished: python -m bench compare runs recipes, sweep runs suites")
        others = None
    else:
        reports = write_local(registry, results, names or None, **options)
        pages = [results / LOCAL / "index.html"] if reports else []
        others = other_runs_note(registry, results)
        if not reports and (names or others is None):
            raise RecipeError(
                f"{', '.join(names or ('report',))}: no run below {runs_dir(results)} has finished: run ./run_all.sh"
                f" {names[0] if names else 'quick'} (`python -m bench publish` draws the published results)"
            )
    print_report(reports)
    for page in pages:
        print(f"tables, figures and page: {page}")
    if others is not None:
        print(others)
    return DONE


def _check(results: Path, names: Sequence[str]) -> int:
    if not names:
        raise RecipeError(f"--results-dir {results}: no suite has published records here")
    if problems := check_committed(results, names):
        print("\n".join(problems), file=sys.stderr)
        return PROBLEMS
    print(f"{', '.join(names)}: every file is what the records give")
    return DONE


def print_report(reports: Sequence[SuiteReport]) -> None:
    """Print the headline of suites."""
    for report in reports:
        table = tables.accuracy_table(report)
        text = tabulate(table, headers="keys", showindex=False, disable_numparse=True)
        print("\n".join([f"suite {report.suite.name}", "", text, tables.accuracy_note(report), *report.remarks, ""]))

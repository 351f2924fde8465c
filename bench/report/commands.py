"""The verb `report`: tables, figures and the page from the records, or a check that they are what the records give."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from bench.cli import DONE, PROBLEMS, add_folders
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.config.suite import Suite
from bench.report import documents, tables
from bench.report.figures import check_figures, write_figures
from bench.report.page import render_page
from bench.report.records import (
    PublishedRun,
    current_runs,
    gather_runs,
    mismatches,
    read_runs,
    records_path,
    suites_with_records,
)
from bench.report.suite_report import SuiteReport, build_suite_report
from bench.storage import write_text

DIGITS = 6  # of numbers in files: libraries differ in the last bits, and files are compared byte by byte
FORMATTERS = ("pandas", "tabulate", "matplotlib", "jinja2")  # their versions may change the text of files
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    parser.add_argument("--suite", metavar="NAME", help="one suite instead of all that have records")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not what the records give")
    parser.add_argument("--no-title", action="store_true", help="figures without a title, for papers")
    parser.add_argument("--figure-width", type=float, metavar="INCHES", help="3.25 for example, the column of a paper")
    add_folders(parser, data=False)


def run_report(arguments: argparse.Namespace) -> int:
    """Write the report, or check it."""
    registry, results, width = Registry(*arguments.recipes_dir), Path(arguments.results_dir), arguments.figure_width
    if width is not None and not 1 <= width <= 30:
        raise RecipeError(f"--figure-width: got {width:g}, allowed from 1 to 30 inches")
    names = [arguments.suite] if arguments.suite is not None else suites_with_records(registry, results)
    if not names:
        raise RecipeError(f"--results-dir {results}: no suite has records here")
    suites = [registry.suite(name) for name in names]
    if not arguments.check:
        print_report(write_report(registry, suites, results, title=not arguments.no_title, width=width))
        print(f"tables, figures and page: {results / 'index.html'}")
        return DONE
    if problems := check_report(registry, suites, results):
        print("\n".join(problems), file=sys.stderr)
        return PROBLEMS
    print(f"{', '.join(names)}: every file is what the records give")
    return DONE


def write_report(
    registry: Registry, suites: Sequence[Suite], results: str | Path, *, title: bool = True, width: float | None = None
) -> list[SuiteReport]:
    """Gather new runs of these suites, then write their tables and figures, and the page and READMEs of all suites.

    title, width: see `write_figures`. Returns the reports of these suites.

    Raises:
        RecipeError: a suite has no runs, or a record is damaged.
    """
    results, names = Path(results), [suite.name for suite in suites]
    gathered = {suite.name: gather_runs(registry, suite, results) for suite in suites}
    for name, runs in gathered.items():
        if not runs:
            raise RecipeError(f"suite {name}: no run below {results} has finished: run ./run_all.sh {name}")
    reports = _reports(registry, results, gathered)
    for path, text in _texts(reports, results, names).items():
        if _read(path) != text:
            write_text(path, text)
    for name in names:
        write_figures(reports[name], results / name, title=title, width=width)
    return [reports[name] for name in names]


def print_report(reports: Sequence[SuiteReport]) -> None:
    """Print the headline of suites."""
    for report in reports:
        table = tables.accuracy_table(report)
        text = tabulate(table, headers="keys", showindex=False, disable_numparse=True)
        print("\n".join([f"suite {report.suite.name}", "", text, tables.accuracy_note(report), *report.remarks, ""]))


def check_report(registry: Registry, suites: Sequence[Suite], results: str | Path) -> list[str]:
    """A sentence for each generated file that is not what the records give; writes nothing.

    Text that other versions of libraries may have formatted is not compared: the versions are printed instead.
    """
    results, problems, found = Path(results), [], {}
    for suite in suites:
        found[suite.name] = runs = read_runs(results, suite.name)
        if not runs:
            problems.append(f"{records_path(results, suite.name)}: missing or empty")
        problems += mismatches(registry, suite, runs)
    if problems:
        return problems
    reports = _reports(registry, results, found)
    different = [path for path, text in _texts(reports, results, list(found)).items() if _read(path) != text]
    if different and (versions := _other_versions()):
        print(f"{', '.join(map(str, different))}: not compared, since {', '.join(versions)}")
    else:
        problems += [f"{path}: differs from what the records give" for path in different]
    for name in found:
        problems += check_figures(reports[name], results / name)
    return problems


def _reports(registry: Registry, results: Path, known: Mapping[str, Sequence[PublishedRun]]) -> dict[str, SuiteReport]:
    """The reports of all suites that have runs, by name. known: runs that have been read already."""
    out = {}
    for name in suites_with_records(registry, results):
        suite = registry.suite(name)
        if runs := known[name] if name in known else current_runs(registry, suite, read_runs(results, name)):
            out[name] = build_suite_report(registry, suite, runs)
    return out


def _texts(reports: Mapping[str, SuiteReport], results: Path, names: Sequence[str]) -> dict[Path, str]:
    """The text files of these suites, and those that show all suites.

    Of a README.md, also of the one beside the results folder, only the parts between markers are written.
    """
    out = {}
    for name in names:
        out |= {results / name / file: text for file, text in suite_texts(reports[name]).items()}
    everything = list(reports.values())
    out[results / "index.html"] = render_page(everything)
    readme, beside = results / "README.md", results.absolute().parent / "README.md"
    out[readme] = documents.fill_readme(_read(readme) or documents.NEW_README, everything)
    if (text := _read(beside)) is not None:
        out[beside] = documents.fill_readme(text, everything, f"{results.absolute().name}/")
    return out


def suite_texts(report: SuiteReport) -> dict[str, str]:
    """{name: content} of a suite's tables."""
    return {
        "table.md": documents.markdown(report),
        "table.tex": documents.latex(report),
        "table.csv": report.cells.round(DIGITS).to_csv(index=False, lineterminator="\n"),
        "table.json": _json(report),
    }


def _json(report: SuiteReport) -> str:
    """`table.json`: cells and the gains of every seed, for other programs."""
    content = {"suite": report.suite.name, "protocol": report.suite.protocol}
    content |= {"reference": report.suite.reference, "settings": report.settings, "remarks": report.remarks}
    for name, frame in (("cells", report.cells), ("pairs", report.pairs)):
        content[name] = json.loads(frame.to_json(orient="records", double_precision=DIGITS))
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _other_versions() -> list[str]:
    """The formatting libraries whose version is not the tested one in constraints.txt, which only a checkout has."""
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", (_read(CONSTRAINTS) or "").lower(), re.MULTILINE))
    installed = {name: importlib.metadata.version(name) for name in FORMATTERS}
    return [
        f"{name} is {version}, tested with {tested[name]}"
        for name, version in installed.items()
        if tested.get(name, version) != version
    ]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None

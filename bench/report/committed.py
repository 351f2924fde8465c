"""The published results, committed to git: `results/<suite>/`, results/index.html and the marked parts of README files.

They are drawn from suite.yaml and the records alone, with the recipes of this package: everybody draws the same.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.report import documents
from bench.report.definition import FILE, is_known, stored_suite, stored_suites, write_definition
from bench.report.figures import check_figures
from bench.report.output import FigureOptions, draw, read_text, table_files, write_if_changed, write_suite
from bench.report.page import render_page
from bench.report.records import REPRODUCTIONS, mismatches, read_committed, read_runs, records_path
from bench.report.suite_report import SuiteReport
from bench.report.unite import other_code_notes, unite

FORMATTERS = ("pandas", "tabulate", "matplotlib", "jinja2")  # their versions may change the text of files
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def write_committed(results: Path, names: Sequence[str], **figures: Unpack[FigureOptions]) -> list[SuiteReport]:
    """Write the tables and figures of these suites from their records, and the page and READMEs of all suites.

    Returns the reports of these suites.

    Raises:
        RecipeError: a suite has no runs, or runs that are not of its recipes.
    """
    registry = Registry()
    for name in names:
        if not (results / name / FILE).exists():
            write_definition(registry.suite(name), results / name)
    reports = _reports(registry, results, names)
    for name in names:
        write_suite(reports[name], results / name, **figures)
    for path, text in _shared_texts(reports, results).items():
        write_if_changed(path, text)
    return [reports[name] for name in names]


def check_committed(results: Path, names: Sequence[str]) -> list[str]:
    """A sentence for each published file of these suites that is not what the records give; writes nothing.

    Text that other versions of libraries may have formatted is not compared: the versions are printed instead.
    """
    registry = Registry()
    if problems := [problem for name in names for problem in _record_problems(registry, results, name)]:
        return problems
    reports = _reports(registry, results, names)
    texts = {results / n / file: text for n in names for file, text in table_files(reports[n]).items()}
    texts |= _shared_texts(reports, results)
    different = [path for path, text in texts.items() if read_text(path) != text]
    if different and (versions := _other_versions()):
        print(f"{', '.join(map(str, different))}: not compared, since {', '.join(versions)}")
    else:
        problems += [f"{path}: differs from what the records give" for path in different]
    for name in names:
        problems += check_figures(reports[name], results / name)
    return problems


def _record_problems(registry: Registry, results: Path, name: str) -> list[str]:
    """What is wrong with the definition and the records of a suite."""
    suite, path = stored_suite(results / name, name), records_path(results, name)
    if suite is None and not is_known(registry, name):
        return [f"{results / name / FILE}: missing, and no recipes/suites/{name}.yaml is here"]
    out = []
    if suite is None:
        out.append(f"{results / name / FILE}: missing: `python -m bench publish {name}` writes it")
    elif is_known(registry, name) and registry.suite(name).content != suite.content:
        out.append(
            f"{results / name / FILE}: differs from recipes/suites/{name}.yaml, which `python -m bench publish {name}`"
            " takes over"
        )
    if not (runs := read_runs(results, name)):
        return [*out, f"{path}: missing or empty"]
    counts = Counter(run.key for run in runs)
    out += [f"record {key[0]} seed {key[2]}: is there twice" for key, count in counts.items() if count > 1]
    everything = read_committed(results, name)
    out += mismatches(registry, suite or registry.suite(name), everything)
    try:
        united = unite(everything)
    except RecipeError as error:
        return [*out, str(error)]
    if not out and len(united.runs) + len(united.reproductions) < len(everything):
        place = records_path(results, name, REPRODUCTIONS)
        superfluous = [f"{place}: has runs that are in another line or of another recipe"]
        out = [*other_code_notes(united), *united.conflicts] or superfluous
    return out


def _reports(registry: Registry, results: Path, names: Sequence[str]) -> dict[str, SuiteReport]:
    """The reports of published suites, by name, in their reading order. One whose runs are not of its recipes is left out.

    Raises:
        RecipeError: a file is damaged, or a suite in `names` has no runs or others than its own.
    """
    out = {}
    for name in stored_suites(results):
        suite = stored_suite(results / name, name) or registry.suite(name)
        united = unite(read_committed(results, name))
        problems = mismatches(registry, suite, united.runs) if united.runs else [f"{results / name}: has no records"]
        if not problems:
            out[name] = draw(registry, suite, united)
        elif name in names:
            raise RecipeError(problems[0])
    return dict(sorted(out.items(), key=lambda item: item[1].suite.reading_order))


def _shared_texts(reports: Mapping[str, SuiteReport], results: Path) -> dict[Path, str]:
    """The page, and the README files of the results folder and beside it, of which only the marked parts are written."""
    everything = list(reports.values())
    readme, beside = results / "README.md", results.absolute().parent / "README.md"
    out = {results / "index.html": render_page(everything)}
    out[readme] = documents.fill_readme(read_text(readme) or documents.NEW_README, everything)
    if (text := read_text(beside)) is not None:
        out[beside] = documents.fill_readme(text, everything, f"{results.absolute().name}/")
    return out


def _other_versions() -> list[str]:
    """The formatting libraries whose version is not the tested one in constraints.txt, which only a checkout has."""
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", (read_text(CONSTRAINTS) or "").lower(), re.MULTILINE))
    installed = {name: importlib.metadata.version(name) for name in FORMATTERS}
    return [
        f"{name} is {version}, tested with {tested[name]}"
        for name, version in installed.items()
        if tested.get(name, version) != version
    ]

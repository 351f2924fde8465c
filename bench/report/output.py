"""What is written of a suite's runs: tables and figures in one folder, and the page of several suites."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.report import documents
from bench.report.figures import write_figures
from bench.report.records import current_runs
from bench.report.suite_report import SuiteReport, build_suite_report
from bench.report.teacher_seeds import components_frame, seed_tables
from bench.report.unite import United, other_code_notes
from bench.storage import write_text

DIGITS = 6  # of numbers in files: libraries differ in the last bits, and files are compared byte by byte


class FigureOptions(TypedDict, total=False):
    """How figures are drawn, see `write_figures`."""

    title: bool
    width: float | None


def draw(registry: Registry, suite: Suite, united: United, notes: Sequence[str] = ()) -> SuiteReport:
    """The report of a suite's runs. Its notes end with the given ones, and with the runs that other code made."""
    report = build_suite_report(registry, suite, current_runs(registry, suite, united.runs), united.reproductions)
    return dataclasses.replace(report, notes=[*report.notes, *notes, *other_code_notes(united)])


def table_files(report: SuiteReport) -> dict[str, str]:
    """{file name: text} of the tables of a suite."""
    return {
        "table.md": documents.markdown(report),
        "table.tex": documents.latex(report),
        "table.csv": report.cells.round(DIGITS).to_csv(index=False, lineterminator="\n"),
        "table.json": _json(report),
    }


def write_suite(report: SuiteReport, folder: Path, **figures: Unpack[FigureOptions]) -> None:
    """Write the tables and figures of a suite."""
    for name, text in table_files(report).items():
        write_if_changed(folder / name, text)
    write_figures(report, folder, **figures)


def write_if_changed(path: Path, text: str) -> None:
    """Write a text file, unless it has this text."""
    if read_text(path) != text:
        write_text(path, text)


def read_text(path: Path) -> str | None:
    """The text of a file; None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _json(report: SuiteReport) -> str:
    """`table.json`: cells, the gains of every seed, and what the seeds of teachers do, for other programs."""
    content = {"suite": report.suite.name, "protocol": report.suite.protocol}
    content |= {"reference": report.suite.reference, "settings": report.settings, "remarks": report.remarks}
    frames = {"cells": report.cells, "pairs": report.pairs}
    if by_seed := seed_tables(report):
        frames["teacher_seeds"] = components_frame(by_seed)
    for name, frame in frames.items():
        content[name] = json.loads(frame.to_json(orient="records", double_precision=DIGITS))
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

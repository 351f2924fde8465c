"""Tables and curves of a suite, drawn from `results/<suite>/records.jsonl` alone."""

from __future__ import annotations

from pathlib import Path

from bench.recipes import Registry, Suite
from bench.records import write_text
from bench.report import curves, gather, table
from bench.schema import RecipeError


def suites_with_records(registry: Registry, results: str | Path) -> list[str]:
    """The suites that have a records.jsonl, sorted."""
    return [name for name in registry.names("suites") if gather.records_path(results, name).is_file()]


def write(registry: Registry, suite: Suite, results: str | Path) -> str:
    """Gather what is new, then write records, table and curves; returns the table.

    Raises:
        RecipeError: nothing of the suite has been recorded.
    """
    records = gather.gather(registry, suite, results)
    if not records:
        raise RecipeError(f"suite {suite.name}: nothing is recorded below {results}: run ./run_all.sh {suite.name}")
    gather.save(records, results, suite.name)
    text = table.markdown(suite, records)
    write_text(_table_path(results, suite), text)
    expected = curves.figures(suite, records)
    for path in _stale(results, suite, expected):
        path.unlink()
    for name, figure in expected.items():
        curves.draw(figure, _curves_path(results, suite), name)
    return text


def check(registry: Registry, suite: Suite, results: str | Path) -> list[str]:
    """A sentence for every generated file that differs from what records.jsonl gives; writes nothing."""
    records = gather.load(results, suite.name)
    if not records:
        return [f"{gather.records_path(results, suite.name)}: missing or empty"]
    if problems := gather.mismatches(registry, suite, records):
        return problems
    path = _table_path(results, suite)
    if not path.is_file() or path.read_text(encoding="utf-8") != table.markdown(suite, records):
        problems.append(f"{path}: differs from what the records give")
    expected = curves.figures(suite, records)
    for name, figure in expected.items():
        for picture in curves.outdated(figure, _curves_path(results, suite), name):
            problems.append(f"{picture}: not drawn from these records by this code")
    problems += [f"{path}: no record gives this file" for path in _stale(results, suite, expected)]
    return problems


def _table_path(results: str | Path, suite: Suite) -> Path:
    return Path(results, suite.name, "table.md")


def _curves_path(results: str | Path, suite: Suite) -> Path:
    return Path(results, suite.name, "curves")


def _stale(results: str | Path, suite: Suite, expected: dict[str, curves.Figure]) -> list[Path]:
    """Pictures of cells that have no records any more."""
    pictures = [p for p in _curves_path(results, suite).glob("*") if p.suffix in (".svg", ".png")]
    return sorted(p for p in pictures if p.stem not in expected)

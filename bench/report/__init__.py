"""Tables and pictures of a suite, drawn from `results/<suite>/records.jsonl` alone."""

from __future__ import annotations

from pathlib import Path

from bench.recipes import Registry, Suite
from bench.records import write_text
from bench.report import gather, pictures, table
from bench.report.analysis import analyse
from bench.schema import RecipeError


def suites_with_records(registry: Registry, results: str | Path) -> list[str]:
    """The suites that have a records.jsonl, sorted."""
    return [name for name in registry.names("suites") if gather.records_path(results, name).is_file()]


def write(registry: Registry, suite: Suite, results: str | Path) -> str:
    """Gather what is new, then write records, table and pictures; returns the table.

    Raises:
        RecipeError: nothing of the suite has been recorded.
    """
    records = gather.gather(registry, suite, results)
    if not records:
        raise RecipeError(f"suite {suite.name}: nothing is recorded below {results}: run ./run_all.sh {suite.name}")
    gather.save(records, results, suite.name)
    text = table.markdown(suite, records)
    write_text(_table_path(results, suite), text)
    folder = Path(results, suite.name)
    wanted = pictures.wanted(analyse(registry, suite, records), records)
    for path in pictures.stale(wanted, folder):
        path.unlink()
    pictures.draw(wanted, folder)
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
    folder = Path(results, suite.name)
    wanted = pictures.wanted(analyse(registry, suite, records), records)
    problems += [f"{path}: not drawn from these records by this code" for path in pictures.outdated(wanted, folder)]
    problems += [f"{path}: no record gives this file" for path in pictures.stale(wanted, folder)]
    return problems


def _table_path(results: str | Path, suite: Suite) -> Path:
    return Path(results, suite.name, "table.md")

"""Everything in `results/` but the records themselves, drawn from `results/<suite>/records.jsonl` alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.config.schema import RecipeError
from bench.report import gather, index, latex, markdown, page, pictures, tidy
from bench.report.analysis import Analysis, analyse
from bench.report.gather import Record
from bench.storage import write_text


def suites_with_records(registry: Registry, results: str | Path) -> list[str]:
    """The suites that have a records.jsonl, sorted."""
    return [name for name in registry.names("suites") if gather.records_path(results, name).is_file()]


def write(registry: Registry, suites: Sequence[Suite], results: str | Path) -> list[str]:
    """Gather what is new of these suites, then write their tables and pictures, and the page of all suites.

    Returns:
        The headline table of each of these suites.

    Raises:
        RecipeError: nothing of a suite has been recorded.
    """
    gathered = {}
    for suite in suites:
        gathered[suite.name] = records = gather.gather(registry, suite, results)
        if not records:
            raise RecipeError(f"suite {suite.name}: nothing is recorded below {results}: run ./run_all.sh {suite.name}")
    everything = _everything(registry, results, gathered)
    with ThreadPoolExecutor(1) as beside:  # pictures take as long as the rest, in processes of their own
        drawn = []
        for suite in suites:
            analysis, records = everything[suite.name]
            folder = Path(results, suite.name)
            wanted = pictures.wanted(analysis, records)
            for path in pictures.stale(wanted, folder):
                path.unlink()
            drawn.append(beside.submit(pictures.draw, wanted, folder))
        for suite in suites:
            for name, text in _texts(*everything[suite.name]).items():
                _write_if_changed(Path(results, suite.name, name), text)
        for path, text in _shared(results, everything).items():
            _write_if_changed(path, text)
        for drawing in drawn:
            drawing.result()
    return [markdown.plain(everything[suite.name][0]) for suite in suites]


def check(registry: Registry, suites: Sequence[Suite], results: str | Path) -> list[str]:
    """A sentence for every generated file that differs from what the records give; writes nothing."""
    problems = []
    for suite in suites:
        if not (records := gather.load(results, suite.name)):
            problems.append(f"{gather.records_path(results, suite.name)}: missing or empty")
        problems += gather.mismatches(registry, suite, records)
    if problems:
        return problems
    everything = _everything(registry, results, {})
    for suite in suites:
        analysis, records = everything[suite.name]
        folder = Path(results, suite.name)
        texts = {folder / name: text for name, text in _texts(analysis, records).items()}
        problems += [f"{path}: differs from what the records give" for path, text in texts.items() if _read(path) != text]
        wanted = pictures.wanted(analysis, records)
        problems += [f"{p}: not drawn from these records by this code" for p in pictures.outdated(wanted, folder)]
        problems += [f"{path}: no record gives this file" for path in pictures.stale(wanted, folder)]
    shared = _shared(results, everything)
    return problems + [f"{p}: differs from what the records give" for p, text in shared.items() if _read(p) != text]


def _everything(
    registry: Registry, results: str | Path, gathered: dict[str, list[Record]]
) -> dict[str, tuple[Analysis, list[Record]]]:
    """The analysis and the records of every suite that has any, by name."""
    out = {}
    for name in suites_with_records(registry, results):
        suite = registry.suite(name)
        records = gathered[name] if name in gathered else gather.load(results, name)
        if records:
            out[name] = analyse(registry, suite, records), records
    return out


def _texts(analysis: Analysis, records: list[Record]) -> dict[str, str]:
    """The text files of a suite, by name."""
    return {
        "table.md": markdown.document(analysis, records),
        "table.csv": tidy.to_csv(analysis),
        "table.tex": latex.document(analysis),
        "table.json": tidy.to_json(analysis),
    }


def _shared(results: str | Path, everything: dict[str, tuple[Analysis, list[Record]]]) -> dict[Path, str]:
    """The files that show all suites. Of a README.md, the one beside the results folder too, only what lies between its
    markers is written."""
    results = Path(results)
    out = {results / "index.html": page.html(list(everything.values()))}
    analyses = [analysis for analysis, _ in everything.values()]
    out[results / "README.md"] = index.with_tables(_read(results / "README.md") or index.NEW, analyses)
    if (text := _read(beside := results.absolute().parent / "README.md")) is not None:
        out[beside] = index.with_tables(text, analyses, f"{results.absolute().name}/")
    return out


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _write_if_changed(path: Path, text: str) -> None:
    if _read(path) != text:
        write_text(path, text)

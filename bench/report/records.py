"""The published runs of a suite: `results/<suite>/records.jsonl`, one run per line, history included."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite
from bench.runs.folder import RunFolder
from bench.runs.record import HISTORY_COLUMNS, Record, record_from_dict
from bench.storage import from_json, write_text

History = dict[str, list[float | None]]  # {column of HISTORY_COLUMNS: one value per epoch}


@dataclass(frozen=True)
class PublishedRun:
    """A finished run of a suite with its history."""

    suite: str
    record: Record
    history: History

    @property
    def name(self) -> str:
        """The run as errors name it."""
        return f"record {self.record.id} seed {self.record.seed}"


def records_path(results: str | Path, suite: str) -> Path:
    """The file that every table, figure and page of a suite is drawn from."""
    return Path(results, suite, "records.jsonl")


def suites_with_records(registry: Registry, results: str | Path) -> list[str]:
    """The suites that have a records.jsonl, sorted."""
    return [name for name in registry.names("suites") if records_path(results, name).is_file()]


def read_runs(results: str | Path, suite: str) -> list[PublishedRun]:
    """The runs in a suite's records.jsonl; none if there is no file. Raises RecipeError if a line is not a record."""
    path = records_path(results, suite)
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({type(error).__name__})") from None
    return [_parse(line, suite, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def write_runs(runs: Iterable[PublishedRun], results: str | Path, suite: str) -> None:
    """Write a suite's records.jsonl."""
    lines = (json.dumps({**run.record.to_dict(), "history": run.history}, allow_nan=False) + "\n" for run in runs)
    write_text(records_path(results, suite), "".join(lines))


def gather_runs(registry: Registry, suite: Suite, results: str | Path) -> list[PublishedRun]:
    """Merge the finished runs of this machine into a suite's records.jsonl; the file is only written if its runs change.

    Returns:
        All runs of the suite, as `current_runs` gives them. A run of this machine replaces the published one of its seed.
    """
    before = read_runs(results, suite.name)
    runs = current_runs(registry, suite, [*before, *local_runs(registry, suite, results)])
    if problems := mismatches(registry, suite, runs):
        raise RecipeError(f"{problems[0]}: move it away, or run it again with --force")
    if runs != before:
        write_runs(runs, results, suite.name)
    return runs


def current_runs(registry: Registry, suite: Suite, runs: Iterable[PublishedRun]) -> list[PublishedRun]:
    """The runs with the hashes that the suite's recipes have now, in the order of its recipes and of the seeds.

    Of several runs of a recipe and seed, the last one counts. Any seed counts.
    """
    order: dict[tuple[str, str], int] = {}
    for _, recipe in registry.suite_recipes(suite):
        order.setdefault((recipe.id, recipe.hash), len(order))
    found = {}
    for run in runs:
        if (recipe := (run.record.id, run.record.hash)) in order:
            found[order[recipe], run.record.seed] = run
    return [found[key] for key in sorted(found)]


def mismatches(registry: Registry, suite: Suite, runs: Iterable[PublishedRun]) -> list[str]:
    """A sentence for every run that is not of the suite as its recipes are now, is there twice, or contradicts itself."""
    hashes: dict[str, list[str]] = {}
    for _, recipe in registry.suite_recipes(suite):
        hashes.setdefault(recipe.id, []).append(recipe.hash)
    out, seen = [], set()
    for run in runs:
        recipe_id, run_hash = run.record.id, run.record.hash
        if (run.name, run_hash) in seen:
            out.append(f"{run.name}: is there twice")
        seen.add((run.name, run_hash))
        if recipe_id not in hashes:
            out.append(f"{run.name}: not in suite {suite.name}")
        elif run_hash not in hashes[recipe_id]:
            out.append(f"{run.name}: its hash {run_hash[:8]} is not its recipe's, {hashes[recipe_id][0][:8]}")
        elif problem := _contradiction(run):
            out.append(problem)
    return out


def _contradiction(run: PublishedRun) -> str | None:
    """A sentence if a record was changed: its seed or hash is not its recipe's, or its accuracies are not its history's."""
    record, accuracies = run.record, run.history["test_accuracy"]
    if record.recipe.get("seed") != record.seed or not 0 <= record.seed < 2**63:
        return f"{run.name}: its seed is not that of its recipe"
    try:  # the seed is not part of the hash, and all that the recipes of one method differ in
        hash_now = _hash_of(json.dumps({**record.recipe, "seed": 0}))
    except RecipeError as error:
        return f"{run.name}: its recipe cannot be read ({error})"
    if hash_now != record.hash:
        return f"{run.name}: its hash {record.hash[:8]} is not that of its recipe, {hash_now[:8]}"
    if not record.diverged and (record.last_accuracy, record.best_accuracy) != (accuracies[-1], max(accuracies)):
        return f"{run.name}: its last or best accuracy is not that of its history"
    return None


@functools.lru_cache(maxsize=4096)
def _hash_of(recipe: str) -> str:
    """The hash of a recipe in JSON. Raises RecipeError."""
    return recipe_from_dict(json.loads(recipe), "recipe").hash


def local_runs(registry: Registry, suite: Suite, results: str | Path) -> list[PublishedRun]:
    """The finished runs of this machine of a suite's recipes, in the order of its entries; any seed counts."""
    recipes = {(recipe.id, recipe.hash): recipe for _, recipe in registry.suite_recipes(suite)}
    return [run for recipe in recipes.values() for run in _runs_of(recipe, suite.name, results)]


def _runs_of(recipe: Recipe, suite: str, results: str | Path) -> Iterator[PublishedRun]:
    """The finished runs of a recipe on this machine."""
    for path in RunFolder(results, recipe).path.parent.glob(f"{recipe.hash[:8]}-seed*"):
        digits = path.name.partition("-seed")[2]
        if not digits.isdecimal():
            continue  # a run that --force has renamed
        seeded = recipe.with_seed(int(digits))
        folder = RunFolder(results, seeded)
        if (record := folder.record(seeded)) is not None:
            rows = folder.history()
            yield PublishedRun(suite, record, {name: [row[name] for row in rows] for name in HISTORY_COLUMNS})


def _parse(line: str, suite: str, where: str) -> PublishedRun:
    try:
        content = from_json(line)
    except ValueError:
        raise RecipeError(f"{where}: not JSON") from None
    record = record_from_dict(content, where)
    history = content.get("history")
    if problem := _history_problem(history, record.epochs):
        raise RecipeError(f"{where}: not a record: history{problem}")
    return PublishedRun(suite, record, {name: history[name] for name in HISTORY_COLUMNS})


def _history_problem(history: Any, epochs: int) -> str | None:
    """What is wrong with a history from JSON, as the end of a sentence."""
    if not isinstance(history, dict):
        return " is missing"
    for name in HISTORY_COLUMNS:
        values = history.get(name)
        if not isinstance(values, list) or len(values) != epochs:
            return f".{name} is not a list of {epochs} values"
        if not set(map(type, values)) <= {int, float, type(None)} or max(map(abs, filter(None, values)), default=0) > 1e300:
            return f".{name} has a value that is not a number"
    if history["epoch"] != list(range(1, epochs + 1)):
        return f".epoch does not count from 1 to {epochs}"
    if not all(value is not None and 0 <= value <= 100 for value in history["test_accuracy"]):
        return ".test_accuracy is not a list of numbers from 0 to 100"
    return None

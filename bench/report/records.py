"""The runs of a suite: committed ones in `results/<suite>/records.jsonl`, this machine's in `results/local/runs`.

A line of records.jsonl is a record with its history. reproductions.jsonl beside it has the same form: runs of the same
recipes and seeds from other machines. Needs no pandas.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.compose import recipe_from_dict
from bench.config.names import path_part
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite
from bench.report.definition import is_known, stored_suites, suite_recipes
from bench.runs.folder import LOCAL, RunFolder, runs_dir, runs_in_no_suite
from bench.runs.record import HISTORY_COLUMNS, Record, RunKey, record_from_dict, run_key, stale_parts
from bench.storage import from_json, write_text

RECORDS, REPRODUCTIONS = "records.jsonl", "reproductions.jsonl"
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

    @property
    def key(self) -> RunKey:
        """See `run_key`."""
        return run_key(self.record)


def records_path(results: str | Path, suite: str, file: str = RECORDS) -> Path:
    """The file that every table, figure and page of a suite is drawn from."""
    return Path(results, suite, file)


def read_runs(results: str | Path, suite: str, file: str = RECORDS) -> list[PublishedRun]:
    """The committed runs of a suite; none if there is no file. Raises RecipeError if a line is not a record."""
    path = records_path(results, suite, file)
    return read_file_of_runs(path, suite) if path.is_file() else []


def read_file_of_runs(path: Path, suite: str) -> list[PublishedRun]:
    """The runs in a file. Raises RecipeError if it cannot be read or a line is not a record."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({type(error).__name__})") from None
    return [_parse(line, suite, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def write_runs(runs: Sequence[PublishedRun], results: str | Path, suite: str, file: str = RECORDS) -> None:
    """Write runs of a suite, if the file does not have them already. No reproductions: no file."""
    path = records_path(results, suite, file)
    if file == REPRODUCTIONS and not runs:
        path.unlink(missing_ok=True)
    elif not path.is_file() or runs != read_runs(results, suite, file):
        lines = (json.dumps({**run.record.to_dict(), "history": run.history}, allow_nan=False) + "\n" for run in runs)
        write_text(path, "".join(lines))


def published_records(results: str | Path) -> dict[RunKey, Record]:
    """The records of all committed suites that this code would give again."""
    runs = (run for suite in stored_suites(results) for run in read_runs(results, suite))
    return {run.key: run.record for run in runs if not is_stale(run.record)}


def is_stale(record: Record, recipe: Recipe | None = None) -> bool:
    """Whether a record was made by code that computes something else than this code, as far as its recipe can be read.

    recipe: as the registry composes it, with the user's own files; None: that of the record.
    """
    try:
        return bool(stale_parts(record, recipe or _seedless_recipe(record)))
    except RecipeError:
        return False


def local_runs(registry: Registry, suite: Suite, results: str | Path) -> list[PublishedRun]:
    """The finished runs of this machine that belong to a suite, in its order. Any seed counts.

    Of a suite that the registry does not have, those that its last report found: `results/local/<suite>/records.jsonl`.

    Raises:
        RecipeError: a run is damaged or was changed.
    """
    if suite.file is None or is_known(registry, suite.file):
        recipes = {(recipe.id, recipe.hash): recipe for _, recipe in suite_recipes(registry, suite)}
        runs = [run for recipe in recipes.values() for run in _runs_of(recipe, suite.name, results)]
    else:
        runs = read_runs(Path(results, LOCAL), suite.name)
    for run in runs:
        if problem := _contradiction(run):
            raise RecipeError(f"{problem}: move it away, or run it again with --force")
    return current_runs(registry, suite, runs)


def _runs_of(recipe: Recipe, suite: str, results: str | Path) -> Iterator[PublishedRun]:
    """The finished runs of a recipe on this machine, without those that --force has renamed."""
    for path in RunFolder(results, recipe).path.parent.glob(f"{recipe.hash[:8]}-seed*"):
        digits = path.name.partition("-seed")[2]
        if digits.isdecimal():
            seeded = recipe.with_seed(int(digits))
            folder = RunFolder(results, seeded)
            if (record := folder.record(seeded)) is not None:
                rows = folder.history()
                yield PublishedRun(suite, record, {name: [row[name] for row in rows] for name in HISTORY_COLUMNS})


def count_other_runs(registry: Registry, results: str | Path, runs: Iterable[PublishedRun]) -> int:
    """The number of finished students of this machine that no suite of the registry has, and that are not among `runs`."""
    known = {(path_part(run.record.id), f"{run.record.hash[:8]}-seed{run.record.seed}") for run in runs}
    others = [folder.relative_to(runs_dir(results)) for folder in runs_in_no_suite(registry, results)]
    return sum(("+".join(folder.parts[:-1]), folder.name) not in known for folder in others)


def current_runs(registry: Registry, suite: Suite, runs: Sequence[PublishedRun]) -> list[PublishedRun]:
    """The runs with the hashes that the suite's recipes have now, in the order of its recipes and of the seeds."""
    order = {}
    for _, recipe in suite_recipes(registry, suite, runs):
        order.setdefault((recipe.id, recipe.hash), len(order))
    current = [run for run in runs if run.key[:2] in order]
    return sorted(current, key=lambda run: (order[run.key[:2]], run.record.seed))


def mismatches(registry: Registry, suite: Suite, runs: Sequence[PublishedRun]) -> list[str]:
    """A sentence for every run that is not of the suite as its recipes are now, or contradicts itself."""
    hashes: dict[str, list[str]] = {}
    for _, recipe in suite_recipes(registry, suite, runs):
        hashes.setdefault(recipe.id, []).append(recipe.hash)
    out = []
    for run in runs:
        recipe_id, run_hash = run.record.id, run.record.hash
        if recipe_id not in suite.ids:
            out.append(f"{run.name}: not in suite {suite.name}")
        elif problem := _contradiction(run):
            out.append(problem)
        elif run_hash not in (known := hashes.get(recipe_id, [])):
            wanted = f"its recipe's, {known[0][:8]}" if known else f"that of a recipe of suite {suite.name}"
            out.append(f"{run.name}: its hash {run_hash[:8]} is not {wanted}")
    return out


def _contradiction(run: PublishedRun) -> str | None:
    """A sentence if a record was changed: id, seed or hash are not its recipe's, or accuracies are not its history's."""
    record, accuracies = run.record, run.history["test_accuracy"]
    if problem := _history_problem(run.history, record.epochs):
        return f"{run.name}: its history{problem}"
    if record.recipe.get("seed") != record.seed or not 0 <= record.seed < 2**63:
        return f"{run.name}: its seed is not that of its recipe"
    if record.recipe.get("id") != record.id:
        return f"{run.name}: its id is not that of its recipe"
    try:
        recipe = _seedless_recipe(record)
    except RecipeError as error:
        return f"{run.name}: its recipe cannot be read ({error})"
    if recipe.hash != record.hash:
        return f"{run.name}: its hash {record.hash[:8]} is not that of its recipe, {recipe.hash[:8]}"
    if (record.teacher and record.teacher.hash) != (recipe.teacher and recipe.teacher.hash):
        return f"{run.name}: its teacher is not that of its recipe"
    if not record.diverged and (record.last_accuracy, record.best_accuracy) != (accuracies[-1], max(accuracies)):
        return f"{run.name}: its last or best accuracy is not that of its history"
    if not record.diverged and accuracies[record.best_epoch - 1] != record.best_accuracy:
        return f"{run.name}: its best epoch is not that of its history"
    return None


def _seedless_recipe(record: Record) -> Recipe:
    """The recipe of a record with seed 0. The seed is not hashed, and all that the recipes of one method differ in."""
    return _read_recipe(json.dumps({**record.recipe, "seed": 0}))


@functools.lru_cache(maxsize=4096)
def _read_recipe(recipe: str) -> Recipe:
    """A recipe in JSON. Raises RecipeError."""
    return recipe_from_dict(json.loads(recipe), "recipe")


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

"""The records of a suite: from the run folders into records.jsonl, a line a run, histories included."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.config.schema import RecipeError
from bench.runs.folder import RunFolder
from bench.runs.record import check_record
from bench.storage import from_json, write_text

Record = dict[str, Any]


def records_path(results: str | Path, suite: str) -> Path:
    """The file that every table and curve of a suite is drawn from."""
    return Path(results, suite, "records.jsonl")


def load(results: str | Path, suite: str) -> list[Record]:
    """The records of a suite as they were gathered; none where there is no file.

    Raises:
        RecipeError: a line is no record.
    """
    path = records_path(results, suite)
    if not path.is_file():
        return []
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({type(error).__name__})") from None
    for number, line in enumerate(lines, 1):
        where = f"{path} line {number}"
        try:
            record = from_json(line)
        except ValueError:
            raise RecipeError(f"{where}: not JSON") from None
        check_record(record, where)
        history = record.get("history")
        accuracies = history.get("test_accuracy") if isinstance(history, dict) else None
        if not isinstance(accuracies, list) or not accuracies or not _all_percent(accuracies):
            raise RecipeError(f"{where}: not a record: history.test_accuracy is no list of numbers from 0 to 100")
        records.append(record)
    return records


def _all_percent(values: list[Any]) -> bool:
    """Whether these are numbers from 0 to 100; of hundreds of thousands it is asked."""
    return set(map(type, values)) <= {int, float} and min(values) >= 0 and max(values) <= 100


def gather(registry: Registry, suite: Suite, results: str | Path) -> list[Record]:
    """What records.jsonl holds and what the run folders add or replace, in the order of the suite and of the seeds; kept
    there where that is another list than before.

    Only runs under the hash that the suite's recipes have now count; any seed does.
    """
    before = load(results, suite.name)
    known: dict[tuple[str, str], dict[int, Record]] = {}
    for record in before:
        known.setdefault((record["id"], record["hash"]), {})[record["seed"]] = record
    records = []
    for recipe_id in suite.ids:
        recipe = registry.compose(recipe_id, suite=suite)
        found = known.get((recipe.id, recipe.hash), {})
        for path in RunFolder(results, recipe).path.parent.glob(f"{recipe.hash[:8]}-seed*"):
            digits = path.name.partition("-seed")[2]
            if not digits.isdecimal():
                continue  # a run set aside by --force
            one = registry.compose(recipe_id, suite=suite, seed=int(digits))
            folder = RunFolder(results, one)
            if (record := folder.record(one)) is not None:
                rows = folder.history()
                found[one.seed] = {**record, "history": {name: [row[name] for row in rows] for name in rows[0]}}
        records += [found[seed] for seed in sorted(found)]
    for record in records:
        if contradiction := contradicts_itself(record):
            raise RecipeError(f"{contradiction}: set it aside, or run it again with --force")
    if records != before:
        lines = (json.dumps(record, allow_nan=False) + "\n" for record in records)
        write_text(records_path(results, suite.name), "".join(lines))
    return records


@functools.lru_cache(maxsize=4096)
def _hash_of(recipe: str) -> str:
    """The hash of a recipe in JSON; raises RecipeError."""
    return recipe_from_dict(json.loads(recipe), "recipe").hash


def contradicts_itself(record: Record) -> str | None:
    """A sentence where a record's hash is not that of the recipe it holds, or its accuracies are not those of its history;
    None where they are. Someone has changed it, or something has."""
    name = f"record {record['id']} seed {record['seed']}"
    content = record.get("recipe")
    if isinstance(content, dict) and content.get("seed") == record["seed"]:
        content = {**content, "seed": 0}  # no part of the hash, and the only thing that the recipes of an arm differ in
    try:
        hash_now = _hash_of(json.dumps(content))
    except RecipeError as error:
        return f"{name}: holds no recipe that can be read ({error})"
    accuracies = record["history"]["test_accuracy"]
    told = (record.get("last_accuracy"), record.get("best_accuracy"))
    if hash_now != record["hash"]:
        return f"{name}: its hash {record['hash'][:8]} is not that of the recipe it holds, {hash_now[:8]}"
    if not record.get("diverged") and told != (accuracies[-1], max(accuracies)):
        return f"{name}: its last or best accuracy is not that of its history"
    return None


def mismatches(registry: Registry, suite: Suite, records: list[Record]) -> list[str]:
    """A sentence for every record that is not of this suite as its recipes are now."""
    hashes = {recipe_id: registry.compose(recipe_id, suite=suite).hash for recipe_id in suite.ids}
    out = []
    for record in records:
        name = f"record {record['id']} seed {record['seed']}"
        if record["id"] not in hashes:
            out.append(f"{name}: not in suite {suite.name}")
        elif record["hash"] != hashes[record["id"]]:
            out.append(f"{name}: its hash {record['hash'][:8]} is not its recipe's, {hashes[record['id']][:8]}")
        elif contradiction := contradicts_itself(record):
            out.append(contradiction)
    return out

"""The runs of a suite: published ones in `results/<suite>/records.jsonl`, this machine's in `results/local/runs`.

A line of records.jsonl is a record with its history. reproductions.jsonl beside it has the same form: runs of the same
recipes and seeds from other machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bench.cli import count
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite
from bench.report.definition import is_known, recipes_by_key, stored_suites
from bench.runs.finished import FinishedRun, is_stale, run_from_folder, run_from_line, seedless_recipe
from bench.runs.folder import LOCAL, RunFolder, finished_runs
from bench.runs.record import Record, RunKey
from bench.storage import write_text

RECORDS, REPRODUCTIONS = "records.jsonl", "reproductions.jsonl"


def records_path(results: str | Path, suite: str, file: str = RECORDS) -> Path:
    """The file that every table, figure and page of a suite is drawn from."""
    return Path(results, suite, file)


def read_runs(results: str | Path, suite: str, file: str = RECORDS) -> list[FinishedRun]:
    """The published runs of a suite; none if there is no file. Raises RecipeError if a line is not a record."""
    path = records_path(results, suite, file)
    return read_file_of_runs(path, suite) if path.is_file() else []


def read_committed(results: str | Path, suite: str) -> list[FinishedRun]:
    """The published runs of a suite, then the reproductions of them."""
    return [*read_runs(results, suite), *read_runs(results, suite, REPRODUCTIONS)]


def read_file_of_runs(path: Path, suite: str) -> list[FinishedRun]:
    """The runs in a file. Raises RecipeError if it cannot be read or a line is not a record."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({type(error).__name__})") from None
    return [run_from_line(line, suite, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def write_runs(runs: Sequence[FinishedRun], results: str | Path, suite: str, file: str = RECORDS) -> None:
    """Write runs of a suite, if the file does not have them already. No reproductions: no file."""
    path = records_path(results, suite, file)
    if file == REPRODUCTIONS and not runs:
        path.unlink(missing_ok=True)
    elif not path.is_file() or runs != read_runs(results, suite, file):
        write_text(path, "".join(run.to_line() for run in runs))


def published_records(results: str | Path) -> dict[RunKey, Record]:
    """The records of all published suites, without those of other code."""
    runs = (run for suite in stored_suites(results) for run in read_runs(results, suite))
    return {run.key: run.record for run in runs if not is_stale(run.record)}


def runs_of_other_suites(registry: Registry, suite: Suite, results: str | Path) -> list[FinishedRun]:
    """The published runs of a suite's recipes that other suites have: `sweep --skip-published` leaves them out."""
    names = [name for name in stored_suites(results) if name != suite.name]
    runs = [replace(run, suite=suite.name) for name in names for run in read_committed(results, name)]
    return current_runs(registry, suite, runs)


def of_same_images(runs: Iterable[FinishedRun], others: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs of `others` that have the same images as the first run of their recipe, in `runs` or else in `others`."""
    images: dict[str, str] = {}
    for run in (*runs, *others):
        images.setdefault(run.record.hash, run.record.dataset.fingerprint)
    return [run for run in others if run.record.dataset.fingerprint == images[run.record.hash]]


def local_runs(registry: Registry, suite: Suite, results: str | Path) -> list[FinishedRun]:
    """The finished runs of this machine that belong to a suite, in its order. Any seed counts.

    Of a suite that the registry does not have, those that its last report found: `results/local/<suite>/records.jsonl`.

    Raises:
        RecipeError: a run is damaged or was changed.
    """
    if suite.file is None or is_known(registry, suite.file):
        folders = _folders_of(finished_runs(results), recipes_by_key(registry, suite).values(), results)
        found = ((folder.name, run_from_folder(folder, suite.name)) for folder in folders)
        # a folder with the record of another run does not count
        runs = [run for name, run in found if name == f"{run.record.hash[:8]}-seed{run.record.seed}"]
    else:
        runs = read_runs(Path(results, LOCAL), suite.name)
    for run in runs:
        if problem := run.contradiction:
            raise RecipeError(f"{problem}: move it away, or run it again with --force")
    return current_runs(registry, suite, runs)


def by_code(registry: Registry, suite: Suite, runs: Sequence[FinishedRun], results: str | Path) -> list[FinishedRun]:
    """This machine's runs in the order in which they count: those of the code that is here, then the newest first."""
    recipes = recipes_by_key(registry, suite, runs)

    def rank(run: FinishedRun) -> tuple[bool, float]:
        recipe = recipes[run.key[:2]]
        path = RunFolder(results, recipe.with_seed(run.record.seed)).path / "record.json"
        return is_stale(run.record, recipe), -path.stat().st_mtime if path.exists() else 0.0

    return sorted(runs, key=rank)


def runs_in_no_suite(registry: Registry, results: str | Path) -> list[Path]:
    """The folders of this machine's finished runs that no suite has, of any seed. A suite that cannot be read has none.

    A suite that the registry does not have is known by its last report in results/local.
    """
    others, local = set(finished_runs(results)), Path(results, LOCAL)
    for name in {*registry.names("suites"), *stored_suites(local)} if others else ():
        with suppress(RecipeError):
            if is_known(registry, name):
                recipes = (recipe for _, recipe in registry.suite_recipes(registry.suite(name)))
                others.difference_update(_folders_of(others, recipes, results))
                continue
            for record in (run.record for run in read_runs(local, name)):
                others.discard(RunFolder(results, seedless_recipe(record).with_seed(record.seed)).path)
    return sorted(others)


def other_runs_note(registry: Registry, results: str | Path) -> str | None:
    """A sentence that counts the `runs_in_no_suite`; None if there are none."""
    if not (others := len(runs_in_no_suite(registry, results))):
        return None
    verb = "is" if others == 1 else "are"
    return f"{count(others, 'finished run')} here {verb} in no suite: `python -m bench compare ID…` compares recipes"


def _folders_of(folders: Iterable[Path], recipes: Iterable[Recipe], results: str | Path) -> list[Path]:
    """Those of these folders of runs that are of one of these recipes, of any seed."""
    places = {(RunFolder(results, recipe).path.parent, recipe.hash[:8]) for recipe in recipes}
    return [folder for folder in folders if (folder.parent, folder.name[:8]) in places]


def current_runs(registry: Registry, suite: Suite, runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs with the hashes that the suite's recipes have now, in the order of its recipes and of the seeds."""
    order = {key: place for place, key in enumerate(recipes_by_key(registry, suite, runs))}
    current = [run for run in runs if run.key[:2] in order]
    return sorted(current, key=lambda run: (order[run.key[:2]], run.record.seed))


def mismatches(registry: Registry, suite: Suite, runs: Sequence[FinishedRun]) -> list[str]:
    """A sentence for every run that is not of the suite as its recipes are now, or contradicts itself."""
    recipes, out = recipes_by_key(registry, suite, runs), []
    for run in runs:
        recipe_id, run_hash = run.key[:2]
        if recipe_id not in suite.ids:
            out.append(f"{run.name}: not in suite {suite.name}")
        elif problem := run.contradiction:
            out.append(problem)
        elif (recipe_id, run_hash) not in recipes:
            known = next((own for of_id, own in recipes if of_id == recipe_id), None)
            wanted = f"its recipe's, {known[:8]}" if known else f"that of a recipe of suite {suite.name}"
            out.append(f"{run.name}: its hash {run_hash[:8]} is not {wanted}")
    return out

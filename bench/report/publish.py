"""The verbs `publish` and `merge`: this machine's runs, or those of others, into the published results."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cli import DONE, add_folders, count
from bench.config.command import command
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite
from bench.report.commands import add_figure_options, figure_options, print_report
from bench.report.committed import read_committed, write_committed
from bench.report.definition import find_suite, stored_suites, suite_recipes, write_definition
from bench.report.output import FigureOptions
from bench.report.records import (
    REPRODUCTIONS,
    current_runs,
    local_runs,
    mismatches,
    read_file_of_runs,
    write_runs,
)
from bench.report.unite import United, environment, unite
from bench.runs.finished import FinishedRun, is_stale
from bench.runs.folder import LOCAL, runs_dir


def add_publish_options(parser: argparse.ArgumentParser) -> None:
    """The options of `publish`."""
    parser.add_argument("what", nargs="*", metavar="SUITE", help="take over this machine's runs of these suites")
    parser.add_argument("--replace", action="store_true", help="where a run is published already, this machine's counts")
    add_figure_options(parser)
    add_folders(parser, data=False)


def run_publish(arguments: argparse.Namespace) -> int:
    """Take over runs of suites into the published results; without suites, draw these anew."""
    registry, results, figures = Registry(*arguments.recipes_dir), Path(arguments.results_dir), figure_options(arguments)
    names = list(dict.fromkeys(arguments.what))
    if not names and not stored_suites(results):
        raise RecipeError(f"--results-dir {results}: no suite has published records here: name the suites to publish")
    changes = [_publication(registry, results, name, arguments.replace) for name in names]
    return _write(registry, results, changes, names or stored_suites(results), figures)


def add_merge_options(parser: argparse.ArgumentParser) -> None:
    """The options of `merge`."""
    parser.add_argument("what", nargs="+", metavar="FILE", help="records.jsonl of others, in a folder named as the suite")
    parser.add_argument("--suite", metavar="NAME", help="the suite of files in a folder of another name")
    add_figure_options(parser)
    add_folders(parser, data=False)


def run_merge(arguments: argparse.Namespace) -> int:
    """Take over the records of others into the published results. If one is refused, nothing is written."""
    registry, results, figures = Registry(*arguments.recipes_dir), Path(arguments.results_dir), figure_options(arguments)
    files: dict[str, list[Path]] = {}
    for file in map(Path, arguments.what):
        files.setdefault(arguments.suite or file.absolute().parent.name, []).append(file)
    changes = [_merged(registry, results, name, paths) for name, paths in files.items()]
    return _write(registry, results, changes, list(files), figures)


def _write(
    registry: Registry, results: Path, changes: Iterable[_Change], names: Sequence[str], figures: FigureOptions
) -> int:
    """Write changed records, then all that is drawn of suites."""
    for change in changes:
        change.write(results)
        print("\n".join(change.sentences(registry)))
    print_report(write_committed(results, names, **figures))
    print(f"tables, figures and page: {results / 'index.html'}")
    return DONE


@dataclass(frozen=True)
class _Change:
    """What becomes of the published records of a suite. before: they as they are, reproductions included."""

    suite: Suite
    before: list[FinishedRun]
    given: list[FinishedRun]
    after: United

    def write(self, results: Path) -> None:
        """Write definition, records and reproductions."""
        write_definition(self.suite, results / self.suite.name)
        write_runs(self.after.runs, results, self.suite.name)
        write_runs(self.after.reproductions, results, self.suite.name, REPRODUCTIONS)

    def sentences(self, registry: Registry) -> list[str]:
        """What has changed, which runs were left out, and which the suite lacks."""
        name, keys, after = self.suite.name, {run.key for run in self.before}, [*self.after.runs, *self.after.reproductions]
        counting = {run.key for run in self.given if run in self.after.runs and run not in self.before}
        known = [(run.key, environment(run.record)) for run in self.before]
        new = {(run.key, environment(run.record)) for run in self.given if run in self.after.reproductions}
        removed = sum(run not in after and run.key not in counting for run in self.before)
        numbers = [count(len(counting - keys), "new run"), count(len(new.difference(known)), "new reproduction")]
        numbers += [f"{count(len(counting & keys), 'run')} replaced"] if counting & keys else []
        numbers += [f"{count(removed, 'earlier run')} removed"] if removed else []
        out = [f"suite {name}: {', '.join(numbers)}"]
        out += [f"{text}: the published one stays (publish --replace takes the other)" for text in self.after.conflicts]
        return out + _missing_runs(registry, self.suite, self.after.runs)


def _publication(registry: Registry, results: Path, name: str, replace: bool) -> _Change:
    """This machine's runs united with the published ones of a suite. Raises RecipeError if one cannot be published."""
    suite = find_suite(registry, name, results / LOCAL / name, results / name)
    local, before = local_runs(registry, suite, results), read_committed(results, name)
    if not local and not before:
        raise RecipeError(f"suite {name}: no run below {runs_dir(results)} has finished: run ./run_all.sh {name}")
    recipes = {(recipe.id, recipe.hash): recipe for _, recipe in suite_recipes(registry, suite, local)}
    for run in local:
        _check_code(run, "commit the changes or remove them, then run it again", recipes[run.key[:2]])
    fresh, stale = _by_code(before, recipes)
    order = [*local, *fresh, *stale] if replace else [*fresh, *local, *stale]
    return _change(registry, suite, before, local, order)


def _merged(registry: Registry, results: Path, name: str, files: Sequence[Path]) -> _Change:
    """The records in files united with the published ones. Raises RecipeError if one is refused."""
    suite = find_suite(registry, name, results / name, *(file.absolute().parent for file in files))
    before = read_committed(results, name)
    given = [run for file in files for run in read_file_of_runs(file, name)]
    if problems := mismatches(registry, suite, [*before, *given]):
        raise RecipeError(problems[0])
    for run in given:
        _check_code(run, "its author commits the changes or removes them, and runs it again")
    fresh, stale = _by_code(before, {})
    change = _change(registry, suite, before, given, [*fresh, *given, *stale])
    if change.after.conflicts:
        raise RecipeError(change.after.conflicts[0])
    return change


def _by_code(
    runs: Sequence[FinishedRun], recipes: Mapping[tuple[str, str], Recipe]
) -> tuple[list[FinishedRun], list[FinishedRun]]:
    """Runs of this code, and those that other code has recorded, which give way. recipes: of `is_stale`, by id and hash."""
    stale = [run for run in runs if is_stale(run.record, recipes.get(run.key[:2]))]
    return [run for run in runs if run not in stale], stale


def _change(
    registry: Registry,
    suite: Suite,
    before: list[FinishedRun],
    given: list[FinishedRun],
    order: Iterable[FinishedRun],
) -> _Change:
    united = unite(order)
    runs, reproductions = (current_runs(registry, suite, some) for some in (united.runs, united.reproductions))
    if problems := mismatches(registry, suite, runs):
        raise RecipeError(problems[0])
    if not runs:
        raise RecipeError(f"suite {suite.name}: no run is of its recipes as they are now, so nothing is written")
    return _Change(suite, before, given, United(runs, reproductions, united.conflicts))


def _check_code(run: FinishedRun, advice: str, recipe: Recipe | None = None) -> None:
    """Raise RecipeError if nobody can know what code a run used, or it was other code. recipe: see `is_stale`."""
    record = run.record
    if record.code.dirty:
        problem = "it used code that differs from its commit"
    elif is_stale(record, recipe):
        problem, advice = "it was recorded with other code", "run it again"
    else:
        return
    again = command(recipe_from_dict(record.recipe, run.name)) or f"python bench/run.py --recipe {record.id} …"
    raise RecipeError(f"{run.name}: {problem}: {advice}: {again} --force")


def _missing_runs(registry: Registry, suite: Suite, runs: Sequence[FinishedRun]) -> list[str]:
    """The runs that a suite lacks, a line per recipe."""
    there = {run.key for run in runs}
    missing = {}
    for entry, recipe in suite_recipes(registry, suite, runs):
        if seeds := [seed for seed in suite.seeds if (recipe.id, recipe.hash, seed) not in there]:
            missing[" ".join([entry.id, *entry.settings])] = seeds
    if not missing:
        return []
    total = sum(map(len, missing.values()))
    rows = [f"  {name} seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" for name, seeds in missing.items()]
    return [f"suite {suite.name} lacks {count(total, 'run')}:", *rows]

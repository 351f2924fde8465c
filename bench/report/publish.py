"""The verbs `publish` and `merge`: this machine's runs, or those of others, into the published results."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cli import DONE, add_folders, count
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite
from bench.report.commands import add_figure_options, figure_options, print_report
from bench.report.committed import write_committed
from bench.report.definition import find_suite, recipes_by_key, stored_suites, suite_recipes, write_definition
from bench.report.output import FigureOptions
from bench.report.records import (
    REPRODUCTIONS,
    current_runs,
    local_runs,
    mismatches,
    of_same_images,
    read_committed,
    read_file_of_runs,
    runs_of_other_suites,
    write_runs,
)
from bench.report.unite import United, code_difference, unite
from bench.runs.finished import FinishedRun, is_stale
from bench.runs.folder import LOCAL, runs_dir
from bench.runs.record import stale_parts

_DATA = " (with your --data-dir, if you gave one)"


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
    folders = [word for folder in arguments.recipes_dir for word in ("--recipes-dir", folder)]
    folders += ["--results-dir", arguments.results_dir] if arguments.results_dir != "results" else []
    changes = [_publication(registry, results, name, arguments.replace, folders) for name in names]
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
        if not os.path.isfile(file):  # also answers for names that are too long
            raise RecipeError(f"merge {file}: no such file: name a records.jsonl")
        files.setdefault(arguments.suite or file.absolute().parent.name, []).append(file)
    changes = [_merged(registry, results, name, paths) for name, paths in files.items()]
    return _write(registry, results, changes, list(files), figures)


def _write(
    registry: Registry, results: Path, changes: Iterable[_Change], names: Sequence[str], figures: FigureOptions
) -> int:
    """Write changed records, then all that is drawn of suites."""
    for name in stored_suites(results):
        read_committed(results, name)  # the page shows all suites: a damaged one is refused before anything is written
    for change in changes:
        change.write(results)
        print("\n".join(change.sentences(registry)))
    print_report(write_committed(results, names, **figures))
    print(f"tables, figures and page: {results / 'index.html'}")
    return DONE


@dataclass(frozen=True)
class _Change:
    """A change of the published records of a suite.

    before: the records that are published now, with their reproductions. given: the runs to add. after: the result.
    """

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
        known = [(run.key, run.record.environment) for run in self.before]
        new = {(run.key, run.record.environment) for run in self.given if run in self.after.reproductions}
        removed = sum(run not in after and run.key not in counting for run in self.before)
        numbers = [count(len(counting - keys), "new run"), count(len(new.difference(known)), "new reproduction")]
        numbers += [f"{count(len(counting & keys), 'run')} replaced"] if counting & keys else []
        numbers += [f"{count(removed, 'earlier run')} removed"] if removed else []
        out = [f"suite {name}: {', '.join(numbers)}"]
        out += [f"{text}: the published one stays (publish --replace takes the other)" for text in self.after.conflicts]
        return out + _missing_runs(registry, self.suite, self.after.runs)


def _publication(registry: Registry, results: Path, name: str, replace: bool, folders: Sequence[str]) -> _Change:
    """This machine's runs of a suite united with the published ones, also with those that other suites have.

    Raises RecipeError if one cannot be published. folders: the options with which a run is run again.
    """
    suite = find_suite(registry, name, results / LOCAL / name, results / name)
    local, before = local_runs(registry, suite, results), read_committed(results, name)
    if not local and not before:
        raise RecipeError(f"suite {name}: no run below {runs_dir(results)} has finished: run ./run_all.sh {name}")
    shared = runs_of_other_suites(registry, suite, results)
    entries = {(recipe.id, recipe.hash): (entry, recipe) for entry, recipe in suite_recipes(registry, suite, local)}
    sweep = shlex.join(["python", "-m", "bench", "sweep", name, "--stale", *folders])
    for run in local:
        entry, recipe = entries[run.key[:2]]
        words = ["--recipe", entry.id, *suite.run_options(entry, recipe), "--seed", str(run.record.seed), *folders]
        one = shlex.join(["python", "bench/run.py", *words, "--force"])
        changed = f"commit the changes or remove them, then run it again: {one}{_DATA}"
        _check_code(run, recipe, changed, f"run it again: {sweep}{_DATA}")
    fresh, stale = _by_code(before, {key: recipe for key, (_, recipe) in entries.items()})
    shared = [run for run in shared if run.key[:2] in entries and not is_stale(run.record, entries[run.key[:2]][1])]
    shared = of_same_images([*local, *fresh], shared)
    order = [*local, *fresh, *shared, *stale] if replace else [*fresh, *local, *shared, *stale]
    replaced = {run.key for run in local} if replace else set()
    advice = "publish --replace takes this machine's runs if they have all seeds that are published"
    giving_way = [run for run in fresh if run.key in replaced] + stale
    return _change(registry, suite, before, [*local, *shared], order, giving_way, advice)


def _merged(registry: Registry, results: Path, name: str, files: Sequence[Path]) -> _Change:
    """The records in files united with the published ones. Raises RecipeError if one is refused."""
    suite = find_suite(registry, name, results / name, *(file.absolute().parent for file in files))
    before = read_committed(results, name)
    given = []
    for file in files:
        if not (runs := read_file_of_runs(file, name)):
            raise RecipeError(f"{file}: has no records")
        given += runs
    if problems := mismatches(registry, suite, [*before, *given]):
        raise RecipeError(problems[0])
    recipes = recipes_by_key(registry, suite, [*before, *given])
    for run in given:
        changed = "its author commits the changes or removes them, and runs it again"
        _check_code(run, recipes[run.key[:2]], changed, "its author runs it again")
    fresh, stale = _by_code(before, recipes)
    order, advice = [*fresh, *given, *stale], "its author runs it again with that code"
    change = _change(registry, suite, before, given, order, stale, advice)
    if change.after.conflicts:
        raise RecipeError(change.after.conflicts[0])
    return change


def _check_code(run: FinishedRun, recipe: Recipe, changed: str, stale: str) -> None:
    """Raise RecipeError if a run's code is unknown or was not committed, or if it computes something else than this code.

    changed, stale: what to do then.
    """
    if run.record.code.dirty is None:
        raise RecipeError(f"{run.name}: its code is not known, since it did not run in a git checkout: {changed}")
    if run.record.code.dirty:
        raise RecipeError(f"{run.name}: it used code that differs from its commit: {changed}")
    if parts := stale_parts(run.record, recipe):
        raise RecipeError(f"{run.name}: it was recorded with other code ({'; '.join(parts)}): {stale}")


def _by_code(
    runs: Sequence[FinishedRun], recipes: Mapping[tuple[str, str], Recipe]
) -> tuple[list[FinishedRun], list[FinishedRun]]:
    """Split runs into those of this code and those of other code, which new runs may replace. recipes: by id and hash."""
    stale = [run for run in runs if is_stale(run.record, recipes.get(run.key[:2]))]
    return [run for run in runs if run not in stale], stale


def _change(
    registry: Registry,
    suite: Suite,
    before: list[FinishedRun],
    given: list[FinishedRun],
    order: Iterable[FinishedRun],
    giving_way: Sequence[FinishedRun],
    advice: str,
) -> _Change:
    """The runs in their order, united. Raises RecipeError if runs of other code are left that do not give way."""
    united = unite(order)
    for run in united.other_code:
        if run not in giving_way:
            first = next(one for one in united.runs if one.key[:2] == run.key[:2])
            whose = "the published runs have" if first in before else "other runs have"
            raise RecipeError(f"{run.name}: recorded with other code: {code_difference(run, first, whose)}: {advice}")
    runs, reproductions = (current_runs(registry, suite, some) for some in (united.runs, united.reproductions))
    if problems := mismatches(registry, suite, runs):
        raise RecipeError(problems[0])
    if not runs:
        raise RecipeError(f"suite {suite.name}: no run is of its recipes as they are now, so nothing is written")
    return _Change(suite, before, given, United(runs, reproductions, united.conflicts))


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

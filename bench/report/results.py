"""Runs as data frames of pandas, for work in Python: `bench.results` and `bench.curves`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from bench.config.names import split_id
from bench.config.parse import nearest, short_repr
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.config.suite import SuiteEntry
from bench.report.definition import FILE, find_suite, is_known, stored_suites, suite_recipes
from bench.report.frame import RUN, curves_frame, runs_frame
from bench.report.records import RECORDS, REPRODUCTIONS, read_runs
from bench.runs.finished import FinishedRun, run_from_folder
from bench.runs.folder import LOCAL, finished_runs

Folder = str | PathLike[str]
Origin = Literal["local", "published", "reproduction"]
ORIGINS = (None, "local", "published", "reproduction")


def results(
    suite: str | None = None,
    *,
    results_dir: Folder = "results",
    origin: Origin | None = None,
    recipes_dir: Folder | Sequence[Folder] = (),
) -> pd.DataFrame:
    """The finished runs, one row per run (recipe and seed), as a data frame of pandas.

    Args:
        suite: its runs; None: all that are found, also those of no suite. Teachers are not among them.
        results_dir: the folder `results/` of a checkout, or the `--results-dir` of the runs.
        origin: "local": only runs of this machine; "published": only published ones; None: both, and a run that is in both
            once, as this machine has it; "reproduction": only runs of published recipes and seeds on other machines.
        recipes_dir: your own recipe files, if the suite is there; one folder or several.

    Columns: docs/records.md, In Python.

    Raises:
        RecipeError: nothing is found, the suite is unknown, or a record is damaged.
    """
    return _frame(_find(suite, Path(results_dir), origin, recipes_dir))


def curves(
    suite: str | None = None,
    *,
    results_dir: Folder = "results",
    origin: Origin | None = None,
    recipes_dir: Folder | Sequence[Folder] = (),
) -> pd.DataFrame:
    """The learning curves, one row per run and epoch; arguments, errors and the choice of runs as `bench.results`.

    Columns:
        origin, suite, model, dataset, variant, method, seed, id, protocol, hash, diverged: as in `bench.results`.
        epoch: from 1. lr: learning rate. train_loss, guidance_loss: means over the epoch; guidance_loss is the sum of the
            unweighted terms. A loss is missing if it was not finite, guidance_loss also without guidance.
        test_accuracy: in %, missing if the epoch was not evaluated. images_per_second: of training.
    """
    found = _find(suite, Path(results_dir), origin, recipes_dir)
    frame = _frame(found)[["origin", "suite", *RUN, "id", "protocol", "hash", "diverged"]]
    return curves_frame(frame, [one.run for one in found])


class _Found(NamedTuple):
    run: FinishedRun  # its suite is the names of all suites that it is in, joined
    origin: Origin
    folder: str | None
    entry: SuiteEntry


def _frame(found: Sequence[_Found]) -> pd.DataFrame:
    frame = runs_frame([(one.run, one.entry) for one in found])
    frame = frame.assign(origin=[one.origin for one in found], folder=pd.Series([one.folder for one in found], dtype="str"))
    first = ["origin", "suite", *RUN, "last_accuracy", "best_accuracy"]
    return frame[[*first, *frame.columns.drop(first)]]


def _find(suite: str | None, results: Path, origin: str | None, recipes_dir: Folder | Sequence[Folder]) -> list[_Found]:
    """The runs that `results` has rows for, in the order of their ids, hashes and seeds."""
    if origin not in ORIGINS:
        raise RecipeError(f"origin: got {short_repr(origin)}, allowed: 'local', 'published', 'reproduction' or None")
    registry = Registry(*([recipes_dir] if isinstance(recipes_dir, (str, PathLike)) else recipes_dir))
    places = (results, results / LOCAL)
    known = sorted({*registry.names("suites"), *(name for place in places for name in stored_suites(place))})
    if suite is not None and suite not in known:
        hint = f"{nearest(suite, known)}; recipes_dir and results_dir give others"
        raise RecipeError(f"unknown suite {short_repr(suite)}; known: {', '.join(known)}{hint}")
    names = [name for name in known if suite in (None, name)]
    file, committed = (REPRODUCTIONS, origin) if origin == "reproduction" else (RECORDS, "published")
    published = [run for name in names for run in read_runs(results, name, file)]
    local = {folder: run_from_folder(folder) for folder in finished_runs(results)} if origin in (None, "local") else {}
    runs = [*published, *local.values()]
    entries_of = {name: _entries(registry, name, places, runs) for name in names}
    for run in published:  # also those whose suite has other recipes now
        entries_of[run.suite].setdefault((run.record.id, run.record.hash), set())
    found = {}
    for run, run_origin, folder in (
        *((run, committed, None) for run in published if origin != "local"),
        *((run, "local", str(folder)) for folder, run in local.items()),
    ):
        of_suites = {name: own[run.key[:2]] for name, own in entries_of.items() if run.key[:2] in own}
        if suite is None or of_suites:
            entries = set().union(*of_suites.values())
            run = dataclasses.replace(run, suite=", ".join(of_suites))
            machine = str(run.record.environment) if run_origin == "reproduction" else ""
            found[*run.key, machine] = _Found(run, run_origin, folder, _entry(run, entries))
    if not found:
        what = "no finished run" if suite is None else f"no finished run of suite {suite}"
        raise RecipeError(
            f"{results.absolute()}: {what}{f' of origin {origin}' if origin else ''}: is this the results folder"
            " (results_dir)?"
        )
    return [found[key] for key in sorted(found)]


def _entry(run: FinishedRun, entries: set[SuiteEntry]) -> SuiteEntry:
    """The entry that a run is of: without a variant if it has several, with the method's name if it has several labels."""
    methods, variants = ({getattr(one, name) for one in entries} for name in ("method", "variant"))
    method = methods.pop() if len(methods) == 1 else split_id(run.record.id)[-1]
    return SuiteEntry(run.record.id, method, variants.pop() if len(variants) == 1 else "")


def _entries(
    registry: Registry, suite: str, places: Sequence[Path], runs: Sequence[FinishedRun]
) -> dict[tuple[str, str], set[SuiteEntry]]:
    """{(id, hash): the entries} of each recipe of a suite. A baseline is in every variant of the teacher's keys."""
    folders = [place / suite for place in places]
    if not is_known(registry, suite) and not any((folder / FILE).exists() for folder in folders):
        return {}  # records alone say what is in it
    definition = find_suite(registry, suite, *folders)
    ids, out = {run.record.id for run in runs}, {}
    if not ids.isdisjoint(definition.ids):  # composing hundreds of recipes takes time
        for entry, recipe in suite_recipes(registry, definition, runs):
            out.setdefault((recipe.id, recipe.hash), set()).add(entry)
    return out

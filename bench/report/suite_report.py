"""All that the tables, figures and page of one suite are drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.config.registry import Registry, Suite
from bench.config.schema import Recipe
from bench.report import notes
from bench.report.frame import BASELINE, curves_frame, runs_frame
from bench.report.published import Published, comparable_numbers, numbers_of_cell
from bench.report.records import PublishedRun
from bench.report.stats import cells_frame, pairs_frame


@dataclass(frozen=True)
class SuiteReport:
    """A suite with its runs and what follows from them.

    recipes: the composed recipe of every id of the suite, seed 0; within a cell the baseline is first.
    runs, curves: see bench/report/frame.py. pairs, cells: see bench/report/stats.py.
    published: one row per published number of the suite's students and datasets, of any method; columns as published.csv,
        and comparable_to: the id of the recipe whose runs it may be compared with, or missing.
    settings: {key: value as text} that the suite sets over its protocol.
    protocol_note: a sentence with the protocol's name, its main settings unless it is `paper`, and `settings`.
    deviations: sentences on how runs differ from the released code; empty unless the protocol is `paper`.
    notes: sentences that a reader must know before comparing, such as runs of two precisions.
    """

    suite: Suite
    recipes: dict[str, Recipe]
    runs: pd.DataFrame
    curves: pd.DataFrame
    pairs: pd.DataFrame
    cells: pd.DataFrame
    published: pd.DataFrame
    settings: dict[str, str]
    protocol_note: str
    deviations: list[str]
    notes: list[str]

    @property
    def remarks(self) -> list[str]:
        """What differs from the protocol and between runs: the protocol note, deviations and notes."""
        return [self.protocol_note, *self.deviations, *self.notes]


def build_suite_report(registry: Registry, suite: Suite, published_runs: Sequence[PublishedRun]) -> SuiteReport:
    """The report of a suite from its runs, of which there must be at least one."""
    suite = dataclasses.replace(suite, guidance=tuple(sorted(suite.guidance, key=lambda name: name != BASELINE)))
    recipes = {recipe_id: registry.compose(recipe_id, suite=suite) for recipe_id in suite.ids}
    runs, curves = runs_frame(published_runs), curves_frame(published_runs)
    comparable = comparable_numbers(registry, recipes)
    settings = {key: str(given.value) for key, given in suite.overrides}
    return SuiteReport(
        suite,
        recipes,
        runs,
        curves,
        pairs_frame(runs, curves),
        cells_frame(suite, recipes, runs, curves, comparable),
        _published_frame(suite, comparable),
        settings,
        notes.protocol_note(suite, recipes, settings),
        notes.deviations(suite, recipes, runs),
        notes.notes(runs),
    )


def _published_frame(suite: Suite, comparable: dict[str, list[Published]]) -> pd.DataFrame:
    reproduced_by = {number: recipe_id for recipe_id, numbers in comparable.items() for number in numbers}
    rows = [
        {**dataclasses.asdict(number), "comparable_to": reproduced_by.get(number)}
        for model in suite.models
        for dataset in suite.datasets
        for number in numbers_of_cell(model, dataset)
    ]
    columns = [*(field.name for field in dataclasses.fields(Published)), "comparable_to"]
    return pd.DataFrame(rows, columns=columns)

"""All that the tables, figures and page of one suite are drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.config.registry import Registry
from bench.config.schema import Recipe
from bench.config.suite import Suite
from bench.report import notes
from bench.report.frame import BASELINE, curves_frame, runs_frame
from bench.report.published import published_frame
from bench.report.records import PublishedRun
from bench.report.stats import cells_frame, pairs_frame


@dataclass(frozen=True)
class SuiteReport:
    """A suite with its runs and what follows from them.

    recipes: the composed recipe of every id of the suite, seed 0; within a cell the baseline is first.
    runs, curves: see bench/report/frame.py. pairs, cells: see bench/report/stats.py.
    published: see `published.published_frame`.
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
    published = published_frame(registry, recipes)
    settings = {key: str(given.value) for key, given in suite.overrides}
    return SuiteReport(
        suite,
        recipes,
        runs,
        curves,
        pairs_frame(runs, curves),
        cells_frame(suite, recipes, runs, curves, published),
        published,
        settings,
        notes.protocol_note(suite, recipes, settings),
        notes.deviations(suite, recipes, runs),
        notes.comparison_notes(runs),
    )

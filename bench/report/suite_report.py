"""All that the tables, figures and page of one suite are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from bench.config.registry import Suite
from bench.config.schema import Recipe


@dataclass(frozen=True)
class SuiteReport:
    """A suite with its runs and what follows from them.

    recipes: the composed recipe of every id of the suite, seed 0.
    runs, curves: see bench/report/frame.py. cells: see `stats.cells_frame`.
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
    cells: pd.DataFrame
    published: pd.DataFrame
    settings: dict[str, str]
    protocol_note: str
    deviations: list[str]
    notes: list[str]

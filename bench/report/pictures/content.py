"""What each picture shows, taken from the analysis of a suite: no number is computed here but means by epoch.

Numbers are rounded to more places than a picture shows, so that their digest is the same on every machine.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.report.analysis import BASELINE, Analysis, Arm, Cell
from bench.report.gather import Record
from bench.report.palette import LIGHT
from bench.report.spread import SeedStats

PLACES = 4
LONGEST_HOURS = 1e9  # of a run: a clock that went wrong
TEST, HELD_OUT = "test accuracy", "held-out accuracy"
FEW_SEEDS = 5  # whose own curves can be told apart


@dataclass(frozen=True)
class Number:
    """Mean and standard deviation over seeds; std None: of a single one."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, spread: SeedStats | None) -> Number | None:
        """Of a spread of the analysis."""
        return cls(_rounded(spread.mean), None if spread.std is None else _rounded(spread.std)) if spread else None


@dataclass(frozen=True)
class Reach:
    """When a guided arm first has the accuracy that the baseline ends with: in how many of how many pairs of seeds, after
    how many epochs, and by which factor sooner (means over the seeds that do)."""

    reached: int
    pairs: int
    epochs: float | None
    speedup: float | None  # None where epochs is


@dataclass(frozen=True)
class Curve:
    """An arm by epoch: mean test accuracy in %, its standard deviation (None: one seed), single seeds where they are few;
    nothing of an arm without a finished run. colour: see `Sheet`. diverged: how many runs."""

    guidance: str
    colour: str
    seeds: int
    diverged: int
    mean: list[float]
    std: list[float] | None
    single: list[list[float]]
    last: Number | None
    gain: float | None
    reach: Reach | None


@dataclass(frozen=True)
class Curves:
    """A student on a dataset."""

    model: str
    dataset: str
    arms: list[Curve]
    measure: str = TEST


@dataclass(frozen=True)
class Panels:
    """The curves of a whole suite, by student and then by dataset."""

    suite: str
    models: list[str]
    datasets: list[str]
    panels: list[Curves]
    measure: str = TEST


@dataclass(frozen=True)
class End:
    """An arm's last epoch. gain: mean, and the interval's ends where there are seeds enough; clear: it excludes zero.
    hours: device time a run."""

    guidance: str
    colour: str
    state: str
    diverged: int
    seeds: int
    last: Number | None
    gain: float | None
    low: float | None
    high: float | None
    clear: bool
    hours: float | None
    unit: str | None


@dataclass(frozen=True)
class Row:
    """A student on a dataset."""

    model: str
    dataset: str
    arms: list[End]


@dataclass(frozen=True)
class Ends:
    """Where all arms of a suite end. teachers: {dataset: [(name, seconds of its training)]}."""

    suite: str
    datasets: list[str]
    colours: dict[str, str]
    rows: list[Row]
    teachers: dict[str, list[tuple[str, float]]]
    measure: str = TEST


def colours(guidance: Sequence[str]) -> dict[str, str]:
    """{guidance: colour}: by its place in the suite, so that an arm has the same in all pictures."""
    guided = itertools.cycle(f"guided{number}" for number in range(len(LIGHT.guided)))
    return {name: BASELINE if name == BASELINE else next(guided) for name in guidance}


def measured(records: Iterable[Record]) -> str:
    """What the accuracies of records are: with data.holdout they are not those of the test set."""
    of = {(record.get("dataset") or {}).get("evaluated_on") for record in records}
    return HELD_OUT if "holdout" in of else TEST


def curves(analysis: Analysis, cell: Cell, records: dict[tuple[str, int], Record], single: bool = True) -> Curves:
    """Of a cell; records: by id and seed; single: with the curves of single seeds."""
    coloured = colours(analysis.guidance)
    arms = [_curve(arm, coloured[arm.guidance], records, single) for arm in cell.arms]
    return Curves(cell.model, cell.dataset, arms, measured(records.values()))


def panels(analysis: Analysis, records: dict[tuple[str, int], Record]) -> Panels:
    """Of the whole suite."""
    every = [curves(analysis, cell, records, single=False) for cell in analysis.cells]
    return Panels(analysis.suite, analysis.models, analysis.datasets, every, measured(records.values()))


def ends(analysis: Analysis, records: Iterable[Record]) -> Ends:
    """Of the whole suite."""
    coloured = colours(analysis.guidance)
    rows = [
        Row(cell.model, cell.dataset, [_end(arm, coloured[arm.guidance]) for arm in cell.arms]) for cell in analysis.cells
    ]
    teachers: dict[str, list[tuple[str, float]]] = {}
    for teacher in analysis.teachers:
        name, _, dataset = teacher["id"].partition("/")
        teachers.setdefault(dataset, []).append((name, _rounded(teacher["seconds"])))
    return Ends(analysis.suite, analysis.datasets, coloured, rows, teachers, measured(records))


def _curve(arm: Arm, colour: str, records: dict[tuple[str, int], Record], single: bool) -> Curve:
    own = [records[arm.id, seed]["history"]["test_accuracy"] for seed in arm.seeds]
    mean, std = [], None
    if own:
        epochs = min(map(len, own))
        values = np.array([curve[:epochs] for curve in own], float)
        mean = values.mean(0).round(PLACES).tolist()
        std = values.std(0, ddof=1).round(PLACES).tolist() if len(own) > 1 else None
    reach = None
    if arm.reach:
        epochs, speedup = (arm.reach[name] and _rounded(arm.reach[name].mean) for name in ("epochs", "speedup_epochs"))
        reach = Reach(arm.reach["reached"], arm.reach["pairs"], epochs, speedup)
    return Curve(
        arm.guidance,
        colour,
        len(own),
        len(arm.diverged),
        mean,
        std,
        own if single and 1 < len(own) <= FEW_SEEDS else [],
        Number.of(arm.last),
        arm.gain and _rounded(arm.gain.mean),
        reach,
    )


def _end(arm: Arm, colour: str) -> End:
    gain, cost = arm.gain, arm.cost
    low, high = (gain.low, gain.high) if gain else (None, None)
    return End(
        arm.guidance,
        colour,
        arm.state,
        len(arm.diverged),
        len(arm.seeds),
        Number.of(arm.last),
        gain and _rounded(gain.mean),
        None if low is None else _rounded(low),
        None if high is None else _rounded(high),
        bool(gain) and gain.verdict in ("higher", "lower"),
        round(cost.device_hours / len(arm.seeds), 7) if cost and 0 < cost.device_hours < LONGEST_HOURS else None,
        cost and cost.device_unit,
    )


_rounded = functools.partial(round, ndigits=PLACES)

"""Means over seeds, and what a difference that is paired over seeds allows to say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

CONFIDENCE = 0.95
# With two pairs the t distribution has one degree of freedom and its interval is 9 deviations wide to each side: it would
# say nothing, or by luck too much.
ENOUGH_SEEDS = 3


@dataclass(frozen=True)
class SeedStats:
    """A quantity over seeds.

    values: {seed: value}; a seed without a value (diverged, never reached) is not in it.
    std: the sample standard deviation; None with a single value.
    """

    mean: float
    std: float | None
    values: dict[int, float]

    @classmethod
    def of(cls, values: Mapping[int, float | None]) -> SeedStats | None:
        """Over the seeds that have a value; None where none has."""
        there = {seed: value for seed, value in values.items() if value is not None}
        if not there:
            return None
        return cls(fmean(there.values()), stdev(there.values()) if len(there) > 1 else None, there)


@dataclass(frozen=True)
class PairedDifference(SeedStats):
    """A difference between two arms, taken seed by seed, since the arms of one seed start from the same weights and see the
    same images in the same order.

    low, high: its confidence interval (`CONFIDENCE`, Student's t over the seeds); None with fewer than `ENOUGH_SEEDS`.
    verdict: `higher` or `lower` where the interval excludes zero, `unclear` where it holds it, `too few seeds`.
    """

    low: float | None
    high: float | None
    verdict: str

    @classmethod
    def between(cls, guided: Mapping[int, float | None], baseline: Mapping[int, float | None]) -> PairedDifference | None:
        """Guided minus baseline over the seeds that both have; None where there is none."""
        pairs = {s: (v, baseline.get(s)) for s, v in guided.items()}
        spread = SeedStats.of({s: g - b if g is not None and b is not None else None for s, (g, b) in pairs.items()})
        if spread is None:
            return None
        count = len(spread.values)
        if count < ENOUGH_SEEDS or spread.std is None:
            return cls(spread.mean, spread.std, spread.values, None, None, "too few seeds")
        half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * spread.std / math.sqrt(count)
        low, high = spread.mean - half, spread.mean + half
        verdict = "higher" if low > 0 else "lower" if high < 0 else "unclear"
        return cls(spread.mean, spread.std, spread.values, low, high, verdict)

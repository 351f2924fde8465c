"""Means over seeds, gains that are paired over seeds, and how soon a method reaches the baseline's accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bench.config.registry import Suite
from bench.config.schema import Recipe
from bench.report.frame import BASELINE, CELL, METHOD, RUN
from bench.report.published import Published

CONFIDENCE = 0.95
# With two pairs, the t distribution has one degree of freedom and its interval is 9 standard deviations wide to each side:
# it would say nothing, or by luck too much.
MIN_SEEDS = 3
OWN_PARTS = (50, 90, 95)  # % of a run's own final accuracy
MACHINE = ["device", "processor", "threads", "world_size"]  # must be equal where wall times are compared


def cells_frame(
    suite: Suite,
    recipes: Mapping[str, Recipe],
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    published: Mapping[str, list[Published]],
) -> pd.DataFrame:
    """One row per student, dataset and method of the suite, in the suite's order, the baseline first.

    Means and standard deviations are over seeds that finished; a value that does not exist is missing (NaN).

    suite, id, model, dataset, method, hash: of the recipe.
    status: "complete": every seed of the suite has a run; "incomplete": some have; "not run"; "diverged": all runs did;
        "no pair": it has runs, but none with a seed that the baseline has too, so there is no gain.
    seeds, diverged_seeds: numbers of runs that finished, and that diverged.
    last_mean, last_std, best_mean, best_std: test accuracy in % of the last and of the best epoch. std: missing for one seed.
    gain_mean, gain_std, gain_seeds: last epoch, in points, seed by seed over the baseline; missing for the baseline.
    gain_low, gain_high: confidence interval of the mean gain; missing below MIN_SEEDS seeds.
    verdict: "better", "worse", "unclear" (the interval holds zero), "too few seeds"; missing without a gain.
    best_gain_mean, best_gain_std: the same of the best epoch.
    epochs_to_reach_mean, _std: epochs until the final accuracy of the baseline with the same seed is first reached; for the
        baseline itself too. Missing unless all seeds reach it. reached_seeds: how many do, of gain_seeds pairs.
    speedup_epochs, _std: baseline's epochs_to_reach over the method's, mean over seeds; 1 is as fast as the baseline.
    speedup_seconds, _std: the same in wall time; missing unless both ran on the same hardware. The teacher's own training is
        not in it; in speedup_seconds_with_teacher, _std it is, though all seeds share one teacher.
    area_mean, area_std: mean test accuracy over the epochs, in %.
    epochs_to_50_mean, _std, and of 90, 95: epochs until that % of the own final accuracy.
    seconds_mean, _std: wall time per run. images_per_second, _std: of training. peak_memory_mib: mean.
    device_hours: of all finished runs together, in device_unit, "GPU-hours" or "core-hours".
    parameters, flops_per_image: of the student. machines: the hardware in words.
    published_value, published_gain, published_provenance, published_mark, published_work, published_source: the first
        comparable published number. published_difference: best_mean minus published_value.
    """
    raise NotImplementedError


__all__ = ["BASELINE", "CELL", "METHOD", "RUN", "np", "stdtrit", "Any"]

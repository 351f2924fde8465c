"""Means over seeds, gains that are paired over seeds, and how soon a method reaches the baseline's accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bench.config.names import split_id
from bench.config.schema import Recipe
from bench.config.suite import Suite
from bench.report.frame import BASELINE, CELL, METHOD, RUN

CONFIDENCE = 0.95
# With two pairs, the t distribution has one degree of freedom and its interval is 9 standard deviations wide to each side:
# it would say nothing, or by luck too much.
MIN_SEEDS = 3
MACHINE = ["device", "processor", "threads", "world_size"]  # must be equal where wall times are compared
REACH = ["epochs_to_reach", "speedup_epochs", "speedup_seconds", "speedup_seconds_with_teacher"]


def paired_interval(differences: pd.Series) -> tuple[float, float]:
    """The confidence interval of the mean of paired differences (Student's t); NaN with fewer than MIN_SEEDS of them."""
    count = len(differences)
    if count < MIN_SEEDS:
        return np.nan, np.nan
    half_width = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * differences.std() / np.sqrt(count)
    return differences.mean() - half_width, differences.mean() + half_width


def verdict(low: float, high: float) -> str:
    """What the confidence interval of a gain allows to say."""
    if np.isnan(low):
        return "too few seeds"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def pairs_frame(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One row per finished run whose seed the baseline of its cell finished too, the baseline's own runs included.

    Both runs of a pair start from the same weights and see the same images in the same order.

    model, dataset, method, seed: of the run.
    gain, best_gain: test accuracy of the last and of the best epoch minus the baseline's, in points.
    epochs_to_reach: the first epoch, from 1, with at least the baseline's final accuracy; missing if there is none.
    speedup_epochs: the baseline's own epochs_to_reach over the run's, so the baseline against itself has exactly 1.
    speedup_seconds: the same in wall time; missing if the runs had different hardware.
    speedup_seconds_with_teacher: with the whole training of the teacher added to the run's time.
    """
    finished, key = runs[~runs["diverged"]], [*CELL, "seed"]
    targets = finished.loc[finished["method"] == BASELINE, [*key, "last_accuracy"]]
    paired = finished.merge(targets.rename(columns={"last_accuracy": "target"}), on=key)
    paired["epochs_to_reach"] = _first_epochs(curves, paired[[*RUN, "target"]])
    paired["seconds_to_reach"] = paired["seconds"] / paired["epochs"] * paired["epochs_to_reach"]
    # The baselines, one row for each row of `paired`.
    base = paired[key].merge(paired[paired["method"] == BASELINE], on=key)
    seconds = base["seconds_to_reach"].where((paired[MACHINE] == base[MACHINE]).all(axis=1))
    with_teacher = paired["seconds_to_reach"] + paired["teacher_seconds"].fillna(0)
    return paired[RUN].assign(
        gain=paired["last_accuracy"] - base["last_accuracy"],
        best_gain=paired["best_accuracy"] - base["best_accuracy"],
        epochs_to_reach=paired["epochs_to_reach"],
        speedup_epochs=base["epochs_to_reach"] / paired["epochs_to_reach"],
        speedup_seconds=(seconds / paired["seconds_to_reach"]).replace(np.inf, np.nan),
        speedup_seconds_with_teacher=(seconds / with_teacher).replace(np.inf, np.nan),
    )


def _first_epochs(curves: pd.DataFrame, targets: pd.DataFrame) -> pd.Series:
    """The first epoch in which each run has at least its target accuracy in %; NaN if there is none."""
    joined = curves.merge(targets, on=RUN)
    first = joined[joined["test_accuracy"] >= joined["target"]].groupby(RUN)["epoch"].min()
    return targets.join(first, on=RUN)["epoch"].astype("float64")


def cells_frame(
    suite: Suite,
    recipes: Mapping[str, Recipe],
    runs: pd.DataFrame,
    pairs: pd.DataFrame,
    published: pd.DataFrame,
) -> pd.DataFrame:
    """One row per student, dataset and method of the suite, in the order of `recipes`.

    Means and sample standard deviations, *_mean and *_std, are over seeds that finished; one seed has no std. A value that
    does not exist is missing (NaN).

    suite, id, model, dataset, method, hash: of the recipe.
    status: "complete": every seed of the suite has a run; "incomplete": some have; "not run"; "diverged": all runs did;
        "no pair": it has runs, but none with a seed that the baseline has too, so there is no gain.
    seeds, diverged_seeds: numbers of runs that finished, and that diverged.
    gain_seeds: number of pairs. reached_seeds: of those, in how many the run reaches the baseline's final accuracy.
    last_*, best_*: test accuracy in % of the last and the best epoch.
    seconds_*: wall time per run. images_per_second_*: of training. peak_memory_mib_*.
    device_hours: of all finished runs together, in device_unit, "GPU-hours" or "core-hours".
    parameters, flops_per_image: of the student. machines: the hardware in words.
    gain_*, best_gain_*: over the baseline, see `pairs_frame`, as all that follows; missing for the baseline.
    epochs_to_reach_*, speedup_*: missing unless all seeds reach the baseline's final accuracy; for the baseline,
        epochs_to_reach_* says when it first has its own. speedup_seconds_with_teacher_* adds the teacher's training to
        every run, though all seeds share one teacher.
    gain_low, gain_high: confidence interval of the mean gain; missing below MIN_SEEDS seeds.
    verdict: "better", "worse", "unclear" (the interval includes zero), "too few seeds"; missing without a gain.
    published_value, published_gain, published_provenance, published_work, published_source: the first
        comparable published number. published_difference: best_mean minus published_value.
    """
    finished = runs[~runs["diverged"]]
    counts = {
        "runs": runs.groupby(METHOD).size(),
        "seeds": finished.groupby(METHOD).size(),
        "suite_seeds": runs[runs["seed"].isin(suite.seeds)].groupby(METHOD).size(),
        "gain_seeds": pairs.groupby(METHOD).size(),
        "reached_seeds": pairs.groupby(METHOD)["epochs_to_reach"].count(),
    }
    out = pd.DataFrame(
        [(suite.name, recipe_id, *split_id(recipe_id), recipe.hash) for recipe_id, recipe in recipes.items()],
        columns=["suite", "id", *METHOD, "hash"],
    ).join(pd.DataFrame(counts), on=METHOD)
    out[list(counts)] = out[list(counts)].fillna(0).astype("int64")
    no_pair = (out["gain_seeds"] == 0) & (BASELINE in suite.guidance)
    status = np.select(
        [out["runs"] == 0, out["seeds"] == 0, no_pair, out["suite_seeds"] < len(suite.seeds)],
        ["not run", "diverged", "no pair", "incomplete"],
        "complete",
    )
    out.insert(out.columns.get_loc("runs"), "status", status)
    out["diverged_seeds"] = out["runs"] - out["seeds"]
    out = out.drop(columns=["runs", "suite_seeds"]).join(_run_stats(finished), on=METHOD)
    gains = out[METHOD].join(_pair_stats(pairs), on=METHOD).drop(columns=METHOD)
    of_itself = [name for name in gains if not name.startswith("epochs_to_reach")]
    gains.loc[out["method"] == BASELINE, of_itself] = np.nan
    on_other_images = finished.loc[finished["evaluated_on"] != "test", "id"]
    first = published[~published["comparable_to"].isin(on_other_images)].dropna(subset="comparable_to")
    first = first.drop_duplicates("comparable_to").set_index("comparable_to").rename(columns={"top1": "value"})
    first = first[["value", "gain", "provenance", "work", "source"]].add_prefix("published_")
    out = out.join(gains).join(first, on="id")
    out["published_difference"] = out["best_mean"] - out["published_value"]
    return out


def _seed_stats(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Per method, the mean and the sample standard deviation of columns: <column>_mean, <column>_std."""
    out = frame.groupby(METHOD)[columns].agg(["mean", "std"])
    out.columns = [f"{name}_{kind}" for name, kind in out.columns]
    return out


def _run_stats(finished: pd.DataFrame) -> pd.DataFrame:
    """The columns of `cells_frame` that follow from a method's own runs."""
    finished = finished.rename(columns={"last_accuracy": "last", "best_accuracy": "best"})
    groups = finished.groupby(METHOD)
    return _seed_stats(finished, ["last", "best", "seconds", "images_per_second", "peak_memory_mib"]).assign(
        device_hours=groups["device_hours"].sum(),
        **{name: groups[name].first() for name in ("device_unit", "parameters", "flops_per_image")},
        machines=groups["machine"].agg(lambda names: "; ".join(sorted(set(names)))),
    )


def _pair_stats(pairs: pd.DataFrame) -> pd.DataFrame:
    """The columns of `cells_frame` that compare a method with the baseline, the baseline with itself too."""
    groups = pairs.groupby(METHOD)
    stats = _seed_stats(pairs, ["gain", "best_gain", *REACH])
    for name in REACH:  # a mean over the seeds that reach it would flatter a method that some seeds do not
        stats.loc[groups[name].count() < groups.size(), [f"{name}_mean", f"{name}_std"]] = np.nan
    intervals = [paired_interval(gains) for _, gains in groups["gain"]]
    stats[["gain_low", "gain_high"]] = np.reshape(np.array(intervals, dtype="float64"), (-1, 2))
    stats["verdict"] = pd.Series([verdict(*interval) for interval in intervals], stats.index, dtype="str")
    return stats

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
OWN_PARTS = (50, 90, 95)  # % of a run's own final accuracy
MACHINE = ["device", "processor", "threads", "world_size"]  # must be equal where wall times are compared
REACH = ["epochs_to_reach", "speedup_epochs", "speedup_seconds", "speedup_seconds_with_teacher"]
# columns of `cells_frame` that are means and are called so in its documentation only
MEANS = ["images_per_second", "peak_memory_mib", *REACH[1:]]


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
    finished = runs[~runs["diverged"]]
    targets = finished.loc[finished["method"] == BASELINE, [*CELL, "seed", "last_accuracy", "best_accuracy"]]
    pairs = finished.merge(targets, on=[*CELL, "seed"], suffixes=("", "_of_baseline"))
    first = first_epochs(curves, pairs[RUN].assign(target=pairs["last_accuracy_of_baseline"]))
    pairs = pairs.assign(
        gain=pairs["last_accuracy"] - pairs["last_accuracy_of_baseline"],
        best_gain=pairs["best_accuracy"] - pairs["best_accuracy_of_baseline"],
        epochs_to_reach=first,
        seconds_to_reach=pairs["seconds"] / pairs["epochs"] * first,
    )
    columns = [*CELL, "seed", "epochs_to_reach", "seconds_to_reach", *MACHINE]
    pairs = pairs.merge(pairs.loc[pairs["method"] == BASELINE, columns], on=[*CELL, "seed"], suffixes=("", "_of_baseline"))
    same_machine = np.logical_and.reduce([pairs[name] == pairs[f"{name}_of_baseline"] for name in MACHINE])
    seconds = pairs["seconds_to_reach_of_baseline"].where(same_machine)
    with_teacher = pairs["seconds_to_reach"] + pairs["teacher_seconds"].fillna(0)
    pairs = pairs.assign(
        speedup_epochs=pairs["epochs_to_reach_of_baseline"] / pairs["epochs_to_reach"],
        speedup_seconds=(seconds / pairs["seconds_to_reach"]).replace(np.inf, np.nan),
        speedup_seconds_with_teacher=(seconds / with_teacher).replace(np.inf, np.nan),
    )
    return pairs[[*RUN, "gain", "best_gain", *REACH]]


def first_epochs(curves: pd.DataFrame, targets: pd.DataFrame) -> np.ndarray:
    """The first epoch in which each run has at least its target accuracy, [runs]; NaN if there is none.

    Args:
        targets: one row per run: the columns RUN, and target in %.
    """
    joined = curves[[*RUN, "epoch", "test_accuracy"]].merge(targets, on=RUN)
    first = joined[joined["test_accuracy"] >= joined["target"]].groupby(RUN)["epoch"].min()
    return targets.join(first.rename("first"), on=RUN)["first"].to_numpy(dtype=float)


def cells_frame(
    suite: Suite,
    recipes: Mapping[str, Recipe],
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    published: pd.DataFrame,
) -> pd.DataFrame:
    """One row per student, dataset and method of the suite, in the suite's order, the baseline first.

    Means and standard deviations are over seeds that finished; a value that does not exist is missing (NaN).

    suite, id, model, dataset, method, hash: of the recipe.
    status: "complete": every seed of the suite has a run; "incomplete": some have; "not run"; "diverged": all runs did;
        "no pair": it has runs, but none with a seed that the baseline has too, so there is no gain.
    seeds, diverged_seeds: numbers of runs that finished, and that diverged.
    last_mean, last_std, best_mean, best_std: test accuracy in % of the last and the best epoch. One seed has no std.
    gain_mean, gain_std: last epoch, in points, seed by seed over the baseline, of gain_seeds pairs; missing for the
        baseline.
    gain_low, gain_high: confidence interval of the mean gain; missing below MIN_SEEDS seeds.
    verdict: "better", "worse", "unclear" (the interval holds zero), "too few seeds"; missing without a gain.
    best_gain_mean, best_gain_std: the same of the best epoch.
    epochs_to_reach_mean, _std: epochs until the final accuracy of the baseline with the same seed is first reached; for the
        baseline itself too. Missing unless all seeds reach it. reached_seeds: how many do, of gain_seeds pairs.
    speedup_epochs, _std: baseline's epochs_to_reach over the method's, mean over seeds; 1 is as fast as the baseline.
    speedup_seconds, _std: the same in wall time; missing unless both ran on the same hardware. It leaves out the teacher's
        own training; speedup_seconds_with_teacher, _std adds it to every run, though all seeds share one teacher.
    area_mean, area_std: mean test accuracy over the epochs, in %.
    epochs_to_50_mean, _std, and of 90, 95: epochs until that % of the own final accuracy.
    seconds_mean, _std: wall time per run. images_per_second, _std: of training. peak_memory_mib: mean.
    device_hours: of all finished runs together, in device_unit, "GPU-hours" or "core-hours".
    parameters, flops_per_image: of the student. machines: the hardware in words.
    published_value, published_gain, published_provenance, published_work, published_source: the first
        comparable published number. published_difference: best_mean minus published_value.
    """
    finished, pairs = runs[~runs["diverged"]], pairs_frame(runs, curves)
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
    out = out.join(_run_stats(finished, curves), on=METHOD).join(_pair_stats(pairs), on=METHOD)
    of_pairs = [name for name in out if name.startswith(("gain_", "best_gain_", "speedup_", "verdict"))]
    out.loc[out["method"] == BASELINE, [name for name in of_pairs if name != "gain_seeds"]] = np.nan
    other_images = out["id"].isin(finished.loc[finished["evaluated_on"] != "test", "id"])
    out = out.join(_first_published(published), on="id")
    out.loc[other_images, [name for name in out if name.startswith("published_")]] = np.nan
    out["published_difference"] = out["best_mean"] - out["published_value"]
    return out.drop(columns=["runs", "suite_seeds"])


def _seed_stats(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Per method, the mean and the sample standard deviation of columns: <column>_mean, <column>_std."""
    out = frame.groupby(METHOD)[columns].agg(["mean", "std"])
    out.columns = [name if kind == "mean" and name in MEANS else f"{name}_{kind}" for name, kind in out.columns]
    return out


def _run_stats(finished: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The columns of `cells_frame` that follow from a method's own runs."""
    finished = finished.assign(
        last=finished["last_accuracy"],
        best=finished["best_accuracy"],
        area=finished.join(curves.groupby(RUN)["test_accuracy"].mean(), on=RUN)["test_accuracy"],
    )
    for part in OWN_PARTS:
        targets = finished[RUN].assign(target=finished["last_accuracy"] * part / 100)
        finished[f"epochs_to_{part}"] = first_epochs(curves, targets)
    parts = [f"epochs_to_{part}" for part in OWN_PARTS]
    stats = _seed_stats(finished, ["last", "best", "area", *parts, "seconds", "images_per_second", "peak_memory_mib"])
    groups = finished.groupby(METHOD)
    costs = {
        "device_hours": groups["device_hours"].sum(),
        **{name: groups[name].first() for name in ("device_unit", "parameters", "flops_per_image")},
        "machines": groups["machine"].agg(lambda names: "; ".join(sorted(set(names)))),
    }
    return stats.join(pd.DataFrame(costs))


def _pair_stats(pairs: pd.DataFrame) -> pd.DataFrame:
    """The columns of `cells_frame` that compare a method with the baseline, the baseline with itself too."""
    groups = pairs.groupby(METHOD)
    stats = _seed_stats(pairs, ["gain", "best_gain", *REACH])
    for name in REACH:  # a mean over the seeds that reach it would flatter a method that some seeds do not
        missing = groups[name].count() < groups.size()
        stats.loc[missing, [column for column in stats if column in (name, f"{name}_mean", f"{name}_std")]] = np.nan
    intervals = {method: paired_interval(gains) for method, gains in groups["gain"]}
    stats["gain_low"] = pd.Series({method: low for method, (low, _) in intervals.items()}, dtype="float64")
    stats["gain_high"] = pd.Series({method: high for method, (_, high) in intervals.items()}, dtype="float64")
    stats["verdict"] = pd.Series({method: verdict(*interval) for method, interval in intervals.items()}, dtype="str")
    return stats


def _first_published(published: pd.DataFrame) -> pd.DataFrame:
    """The first published number that each recipe may be compared with, by the recipe's id."""
    first = published.dropna(subset="comparable_to").drop_duplicates("comparable_to").set_index("comparable_to")
    columns = {"top1": "value", "gain": "gain", "provenance": "provenance", "work": "work", "source": "source"}
    return first[list(columns)].rename(columns={name: f"published_{word}" for name, word in columns.items()})

"""Means over seeds, gains that are paired over seeds, and how soon a method reaches the reference's accuracy.

Gains of several methods in a cell are also tested with the correction of S. Holm, "A simple sequentially rejective multiple
test procedure", Scandinavian Journal of Statistics 6 (1979), 65-70.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from bench.cli import count
from bench.config.names import split_id
from bench.config.schema import Recipe
from bench.config.suite import Suite, SuiteEntry
from bench.report.frame import CELL, METHOD, RUN

CONFIDENCE = 0.95
# With two pairs, the t distribution has one degree of freedom and its interval is 9 standard deviations wide to each side:
# it would say nothing, or by luck too much.
MIN_SEEDS = 3
CHANCE_ERRORS = 3  # standard errors of guessing
CONDITIONS = ["fingerprint", "device", "precision", "threads", "numerics"]  # must be equal in a pair, as `_difference` says
MACHINE = ["device", "processor", "threads", "world_size"]  # must be equal where wall times are compared
REACH = ["epochs_to_reach", "speedup_epochs", "speedup_seconds", "speedup_seconds_with_teacher"]


def paired_interval(differences: pd.Series, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The confidence interval of the mean of paired differences (Student's t); NaN with fewer than MIN_SEEDS of them."""
    half_width = half_width_in_std(len(differences), confidence) * differences.std()
    return differences.mean() - half_width, differences.mean() + half_width


def half_width_in_std(pairs: int, confidence: float) -> float:
    """Half the width of that interval, in standard deviations of the differences; NaN with fewer than MIN_SEEDS pairs."""
    return stdtrit(pairs - 1, (1 + confidence) / 2) / np.sqrt(pairs) if pairs >= MIN_SEEDS else np.nan


def paired_p_value(differences: pd.Series) -> float:
    """The two-sided p-value of the paired t test; NaN with fewer than MIN_SEEDS differences."""
    pairs, mean, std = len(differences), differences.mean(), differences.std()
    if pairs < MIN_SEEDS:
        return np.nan
    if not std:
        return 1.0 if mean == 0 else 0.0
    return 2 * stdtr(pairs - 1, -abs(mean) / std * np.sqrt(pairs))


def holm(p_values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Holm's correction of the p-values of comparisons, without NaN.

    Returns two arrays, in the given order: the corrected p-values, and the confidence of an interval that excludes
    zero where the corrected p-value is below 1 - CONFIDENCE. From the smallest p-value on, the level of rank i of m is
    (1 - CONFIDENCE) / (m - i + 1); from the first that is not below its level on, all have that one's.
    """
    p, level = np.asarray(p_values, dtype="float64"), 1 - CONFIDENCE
    order, left = np.argsort(p, kind="stable"), np.arange(len(p), 0, -1)  # left: comparisons from this rank on
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(np.minimum(p[order] * left, 1))
    rejected = np.count_nonzero(corrected < level)
    confidence = np.empty_like(p)
    confidence[order] = 1 - level / np.maximum(left, len(p) - rejected)
    return corrected, confidence


def verdict(low: float, high: float) -> str:
    """What the confidence interval of a gain allows to say."""
    if np.isnan(low):
        return "too few seeds"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"


def with_reference(runs: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The finished runs whose seed the reference of their cell finished too, the reference's own included.

    target: final accuracy of the reference's run, in %.
    differs: what makes a comparison of the two unfair, "other number of threads" for example; "" for a pair.
    """
    finished, key = runs[~runs["diverged"]], [*CELL, "seed"]
    base = finished.loc[finished["method"] == reference, [*key, "last_accuracy", *CONDITIONS]]
    out = finished.merge(base, on=key, suffixes=("", "_of")).rename(columns={"last_accuracy_of": "target"})
    out["differs"] = pd.Series([_difference(row) for row in out.to_dict("records")], out.index, dtype="str")
    return out


def _difference(row: Mapping[str, Any]) -> str:
    """What differs between a run and its reference's, whose values end with `_of`, although it must not."""
    out = ["images"] if row["fingerprint"] != row["fingerprint_of"] else []
    if row["device"] != row["device_of"]:
        out.append("device")
    if row["device"] == row["device_of"] == "cpu" and row["threads"] != row["threads_of"]:
        out.append("number of threads")  # sums have another order
    if row["precision"] != row["precision_of"]:
        out.append("precision")
    versions, others = row["numerics"], row["numerics_of"]
    if changed := [name for name in sorted(versions.keys() & others.keys()) if versions[name] != others[name]]:
        out.append(f"version of {', '.join(changed)}")
    return f"other {', '.join(out)}" if out else ""


def pairs_frame(runs: pd.DataFrame, curves: pd.DataFrame, reference: str) -> pd.DataFrame:
    """One row per finished run that has a pair: a run of the reference in its cell with the same seed, computed alike.

    Both runs of a pair start from the same weights and see the same images in the same order. The reference's own runs are
    included.

    model, dataset, variant, method, seed, hash: of the run.
    gain, best_gain: test accuracy of the last and of the best epoch minus the reference's, in points.
    reference_at_chance: whether the reference ended at chance, see `_at_chance`. What follows is missing then: an accuracy
        of chance is reached at once.
    epochs_to_reach: the first epoch, from 1, with at least the reference's final accuracy; missing if there is none.
    speedup_epochs: the reference's own epochs_to_reach over the run's, so the reference against itself has exactly 1.
    speedup_seconds: the same in wall time; missing if the runs had different hardware.
    speedup_seconds_with_teacher: the same; each run's time includes the whole training of its own teacher, if it has one.
    """
    paired, key = with_reference(runs, reference), [*CELL, "seed"]
    paired = paired[paired["differs"] == ""].reset_index(drop=True)
    paired["reference_at_chance"] = _at_chance(paired["target"], paired)
    first = _first_epochs(curves, paired[[*RUN, "target"]])
    paired["epochs_to_reach"] = first.mask(paired["reference_at_chance"])
    paired["seconds_to_reach"] = paired["seconds"] / paired["epochs"] * paired["epochs_to_reach"]
    # The reference's runs, one row for each row of `paired`.
    base = paired[key].merge(paired[paired["method"] == reference], on=key)
    seconds = base["seconds_to_reach"].where((paired[MACHINE] == base[MACHINE]).all(axis=1))
    # a run without a teacher has no seconds of one; of a teacher that was read from a file they are unknown
    with_teacher, base_with_teacher = (
        own["seconds_to_reach"] + own["teacher_seconds"].where(own["teacher_key"].notna(), 0) for own in (paired, base)
    )
    return paired[[*RUN, "hash", "reference_at_chance"]].assign(
        gain=paired["last_accuracy"] - base["last_accuracy"],
        best_gain=paired["best_accuracy"] - base["best_accuracy"],
        epochs_to_reach=paired["epochs_to_reach"],
        speedup_epochs=base["epochs_to_reach"] / paired["epochs_to_reach"],
        speedup_seconds=(seconds / paired["seconds_to_reach"]).replace(np.inf, np.nan),
        speedup_seconds_with_teacher=(base_with_teacher.where(seconds.notna()) / with_teacher).replace(np.inf, np.nan),
    )


def guessing(runs: pd.DataFrame) -> pd.Series:
    """The accuracy of always naming the most frequent class of the evaluated images, 0 to 1.

    If a record does not have the share of that class, all classes count as equally frequent.
    """
    return np.maximum(1 / runs["classes"], runs["largest_class"].fillna(0))


def _at_chance(accuracy: pd.Series, runs: pd.DataFrame) -> pd.Series:
    """Whether accuracies in % are not above those of guessing by CHANCE_ERRORS standard errors."""
    chance = guessing(runs)
    return accuracy / 100 <= chance + CHANCE_ERRORS * np.sqrt(chance * (1 - chance) / runs["test_images"])


def _first_epochs(curves: pd.DataFrame, targets: pd.DataFrame) -> pd.Series:
    """The first epoch in which each run has at least its target accuracy in %; NaN if there is none."""
    joined = curves.merge(targets, on=RUN)
    first = joined[joined["test_accuracy"] >= joined["target"]].groupby(RUN)["epoch"].min()
    return targets.join(first, on=RUN)["epoch"].astype("float64")


def cells_frame(
    suite: Suite,
    recipes: Sequence[tuple[SuiteEntry, Recipe]],
    runs: pd.DataFrame,
    pairs: pd.DataFrame,
    published: pd.DataFrame,
) -> pd.DataFrame:
    """One row per entry of the suite: student, dataset, variant and method, in the order of `recipes`.

    Means and sample standard deviations, *_mean and *_std, are over seeds that finished; one seed has no std. A value that
    does not exist is missing (NaN).

    suite, id, model, dataset, variant, method, hash: of the recipe; variant: the varied values, or "".
    status: "complete": every seed of the suite has a run; "incomplete": some have; "not run"; "diverged": all runs did;
        "no pair": it has finished runs, but none that pairs with a run of the reference, so there is no gain.
    seeds, diverged_seeds: numbers of runs that finished, and that diverged.
    gain_seeds: number of pairs. reached_seeds: of those, in how many the run reaches a final accuracy of the reference that
        is above chance.
    chance_seeds: of those, in how many the reference ended at chance, so that reaching it says nothing.
    unpaired: the seeds that both have but that are no pairs, and why: "2 seeds not paired: other number of threads"; or "".
    last_*, best_*: test accuracy in % of the last and the best epoch.
    teacher_mean: accuracy of the teacher's weights that guide, in %; missing without a teacher.
    seconds_*: wall time per run. images_per_second_*: of training. peak_memory_mib_*.
    device_hours: of all finished runs together, in device_unit, "GPU-hours" or "core-hours".
    parameters, flops_per_image: of the student. machines: the hardware in words.
    gain_*, best_gain_*: over the reference, see `pairs_frame`; missing for the reference itself.
    epochs_to_reach_*, speedup_*: missing unless all seeds reach a final accuracy of the reference above chance. For the
        reference, epochs_to_reach_* is when it first has its own, and speedup_* is missing. speedup_seconds_with_teacher_*
        adds the teacher's training to every run, though all seeds share one teacher.
    gain_low, gain_high: confidence interval of the mean gain; missing below MIN_SEEDS seeds.
    verdict: "better", "worse", "unclear" (the interval includes zero), "too few seeds"; missing without a gain.
    p_value: of the paired t test of the gain. comparisons: how many methods of the cell have one.
    p_holm, gain_low_holm, gain_high_holm, verdict_holm: the same, corrected for the comparisons of the cell, see `holm`.
    guidance_stop: where an adaptive schedule ended guidance, in words; missing without such a schedule.
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
        "chance_seeds": pairs.groupby(METHOD)["reference_at_chance"].sum(),
    }
    out = pd.DataFrame(
        [(suite.name, one.id, *split_id(one.id)[:2], one.variant, one.method, recipe.hash) for one, recipe in recipes],
        columns=["suite", "id", *METHOD, "hash"],
    ).join(pd.DataFrame(counts), on=METHOD)
    out[list(counts)] = out[list(counts)].fillna(0).astype("int64")
    has_reference = (out["method"] == suite.reference).groupby([out[name] for name in CELL]).transform("any")
    no_pair = (out["gain_seeds"] == 0) & has_reference
    status = np.select(
        [out["runs"] == 0, out["seeds"] == 0, no_pair, out["suite_seeds"] < len(suite.seeds)],
        ["not run", "diverged", "no pair", "incomplete"],
        "complete",
    )
    out.insert(out.columns.get_loc("runs"), "status", status)
    out["diverged_seeds"] = out["runs"] - out["seeds"]
    out["unpaired"] = _unpaired(out, with_reference(runs, suite.reference))
    out = out.drop(columns=["runs", "suite_seeds"]).join(_run_stats(finished), on=METHOD)
    gains = out[METHOD].join(_pair_stats(pairs, suite.reference), on=METHOD).drop(columns=METHOD)
    of_itself = [name for name in gains if not name.startswith("epochs_to_reach")]
    gains.loc[out["method"] == suite.reference, of_itself] = np.nan
    on_other_images = finished.loc[finished["evaluated_on"] != "test", "id"]
    first = published[~published["comparable_to"].isin(on_other_images)].dropna(subset="comparable_to")
    first = first.drop_duplicates("comparable_to").set_index(["comparable_to", "hash"]).rename(columns={"top1": "value"})
    first = first[["value", "gain", "provenance", "work", "source"]].add_prefix("published_")
    out = out.join(gains).join(first, on=["id", "hash"])
    out["published_difference"] = out["best_mean"] - out["published_value"]
    adaptive = [recipe.guidance is not None and recipe.guidance.schedule.adaptive != "none" for _, recipe in recipes]
    stops = {method: _stop_text(own) for method, own in finished.groupby(METHOD)}
    texts = [stops.get(method) for method in out[METHOD].itertuples(index=False, name=None)]
    out["guidance_stop"] = pd.Series(texts, out.index, dtype="str").where(adaptive)
    return out


def _stop_text(runs: pd.DataFrame) -> str:
    """ "stopped after epoch 6, 7 of 40; 1 seed not stopped" of the runs of a method with an adaptive schedule."""
    stops = sorted(runs["guidance_stop_epoch"].dropna())
    if not stops:
        return "not stopped"
    text = f"stopped after epoch {', '.join(map(str, stops))} of {runs['epochs'].max()}"
    return f"{text}; {count(going, 'seed')} not stopped" if (going := len(runs) - len(stops)) else text


def _unpaired(cells: pd.DataFrame, seeds: pd.DataFrame) -> list[str]:
    """The column `unpaired` of a cells frame, from `with_reference`."""
    sizes = seeds[seeds["differs"] != ""].groupby([*METHOD, "differs"]).size()
    words: dict[tuple[str, ...], list[str]] = {}
    for (*name, why), size in sizes.items():
        words.setdefault(tuple(name), []).append(f"{count(size, 'seed')} not paired: {why}")
    return ["; ".join(words.get(name, ())) for name in cells[METHOD].itertuples(index=False, name=None)]


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
        teacher_mean=groups["teacher_accuracy"].mean().round(4),  # as records have it: means of equal values may differ
        device_hours=groups["device_hours"].sum(),
        **{name: groups[name].first() for name in ("device_unit", "parameters", "flops_per_image")},
        machines=groups["machine"].agg(lambda names: "; ".join(sorted(set(names)))),
    )


def _pair_stats(pairs: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The columns of `cells_frame` that compare a method with the reference, the reference with itself too."""
    groups = pairs.groupby(METHOD)
    stats = _seed_stats(pairs, ["gain", "best_gain", *REACH])
    for name in REACH:  # a mean over only the seeds that reach the accuracy would flatter the method
        stats.loc[groups[name].count() < groups.size(), [f"{name}_mean", f"{name}_std"]] = np.nan
    stats["p_value"] = groups["gain"].agg(paired_p_value)
    tested = stats.assign(hash=groups["hash"].first()).loc[stats.index.get_level_values("method") != reference]
    rows = []
    for _, own in tested.dropna(subset="p_value").groupby(CELL):
        distinct = own.drop_duplicates("hash")  # two rows of the same runs are one comparison
        values = dict(zip(distinct["hash"], zip(*holm(distinct["p_value"]), strict=True), strict=True))
        rows += [(key, len(distinct), *values[recipe]) for key, recipe in own["hash"].items()]
    corrected = pd.DataFrame(rows, columns=["method", "comparisons", "p_holm", "confidence"]).set_index("method")
    stats[["comparisons", "p_holm"]] = corrected[["comparisons", "p_holm"]].reindex(stats.index)
    for end, confidence in (("", dict.fromkeys(stats.index, CONFIDENCE)), ("_holm", corrected["confidence"])):
        intervals = [paired_interval(gains, confidence.get(key, np.nan)) for key, gains in groups["gain"]]
        stats[[f"gain_low{end}", f"gain_high{end}"]] = np.reshape(np.array(intervals, dtype="float64"), (-1, 2))
        stats[f"verdict{end}"] = pd.Series([verdict(*interval) for interval in intervals], stats.index, dtype="str")
    return stats

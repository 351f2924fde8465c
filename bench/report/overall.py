"""What the gains of all students, datasets and varied values of a suite say together."""

from __future__ import annotations

import pandas as pd

from bench.cli import count
from bench.config.suite import BASELINE, Suite
from bench.report.frame import CELL
from bench.report.stats import CONFIDENCE, MIN_SEEDS, holm, paired_interval

_SPEEDUPS = {
    "speedup_epochs_mean": "in epochs",
    "speedup_seconds_mean": "in time",
    "speedup_seconds_with_teacher_mean": "with the teacher's training",
}


def overall_gains(suite: Suite, pairs: pd.DataFrame) -> pd.Series:
    """The mean gain over the cells of a suite in points, by seed.

    Only seeds that all cells with a gain have count. Empty unless the suite has two methods, no varied keys and several
    cells: other suites have more than one kind of gain, or one cell. pairs: see `stats.pairs_frame`.
    """
    gains = pairs[pairs["method"] != suite.reference].pivot_table(index=CELL, columns="seed", values="gain")
    has_one = len(suite.methods) == 2 and not suite.vary and len(gains) > 1
    return gains.dropna(axis="columns").mean() if has_one else pd.Series(dtype="float64")


def overall_notes(suite: Suite, cells: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Sentences on the gains of all cells of a suite together, none where it has nothing to say on them.

    Of several students or datasets: on the mean of `overall_gains`, on which gains are clear, and on speed-ups. Of a suite
    that varies a number: on how far the gain of the last value differs from that of the first.

    cells: see `stats.cells_frame`.
    """
    return _over_cells(suite, cells, pairs) + (_over_values(pairs, suite.reference) if suite.varied_number else [])


def _over_values(pairs: pd.DataFrame, reference: str) -> list[str]:
    """A sentence per student, dataset and method on the gain of the last varied value minus that of the first."""
    out, others = [], pairs[pairs["method"] != reference]
    for (model, dataset, method), own in others.groupby(["model", "dataset", "method"], sort=False):
        gains = own.pivot_table(index="seed", columns="variant", values="gain", sort=False)
        first, last = gains.columns[[0, -1]]
        differences = (gains[last] - gains[first]).dropna()
        if first != last and len(differences) >= MIN_SEEDS:
            low, high = paired_interval(differences)
            out.append(
                f"{method}, {model} on {dataset}: with {last}, the gain minus that with {first} is"
                f" {differences.mean():+.2f} points ({low:+.2f} to {high:+.2f}, over {count(len(differences), 'seed')})."
            )
    return out


def _over_cells(suite: Suite, cells: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """A sentence on the mean gain, and one on the ranges of speed-ups that all cells with a speed-up have."""
    gains, tested = overall_gains(suite, pairs), cells.dropna(subset="p_value")
    if len(gains) < MIN_SEEDS:
        return []
    method, reference = tested["method"].iloc[0], "the baseline" if suite.reference == BASELINE else suite.reference
    low, high = paired_interval(gains)
    corrected, _ = holm(tested["p_value"])
    clear = tested[corrected < 1 - CONFIDENCE]
    is_by_student = tested["dataset"].nunique() == 1
    cell = "student" if is_by_student else "cell"  # a student on a dataset
    names = f": {', '.join(clear['model'])}" if is_by_student and len(clear) else ""
    teachers = tested["teacher_mean"].dropna().unique()
    out = [
        f"Mean gain of {method} over {count(len(tested), cell)}: {gains.mean():.2f} points ({low:.2f} to {high:.2f},"
        f" {count(len(gains), 'seed')}). With Holm's correction for {len(tested)} comparisons, {count(len(clear), 'gain')}"
        f" {'is' if len(clear) == 1 else 'are'} clear{names}."
        + (f" The teacher has {teachers[0]:.2f} %." if len(teachers) == 1 else "")
    ]
    reached = cells[cells["method"] != suite.reference].dropna(subset="speedup_epochs_mean")
    if len(reached):
        ranges = [(reached[name], text) for name, text in _SPEEDUPS.items() if reached[name].notna().all()]
        said = ", ".join(f"{own.min():.1f} to {own.max():.1f} {text}" for own, text in ranges)
        out.append(f"Speed-up to the final accuracy of {reference}, {count(len(reached), cell)}: {said} (below 1: slower).")
    return out

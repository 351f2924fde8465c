"""Runs of the same recipes and seeds on other machines, beside those that count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.cli import count
from bench.config.suite import SuiteEntry
from bench.report.frame import CELL, METHOD, RUN, runs_frame
from bench.runs.finished import FinishedRun

TITLE = "The same recipes on other machines"
NOTE = (
    "Of the seeds that both machines have finished: mean accuracies of the last epoch in %, there and here, and the mean"
    " difference. Gain: over {reference} with the same seed, in points. None of these runs is in the other tables."
)
NUMBERS = ["there", "here", "difference", "gain_there", "gain_here"]


def reproductions_frame(
    runs: pd.DataFrame, pairs: pd.DataFrame, placed: Sequence[tuple[FinishedRun, SuiteEntry]], reference: str
) -> pd.DataFrame:
    """One row per other machine and recipe, in the order of `runs`; empty if there are no reproductions.

    Args:
        runs, pairs: the frames of `SuiteReport`.
        placed: the reproductions, each with its entry of the suite.
        reference: the method that gains are over.

    Columns:
        where: the machine in words, with the libraries that are others there. METHOD: of the recipe.
        seeds: with an accuracy there and here. diverged_seeds: those that diverged there, or here.
        there, here, difference: means over these seeds, in % and points. largest: the largest difference of one seed.
        gain_there, gain_here: means over the seeds that have both, in points; missing for the reference.
    """
    if not placed:
        return pd.DataFrame(columns=["where", *METHOD, *NUMBERS, "largest", "seeds", "diverged_seeds"])
    theirs = runs_frame(placed).rename(columns={"machine": "where"})
    own = [*RUN, "last_accuracy", "compile", "libraries"]
    both = theirs[["where", *own]].merge(runs[own], on=RUN, suffixes=("_there", "_here"))
    both["where"] += [_differing(row) for row in both.to_dict("records")]
    both = both.rename(columns={"last_accuracy_there": "there", "last_accuracy_here": "here"})
    both["difference"] = both["there"] - both["here"]
    both.loc[both["difference"].isna(), ["there", "here"]] = np.nan  # diverged there or here
    at = ["where", *CELL, "seed"]
    base = both.loc[both["method"] == reference, [*at, "there"]]
    both = both.merge(base, on=at, how="left", suffixes=("", "_base")).merge(pairs[[*RUN, "gain"]], on=RUN, how="left")
    gain_there = both["there"] - both["there_base"]
    has_both = gain_there.notna() & both["gain"].notna() & (both["method"] != reference)
    both["gain_there"], both["gain_here"] = gain_there.where(has_both), both["gain"].where(has_both)
    groups = both.assign(largest=both["difference"].abs()).groupby(["where", *METHOD], sort=False)
    out = groups[NUMBERS].mean()
    out["largest"], out["seeds"] = groups["largest"].max(), groups["difference"].count()
    out["diverged_seeds"] = groups.size() - out["seeds"]
    return out.reset_index().sort_values("where", kind="stable", ignore_index=True)


def reproduction_notes(frame: pd.DataFrame) -> list[str]:
    """A sentence that counts the reproductions, and has the largest difference; none if there are none."""
    if frame.empty:
        return []
    diverged, largest = int(frame["diverged_seeds"].sum()), frame["largest"].max()
    runs = int(frame["seeds"].sum()) + diverged
    text = f"{count(runs, 'run')} {'was' if runs == 1 else 'were'} repeated on other machines"
    text += "" if pd.isna(largest) else f"; the largest difference is {largest:.2f} points"
    text += f"; {diverged} of them cannot be compared, since a run diverged" if diverged else ""
    return [f"{text}."]


def _differing(row: dict[str, object]) -> str:
    """The libraries of a reproduction that are others than those of the run, as the end of the name of its machine."""
    there, here = row["libraries_there"], row["libraries_here"]
    out = [f"{name} {version}" for name, version in there.items() if here.get(name) != version]
    out += [f"compile {row['compile_there']}"] if row["compile_there"] != row["compile_here"] else []
    return f" with {', '.join(out)}" if out else ""

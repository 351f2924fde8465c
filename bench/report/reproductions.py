"""Runs of the same recipes and seeds on other machines, beside those that count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.cli import count
from bench.config.suite import SuiteEntry
from bench.report.frame import CELL, METHOD, RUN, machine, runs_frame
from bench.runs.finished import FinishedRun

TITLE = "The same recipes on other machines"
NOTE = (
    "Of the seeds that both machines have finished: mean accuracies of the last epoch in %, there and here, and the mean"
    " difference. Gain: over {reference} with the same seed, in points. None of these runs is in the other tables."
)


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
        seeds: with an accuracy there and here. diverged: seeds that diverged there, or here.
        there, here, difference: means over these seeds, in % and points. largest: the largest difference of one seed.
        gain_there, gain_here: means over the seeds that have both, in points; missing for the reference.
    """
    columns = ["where", *METHOD, "seeds", "diverged", "there", "here", "difference", "largest", "gain_there", "gain_here"]
    if not placed:
        return pd.DataFrame(columns=columns)
    frame = runs_frame([run for run, _ in placed], [entry for _, entry in placed])
    theirs = frame[[*RUN, "last_accuracy", "compile", "libraries"]].assign(where=[machine(run.record) for run, _ in placed])
    both = theirs.merge(runs[[*RUN, "last_accuracy", "compile", "libraries"]], on=RUN, suffixes=("_there", "_here"))
    both["where"] += [_differing(row) for row in both.to_dict("records")]
    both = both.merge(pairs[[*RUN, "gain"]], on=RUN, how="left")
    at = ["where", *CELL, "seed"]
    base = both.loc[both["method"] == reference, [*at, "last_accuracy_there"]].rename(
        columns={"last_accuracy_there": "base"}
    )
    both = both.merge(base, on=at, how="left")
    both["difference"] = both["last_accuracy_there"] - both["last_accuracy_here"]
    both["gain_there"] = (both["last_accuracy_there"] - both["base"]).where(both["gain"].notna())
    both["gain_here"] = both["gain"].where(both["gain_there"].notna())
    both.loc[both["method"] == reference, ["gain_there", "gain_here"]] = np.nan
    both["largest"] = both["difference"].abs()
    for side in ("there", "here"):
        both[side] = both[f"last_accuracy_{side}"].where(both["difference"].notna())
    grouped = both.groupby(["where", *METHOD], sort=False)
    out = grouped[["there", "here", "difference", "gain_there", "gain_here"]].mean()
    out["largest"], out["seeds"] = grouped["largest"].max(), grouped["difference"].count()
    out["diverged"] = grouped.size() - out["seeds"]
    order = {key: number for number, key in enumerate(runs[METHOD].itertuples(index=False, name=None))}
    out = out.reset_index()
    out["order"] = [order[key] for key in out[METHOD].itertuples(index=False, name=None)]
    return out.sort_values(["where", "order"], kind="stable", ignore_index=True)[columns]


def reproduction_notes(frame: pd.DataFrame) -> list[str]:
    """A sentence that counts the reproductions, and has the largest difference; none if there are none."""
    if frame.empty:
        return []
    runs, largest = int(frame["seeds"].sum() + frame["diverged"].sum()), frame["largest"].max()
    verb, difference = (
        "was" if runs == 1 else "were",
        "" if pd.isna(largest) else f"; the largest difference is {largest:.2f} points",
    )
    diverged = int(frame["diverged"].sum())
    other = f"; of {diverged} of them, one of the two runs diverged" if diverged else ""
    return [f"{count(runs, 'run')} {verb} repeated on other machines{difference}{other}."]


def _differing(row: dict[str, object]) -> str:
    """The libraries of a reproduction that are others than those of the run, as the end of the name of its machine."""
    there, here = row["libraries_there"], row["libraries_here"]
    out = [f"{name} {version}" for name, version in there.items() if here.get(name) != version]
    out += [f"compile {row['compile_there']}"] if row["compile_there"] != row["compile_here"] else []
    return f" with {', '.join(out)}" if out else ""

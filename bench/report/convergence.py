"""How soon a run gets there: the paper's second claim, in numbers (arXiv 2207.10026, figure 1 and section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench.report.spread import SeedStats

PARTS = (50, 90, 95)  # % of the final accuracy


def epochs_until(curve: Sequence[float], accuracy: float) -> int | None:
    """The first epoch, from 1, whose test accuracy is at least `accuracy`; None: never."""
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= accuracy), None)


def area(curve: Sequence[float]) -> float:
    """The area under the curve of test accuracy by epoch, as the mean over epochs: in %, whatever their number."""
    return fmean(curve)


def of_arm(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Of the runs of one arm, by seed: area under the curve in %, and epochs until parts of the own final accuracy."""
    curves = {seed: run["history"]["test_accuracy"] for seed, run in runs.items()}
    return {
        "area": SeedStats.of({seed: area(curve) for seed, curve in curves.items()}),
        "epochs_to": {
            str(part): SeedStats.of({s: epochs_until(curve, curve[-1] * part / 100) for s, curve in curves.items()})
            for part in PARTS
        },
    }


def against(guided: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """When the guided run of a seed first has the accuracy that the baseline of that seed ends with.

    Returns:
        reached, pairs: how many guided runs ever reach it, of how many pairs of seeds.
        epochs: of the guided runs that do, from 1.
        speedup_epochs: the baseline's epochs over those.
        speedup_time: the same in wall time, the teacher's own training left out; None unless all ran on the same hardware.
        speedup_time_with_teacher: with the teacher's training added to each guided run, though all seeds share one.
    """
    seeds = sorted(guided.keys() & baseline.keys())
    ends = {s: baseline[s]["history"]["test_accuracy"][-1] for s in seeds}
    epochs = {s: epochs_until(guided[s]["history"]["test_accuracy"], ends[s]) for s in seeds}
    reached = {s: epoch for s, epoch in epochs.items() if epoch is not None}

    def ratio(seed: int, epoch: int, before: float) -> float | None:
        took = before + guided[seed]["seconds"] / guided[seed]["epochs"] * epoch
        return baseline[seed]["seconds"] / took if took > 0 else None

    alike = len({str((run["hardware"], run["world_size"])) for runs in (guided, baseline) for run in runs.values()}) == 1
    timed = reached if alike else {}
    teachers = {s: (guided[s].get("teacher") or {}).get("seconds", 0.0) for s in timed}
    return {
        "reached": len(reached),
        "pairs": len(seeds),
        "epochs": SeedStats.of(reached),
        "speedup_epochs": SeedStats.of({s: baseline[s]["epochs"] / epoch for s, epoch in reached.items()}),
        "speedup_time": SeedStats.of({s: ratio(s, epoch, 0.0) for s, epoch in timed.items()}),
        "speedup_time_with_teacher": SeedStats.of({s: ratio(s, epoch, teachers[s]) for s, epoch in timed.items()}),
    }

"""The table of the same recipes on other machines."""

from __future__ import annotations

import pytest

from bench.config.registry import Registry
from bench.report.reproductions import reproduction_notes
from bench.report.suite_report import build_suite_report
from bench.report.tables import reproduction_tables
from bench.runs.record import Hardware
from tests.helpers.synthetic import quick_run, three_seeds

registry = Registry()
CPU = {"hardware": Hardware("cpu", "Xeon", 2)}


def report(*reproductions):
    return build_suite_report(registry, registry.suite("quick"), three_seeds(), reproductions)


def test_accuracies_and_gains_there_stand_beside_those_of_the_same_seeds_here():
    there = [quick_run("baseline", seed, [81.0 + seed], **CPU) for seed in range(2)]
    there += [quick_run("guided", seed, [95.0], **CPU) for seed in range(2)]
    there.append(quick_run("guided", 2, [50.0], diverged=True, **CPU))
    there.append(quick_run("guided", 0, [91.0], libraries={"torch": "9"}, **CPU))
    built = report(*there)
    tables = reproduction_tables(built)
    assert list(tables) == ["1 x Xeon, 2 threads, bf16", "1 x Xeon, 2 threads, bf16 with torch 9"]
    columns = ["method", "seeds", "mean there", "mean here", "mean difference", "gain there", "gain here"]
    own = tables["1 x Xeon, 2 threads, bf16"]
    assert own[columns].to_numpy().tolist() == [
        ["baseline", "2", "81.50", "81.00", "+0.50", "", ""],
        ["guided", "2, 1 diverged", "95.00", "92.00", "+3.00", "+13.50", "+11.00"],
    ]
    other = tables["1 x Xeon, 2 threads, bf16 with torch 9"].to_numpy().tolist()
    assert other == [["deit_micro", "digits", "guided", "1", "91.00", "90.00", "+1.00"]]  # no baseline there: no gain
    assert reproduction_notes(built.reproductions) == [
        "6 runs were repeated on other machines; the largest difference is 5.00 points; 1 of them cannot be compared,"
        " since a run diverged."
    ]
    assert built.cells["last_mean"].tolist() == [82.0, 92.0]  # of the runs here alone


@pytest.mark.parametrize("diverged", [True, False])
def test_one_reproduction_or_none(diverged):
    assert reproduction_tables(report()) == {} and reproduction_notes(report().reproductions) == []
    built = report(quick_run("guided", 1, [94.0], diverged=diverged, **CPU))
    (note,) = reproduction_notes(built.reproductions)
    assert note.startswith("1 run was repeated on other machines") and ("0.00 points" in note) != diverged

"""Uniting runs from several places: nothing depends on the order but which run counts, and no seed counts twice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.schema import RecipeError
from bench.report.unite import other_code_notes, unite
from bench.runs.record import DatasetSummary, Hardware
from tests.helpers.synthetic import quick_run

MACHINES = [
    {"hardware": Hardware("NVIDIA H200", "A", 8)},
    {"hardware": Hardware("cpu", "B", 1)},
    {"hardware": Hardware("cpu", "B", 2)},
    {"hardware": Hardware("cpu", "B", 1), "libraries": {"python": "3.11.0", "torch": "9"}},
]
# each machine gives its own result, and always the same
RUNS = {
    (method, seed, machine): quick_run(method, seed, (80.0, 90.0 + machine + seed / 10), **MACHINES[machine])
    for method, seed, machine in itertools.product(("baseline", "guided"), range(3), range(len(MACHINES)))
}
folders = st.lists(st.sampled_from(sorted(RUNS)).map(RUNS.get), max_size=12)


def places(united):
    """What was kept: recipes, seeds and machines."""
    return {(run.key, run.record.environment) for run in [*united.runs, *united.reproductions]}


@given(folders, folders)
def test_uniting_keeps_every_machine_once_in_any_order(a, b):
    one, other = unite([*a, *b]), unite([*b, *a])
    assert places(one) == places(other) == {(run.key, run.record.environment) for run in [*a, *b]}
    assert {run.key for run in one.runs} == {run.key for run in other.runs}
    assert len(one.runs) + len(one.reproductions) == len(places(one)) and not one.conflicts


@given(folders, folders)
def test_uniting_again_changes_nothing(a, b):
    once = unite([*a, *b])
    assert unite([*once.runs, *once.reproductions, *a, *b, *once.runs]) == once


@given(folders)
def test_no_seed_counts_twice_and_the_first_one_counts(runs):
    united = unite(runs)
    keys = [run.key for run in united.runs]
    assert len(set(keys)) == len(keys)
    assert united.runs == [next(run for run in runs if run.key == key) for key in dict.fromkeys(run.key for run in runs)]


def test_an_equal_machine_with_other_numbers_is_a_conflict():
    run, other = quick_run("guided", 0, (80.0, 90.0)), quick_run("guided", 0, (80.0, 91.0))
    united = unite([run, other])
    assert united.runs == [run] and not united.reproductions
    assert "record deit_micro/digits/guided seed 0: " in united.conflicts[0] and "91.00 %" in united.conflicts[0]
    slower = quick_run("guided", 0, (80.0, 90.0), seconds=99.0, weights="f" * 64)
    assert unite([run, slower]).conflicts == []  # times differ each time


def test_runs_of_other_images_are_not_united():
    other = DatasetSummary("f" * 64, 10, 5000, 1000, None, "test")
    with pytest.raises(RecipeError, match="of other images"):
        unite([quick_run("guided", 0), quick_run("guided", 1, dataset=other)])


def test_runs_of_other_code_stand_in_no_row_with_the_first():
    old = {**quick_run("guided", 0).record.numerics, "guidance.locality": "sha256:0123456789"}
    runs = [quick_run("guided", 1, numerics=old), quick_run("guided", 0), quick_run("guided", 2), quick_run("baseline", 0)]
    united = unite(runs)
    assert (united.runs, united.other_code) == ([runs[0], runs[3]], runs[1:3]) and not united.reproductions
    assert other_code_notes(united) == [
        "2 of 4 runs are left out, recorded with other code (guidance.locality 1, the others have sha256:01234567)."
    ]
    assert other_code_notes(unite(runs[1:])) == []

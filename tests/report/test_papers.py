from __future__ import annotations

import pandas as pd
import pytest

from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.report.papers import MARKS, numbers, published_frame
from bench.report.suite_report import build_suite_report
from bench.runs.record import DatasetSummary
from tests.helpers.synthetic import make_run, methods

registry = Registry()


def comparable(recipe_id, *settings):
    recipes = [registry.compose(recipe_id, "paper", settings)]
    return published_frame(registry, recipes).dropna(subset="comparable_to").to_dict("records")


def test_runs_of_a_part_of_the_classes_stand_beside_no_published_number():
    whole, part = (registry.compose("deit_tiny/cifar100/guided", "paper", some) for some in ((), ["data.subset=20"]))
    assert len(published_frame(registry, [whole])) and published_frame(registry, [part]).empty


def test_the_papers_own_numbers_come_first():
    baseline, guided = (comparable(f"deit_tiny/cifar100/{method}") for method in ("baseline", "guided"))
    assert (baseline[0]["top1"], guided[0]["top1"], guided[0]["gain"]) == (65.08, 78.15, 13.07)
    assert baseline[0]["provenance"] == "first-hand" and baseline[0]["comparable_to"] == "deit_tiny/cifar100/baseline"
    assert {row["method"] for row in guided} == {"LG"}
    assert comparable("deit_tiny/flowers102/guided")[0]["provenance"] == "second-hand"


@pytest.mark.parametrize(
    ("recipe_id", "settings"),
    [
        ("deit_tiny/cifar100/guided", ["teacher.model.name=resnet110"]),
        ("deit_tiny/cifar100/guided", ["model.image_size=128"]),
        ("deit_tiny/cifar100/guided", ["guidance.params.weight=1.0"]),
        ("deit_tiny/cifar100/baseline", ["train.epochs=100"]),
        ("deit_tiny/cifar100/baseline", ["data.train_limit=5000"]),
        ("deit_tiny/cifar100/kd", []),  # LG is another method
        ("deit_tiny/tiny_imagenet/guided", []),  # published with another teacher only
        ("deit_micro/digits/baseline", []),
    ],
)
def test_other_experiments_are_not_compared(recipe_id, settings):
    assert comparable(recipe_id, *settings) == []


def test_settings_that_do_not_change_the_mathematics_do_not_matter():
    assert comparable("deit_tiny/cifar100/guided", "train.micro_batch=32", "data.residence=host")


def test_a_cell_has_the_difference_of_best_epochs_on_the_test_set_only():
    suite = Suite("mine", "paper", ("deit_tiny",), ("cifar100",), methods("baseline"), (0,))
    recipe = registry.compose("deit_tiny/cifar100/baseline", suite=suite)
    report = build_suite_report(registry, suite, [make_run("mine", recipe, [66.08, 60.0])])
    row = report.cells.iloc[0]
    assert (row["published_value"], row["published_difference"]) == (65.08, pytest.approx(1.0))
    assert set(report.published["dataset"]) == {"cifar100"} and "LG" in set(report.published["method"])
    share = DatasetSummary("0" * 64, 100, 50000, 10000, None, "share")
    other = build_suite_report(registry, suite, [make_run("mine", recipe, [66.08], dataset=share)])
    assert pd.isna(other.cells.iloc[0]["published_value"])


def test_every_number_has_a_source():
    rows = numbers()
    assert rows["top1"].between(0, 100).all() and rows["source"].notna().all() and set(rows["provenance"]) <= set(MARKS)
    assert "LG (Li et al. ECCV 2022)" in set(rows.loc[rows["provenance"] == "first-hand", "work"])

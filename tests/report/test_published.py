from __future__ import annotations

import pytest

from bench.config.registry import Registry
from bench.report import published

registry = Registry()


def compared(recipe_id, *settings):
    return published.comparable(registry.compose(recipe_id, "paper", settings), registry.compose(recipe_id, "paper"))


def test_the_papers_own_numbers_come_first():
    baseline, guided = (compared(f"deit_tiny/cifar100/{arm}") for arm in ("baseline", "guided"))
    assert (baseline[0].top1, guided[0].top1) == (65.08, 78.15)
    assert baseline[0].provenance == "first-hand" and baseline[0].mark == ""
    assert {row.method for row in guided} == {"LG"}


def test_quoted_numbers_are_marked():
    (first, *_) = compared("deit_tiny/flowers102/guided")
    assert (first.provenance, first.mark) == ("second-hand", "†")


@pytest.mark.parametrize(
    ("recipe_id", "settings"),
    [
        ("deit_tiny/cifar100/guided", ["teacher.model.name=resnet110"]),
        ("deit_tiny/cifar100/guided", ["model.image_size=128"]),
        ("deit_tiny/cifar100/guided", ["guidance.weight=1.0"]),
        ("deit_tiny/cifar100/baseline", ["train.epochs=100"]),
        ("deit_tiny/cifar100/baseline", ["data.train_limit=5000"]),
        ("deit_tiny/cifar100/logit-soft", []),  # LG is another method
        ("deit_tiny/tiny_imagenet/guided", []),  # published with another teacher only
        ("deit_micro/digits/baseline", []),
    ],
)
def test_nothing_is_held_against_other_experiments(recipe_id, settings):
    assert compared(recipe_id, *settings) == []


def test_what_does_not_change_the_mathematics_does_not_matter():
    assert compared("deit_tiny/cifar100/guided", "train.micro_batch=32", "data.residence=host")


def test_every_number_says_where_it_is_from():
    rows = published.numbers()
    assert all(0 < row.top1 <= 100 and row.source and row.provenance in published.MARKS for row in rows)
    assert {row.work for row in rows if row.provenance == "first-hand"} >= {"LG (Li et al. ECCV 2022)"}

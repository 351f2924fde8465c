"""The hash of a recipe, and its plain form in records."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.compose import recipe_from_dict
from bench.config.names import path_part
from bench.config.registry import Registry
from bench.config.schema import SECTIONS, RecipeError
from tests.helpers.suite_hashes import PINNED, suite_hashes

registry = Registry()
GUIDED = "deit_tiny/cifar100/guided"
SAME_MATHEMATICS = """
train.device=cpu data.workers=3 train.test_batch_size=7 data.hub=a/b teacher.train.device=cpu train.micro_batch=64
train.compile=off train.threads=3 train.checkpoint_seconds=0 data.residence=host
"""
OTHER_MATHEMATICS = """
train.lr=0.1 teacher.seed=1 teacher.train.epochs=2 train.precision=bf16 data.train_limit=9000 data.pipeline=pil
guidance.params.weight=1 guidance.params.transform=attention guidance.schedule.until_epoch=100 teacher.bn=running
teacher.bn_scope=local teacher.antialias=true teacher.select=best teacher.offline=true
augment.mixup=1 augment.cutmix=1 train.label_smoothing=0.1 train.ema=0.9 train.lr_per=step
"""
DEFAULTS = """
augment.padding=0 guidance.params.weight=2.5 guidance.params.transform=linear guidance.params.stages=null
guidance.schedule.from_epoch=0 teacher.bn=batch teacher.offline=false
augment.mixup=0 augment.mix_switch=0.5 augment.mix_prob=1 train.label_smoothing=0 train.ema=0 train.lr_per=epoch
"""


def hash_of(*assignments, recipe_id=GUIDED):
    return registry.compose(recipe_id, "paper", assignments).hash


def test_hashes_of_the_shipped_suites_are_pinned():
    assert suite_hashes() == json.loads(PINNED.read_text())


@pytest.mark.parametrize("assignment", (SAME_MATHEMATICS + DEFAULTS).split())
def test_a_key_that_does_not_change_the_mathematics_or_is_at_its_default_does_not_change_the_hash(assignment):
    assert hash_of(assignment) == hash_of()  # so a key that a later version adds changes no hash


@pytest.mark.parametrize("assignment", OTHER_MATHEMATICS.split())
def test_a_key_that_changes_the_mathematics_changes_the_hash(assignment):
    assert hash_of(assignment) != hash_of()


def test_the_seed_is_not_part_of_the_hash():
    recipe = registry.compose(GUIDED, "paper")
    assert registry.compose(GUIDED, "paper", seed=5).hash == recipe.hash
    assert recipe.with_seed(5) == registry.compose(GUIDED, "paper", seed=5)


def test_feature_layers_are_hashed_only_if_the_student_imitates_maps():
    def hashes(recipe_id, *assignments):
        recipe = registry.compose(recipe_id, "paper", assignments)
        return recipe.hash, recipe.teacher and recipe.teacher.hash

    student = "model.feature_layers=[blocks.1, blocks.5, blocks.10]"
    teacher = "teacher.model.feature_layers=[conv, stages.0, stages.1]"
    for assignment in (student, teacher):
        changed, its_teacher = hashes(GUIDED, assignment)
        assert changed != hashes(GUIDED)[0] and its_teacher == hashes(GUIDED)[1]  # the same trained teacher serves both
        assert hashes("deit_tiny/cifar100/kd", assignment) == hashes("deit_tiny/cifar100/kd")
    assert hashes("deit_tiny/cifar100/baseline", student) == hashes("deit_tiny/cifar100/baseline")


def test_methods_can_be_joined():
    recipe = registry.compose(
        "deit_tiny/cifar100/kd",
        "paper",
        ["guidance.method=kd+locality", "guidance.params.weight=1", "guidance.params.alpha=0.3"],
    )
    kd, locality = recipe.guidance.params
    assert (kd.temperature, kd.alpha, locality.weight) == (4.0, 0.3, 1.0)
    assert recipe.guidance.needs == {"logits", "maps"} and recipe.guidance.student_maps
    assert recipe_from_dict(recipe.to_dict(), "it") == recipe


ASSIGNMENTS = {
    "guidance.params.weight": st.floats(1e-3, 1e3),
    "guidance.params.stages": st.lists(st.integers(0, 2), min_size=1, unique=True),
    "guidance.schedule.from_epoch": st.integers(0, 99),
    "guidance.schedule.until_epoch": st.none() | st.integers(100, 300),
    "train.lr": st.floats(1e-6, 10),
    "augment.mean": st.tuples(*[st.floats(0, 1)] * 3).map(list),
    "data.holdout": st.floats(0, 0.9),
    "data.short_side": st.none() | st.integers(1, 512),
    "model.feature_layers": st.lists(st.text("abc.", min_size=1), min_size=3, max_size=3),
    "teacher.bn": st.sampled_from(["batch", "running"]),
    "teacher.antialias": st.booleans(),
    "teacher.seed": st.integers(0, 2**63 - 1),
    "teacher.train.epochs": st.integers(1, 300),
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=ASSIGNMENTS), st.integers(0, 2**63 - 1))
def test_a_recipe_is_read_back_from_its_plain_form(values, seed):
    assignments = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    recipe = registry.compose(GUIDED, "paper", assignments, seed=seed)
    again = recipe_from_dict(json.loads(json.dumps(recipe.to_dict())), "a record")
    assert again == recipe and again.hash == recipe.hash
    assert all(key in recipe.to_dict()[section] for section in SECTIONS for key in _keys(section))


def _keys(section):
    return [f.name for f in dataclasses.fields(SECTIONS[section])]


@pytest.mark.parametrize(
    "content", [None, [], {}, {"id": GUIDED}, {"model": 1}, {"model": {"nonsense": 1}}, {"teacher": {"teacher": {}}}]
)
def test_what_is_not_a_recipe_is_refused(content):
    with pytest.raises(RecipeError, match=r"^a record: "):
        recipe_from_dict(content, "a record")


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,5}", fullmatch=True)
DATASETS = (
    NAMES
    | NAMES.map("folder:{}".format)
    | NAMES.map("hub:{}".format)
    | st.tuples(NAMES, NAMES).map("hub:{0[0]}/{0[1]}".format)
)


@given(st.lists(DATASETS | NAMES.map("timm:{}".format), unique=True, min_size=2))
def test_no_two_names_share_a_folder(names):
    assert len({path_part(name) for name in names}) == len(names)
    assert all(not set(path_part(name)) & set("/:%\\") for name in names)

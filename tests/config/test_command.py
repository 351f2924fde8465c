"""The command that repeats a recipe, for random settings."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import run
from bench.cli import compose
from bench.config import command
from bench.config.registry import Registry
from bench.config.schema import RecipeError

REGISTRY = Registry()
TRAINING = {
    "train.epochs": st.integers(2, 9),
    "train.lr": st.floats(0, 1),
    "train.betas": st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)).map(list),
    "train.micro_batch": st.sampled_from(["null", 8]),
    "train.device": st.sampled_from(["cpu", "auto"]),
    "train.compile": st.sampled_from(["off", "auto"]),
    "model.feature_layers": st.sampled_from(["[blocks.0, blocks.1]", "[blocks.0, blocks.2, blocks.5]", "[]"]),
    "augment.mean": st.lists(st.floats(0, 1), min_size=3, max_size=3),
    "augment.rand_augment": st.sampled_from(["null", "rand-m9-mstd0.5-inc1"]),
    "data.train_limit": st.sampled_from(["null", 40, 300]),
    "data.holdout": st.sampled_from([0.0, 0.1]),
    "data.licence": st.text(max_size=8).map(repr),
}
GUIDED = {
    "guidance.method": st.sampled_from(["locality", "kd", "hard", "kd+locality", "locality+hard"]),
    "guidance.params.weight": st.floats(1e-3, 9),
    "guidance.params.stages": st.sampled_from(["[0, 1]", "[1]", "null"]),
    "guidance.params.transform": st.sampled_from(["attention", "linear"]),
    "guidance.params.temperature": st.floats(0.1, 9),
    "guidance.params.alpha": st.floats(0.01, 1),
    "guidance.schedule.from_epoch": st.integers(0, 1),
    "guidance.schedule.until_epoch": st.sampled_from(["null", 2]),
    "teacher.model.name": st.sampled_from(["resnet8", "resnet14", "resnet18"]),
    "teacher.model.feature_layers": st.just("[stages.0, stages.2]"),
    "teacher.train.epochs": st.integers(1, 9),
    "teacher.train.batch_size": st.sampled_from([16, 64]),
    "teacher.data.train_limit": st.sampled_from(["null", 40, 300]),
    "teacher.seed": st.integers(0, 2**63 - 1),
    "teacher.select": st.sampled_from(["last", "best"]),
    "teacher.bn": st.sampled_from(["batch", "running"]),
    "teacher.bn_scope": st.sampled_from(["global", "local"]),
    "teacher.antialias": st.sampled_from(["true", "false"]),
    "teacher.offline": st.sampled_from(["true", "false"]),
}
METHODS = ("baseline", "guided", "guided-offline", "guided-attention", "kd", "hard")


@st.composite
def recipes(draw):
    """A valid recipe with random settings: those that do not fit the others are left out."""
    method = draw(st.sampled_from([*METHODS, None]))
    recipe_id = f"deit_micro/digits/{method}" if method else "resnet8/digits"
    values = {**TRAINING, **(GUIDED if method not in ("baseline", None) else {})}
    chosen = []
    recipe = REGISTRY.compose(recipe_id, "quick")
    for key in draw(st.lists(st.sampled_from(sorted(values)), unique=True, max_size=8)):
        assignments = [*chosen, f"{key}={draw(values[key])}"]
        try:
            recipe = REGISTRY.compose(recipe_id, "quick", assignments, seed=draw(st.integers(0, 9)))
            chosen = assignments
        except RecipeError:
            pass
    return recipe


@settings(max_examples=60, deadline=None)
@given(recipe=recipes())
def test_the_command_repeats_the_recipe(recipe):
    words = shlex.split(command.command(recipe))
    assert words[:2] == ["python", "bench/run.py"]
    assert compose(run.parser().parse_args(words[2:])) == recipe


def test_settings_that_follow_from_others_are_left_out():
    assignments = ["teacher.model.name=resnet14", "train.device=cpu", "guidance.method=kd+locality", "teacher.seed=4"]
    recipe = REGISTRY.compose("deit_micro/digits/guided", "quick", assignments)
    assert sorted(command.settings(recipe)) == sorted(assignments)
    # the steps towards it are invalid: offline features have no logits, and 40 images are less than a teacher's batch
    for recipe_id, needed in (
        ("guided-offline", ["guidance.method=kd", "teacher.offline=false"]),
        ("guided", ["data.train_limit=40", "teacher.data.train_limit=null"]),
    ):
        recipe = REGISTRY.compose(f"deit_micro/digits/{recipe_id}", "quick", needed)
        assert sorted(command.settings(recipe)) == sorted(needed)


def test_a_recipe_with_files_of_a_user_has_no_command(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.yaml").write_text("model: {builder: vit, timm: deit_tiny_patch16_224}")
    assert command.command(Registry(tmp_path).compose("mine/digits/baseline", "quick")) is None


@pytest.mark.parametrize(
    ("world", "gpu", "launcher"),
    [
        (1, True, "python"),
        (2, True, "accelerate launch --num_processes 2"),
        (2, False, "torchrun --nproc_per_node 2"),
    ],
)
def test_the_launcher_starts_as_many_processes(world, gpu, launcher):
    recipe = REGISTRY.compose("deit_micro/digits/guided", "quick", seed=3)
    words = "--recipe deit_micro/digits/guided --protocol quick --seed 3"
    assert command.command(recipe, world, gpu) == f"{launcher} bench/run.py {words}"

"""Every cell of the published comparison, and every guidance method with every student: two training steps and one
evaluation, from generated images in the layouts in which the real datasets lie on disk."""

from __future__ import annotations

import math

import generated
import pytest
import torch
from accelerate import Accelerator

from bench.config.registry import Registry
from bench.data.store import open_dataset
from bench.train.feature_cache import feature_cache
from bench.train.loop import train
from bench.train.teacher import Teacher

registry = Registry()
paper = registry.suite("paper")
SMALL = ["model.image_size=32", "teacher.model.depth=8"]
# One student of each family at the size of the paper, with the maps that the facts of the published protocol give.
FULL_SIZE = {
    "deit_tiny": [(192, 14, 14)] * 3,
    "t2t_vit_7": [(256, 14, 14)] * 3,
    "pit_tiny": [(64, 27, 27), (128, 14, 14), (256, 7, 7)],
    "pvt_tiny": [(64, 56, 56), (128, 28, 28), (512, 7, 7)],
    "pvt_v2_b0": [(32, 56, 56), (64, 28, 28), (256, 7, 7)],
    "convit_tiny": [(192, 14, 14)] * 3,
    "cvt_13": [(64, 56, 56), (384, 14, 14), (384, 14, 14)],
}
OTHER_METHODS = [name for name in registry.names("guidance") if name not in ("baseline", "guided")]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in paper.datasets:
        generated.write(name, folder, classes=4, train=2, test=1)
    return folder


@pytest.fixture(autouse=True)
def _deterministic():
    """`train.deterministic`: no student, teacher or method may need an operation that torch then refuses."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def run(recipe_id, data_dir, *settings):
    """Two steps of four images and one evaluation of four, from initial weights of student and teacher."""
    two_steps = ["train.epochs=1", "train.batch_size=4", "data.subset=4", "data.workers=0", "train.warmup_epochs=0"]
    recipe = registry.compose(recipe_id, "paper", [*two_steps, *settings])
    store, accelerator = open_dataset(recipe.data, data_dir), Accelerator(cpu=True)
    teacher = None
    if recipe.teacher is not None:
        teacher = Teacher(recipe.teacher, 4, None, recipe.guidance)
        if recipe.guidance.offline:
            teacher = feature_cache(teacher, "untrained", recipe, store, torch.device("cpu"))
    trained = train(recipe, store, accelerator, teacher)
    (row,) = trained.history
    assert math.isfinite(row["train_loss"]) and row["test_accuracy"] in (0, 25, 50, 75, 100)
    assert (row["guidance_loss"] is None) == (recipe.guidance is None)
    return recipe, trained, row


@pytest.mark.parametrize("recipe_id", paper.ids)
def test_every_cell_of_the_paper_trains(recipe_id, data_dir):
    model, dataset, method = recipe_id.split("/")
    full = model in FULL_SIZE and (dataset, method) == ("cifar100", "guided")
    recipe, trained, row = run(recipe_id, data_dir, *(() if full else SMALL[: 1 if method == "baseline" else 2]))
    if method == "guided":
        assert row["guidance_loss"] > 0 and row["train_loss"] > 2.5 * row["guidance_loss"]
        assert len(trained.maps) == 3 and set(trained.maps) == set(recipe.model.feature_layers)
    if full:
        assert list(trained.maps.values()) == FULL_SIZE[model] and recipe.model.image_size == 224


@pytest.mark.parametrize("method", OTHER_METHODS)
@pytest.mark.parametrize("model", paper.models)
def test_every_method_teachers_every_student(model, method, data_dir):
    dataset = paper.datasets[paper.models.index(model) % len(paper.datasets)]
    recipe, trained, row = run(f"{model}/{dataset}/{method}", data_dir, *SMALL)
    assert row["guidance_loss"] > 0
    assert bool(trained.guidance) == (recipe.guidance.transform == "linear" and recipe.guidance.weight > 0)


def test_logits_and_features_teacher_start_distributed(data_dir):
    features, logits, both = (
        run(
            f"deit_tiny/cifar100/{method}",
            data_dir,
            *SMALL,
            "train.lr=0",
            "teacher.train.batch_size=4",
            "data.train_limit=4",
            *settings,
        )[2]
        for method, settings in (("guided", []), ("logit-soft", []), ("logit-soft", ["guidance.weight=2.5"]))
    )
    assert both["guidance_loss"] == pytest.approx(features["guidance_loss"] + logits["guidance_loss"], rel=1e-5)
    assert both["train_loss"] == pytest.approx(logits["train_loss"] + 2.5 * features["guidance_loss"], rel=1e-5)

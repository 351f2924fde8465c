"""Every recipe of the published comparison, and offline guidance with every student: two steps and one evaluation.

The images are generated, in the layouts of the real datasets.
"""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from bench.config.registry import Registry
from bench.data.store import open_dataset
from bench.train.feature_cache import open_feature_cache
from bench.train.loop import Training
from bench.train.teacher import Teacher
from tests.helpers import generated

registry = Registry()
paper = registry.suite("paper")
SMALL = ["model.image_size=32", "teacher.model.depth=8"]


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
    dataset, accelerator = open_dataset(recipe.data, data_dir), Accelerator(cpu=True)
    teacher = None
    if recipe.teacher is not None:
        teacher = Teacher(recipe.teacher, 4, None, recipe.guidance.teacher)
        if recipe.guidance.teacher.offline:
            teacher = open_feature_cache(teacher, "untrained", recipe, dataset, torch.device("cpu"))
    result = Training(recipe, dataset, accelerator, teacher).run()
    (row,) = result.history
    assert math.isfinite(row["train_loss"]) and row["test_accuracy"] in (0, 25, 50, 75, 100)
    assert (row["guidance_loss"] is None) == (recipe.guidance is None)
    return recipe, result, row


@pytest.mark.parametrize("recipe_id", paper.ids)
def test_every_recipe_of_the_paper_trains(recipe_id, data_dir):
    model, dataset, guidance = recipe_id.split("/")
    # one student of each family at the size of the paper
    full = model != "t2t_vit_14" and (dataset, guidance) == ("cifar100", "guided")
    recipe, result, row = run(recipe_id, data_dir, *(() if full else SMALL[: 1 if guidance == "baseline" else 2]))
    if guidance == "guided":
        assert row["guidance_loss"] > 0 and row["train_loss"] > 2.5 * row["guidance_loss"]
        assert len(result.feature_maps) == 3 and set(result.feature_maps) == set(recipe.model.feature_layers)
    if full:
        assert recipe.model.image_size == 224


@pytest.mark.parametrize("model", paper.models)
def test_stored_features_guide_every_student(model, data_dir):
    dataset = paper.datasets[paper.models.index(model) % len(paper.datasets)]
    _, result, row = run(f"{model}/{dataset}/guided-offline", data_dir, *SMALL)
    assert row["guidance_loss"] > 0 and result.guidance


@pytest.mark.parametrize("guidance", [name for name in registry.names("guidance") if name != "baseline"])
def test_every_guidance_file_trains(guidance, data_dir):
    row = run(
        f"deit_tiny/cifar100/{guidance}", data_dir, *(text for text in SMALL if guidance != "drloc" or text[0] != "t")
    )[2]
    assert row["guidance_loss"] > 0

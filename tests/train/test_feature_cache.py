"""Offline guidance: stored features of the teacher, with crops and flips replayed on them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torchvision.transforms.functional import resized_crop

from bench import models
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.loaders import Batch, unaugmented
from bench.data.store import open_dataset
from bench.locks import cache_folder
from bench.train.feature_cache import open_feature_cache, open_teacher, replay
from bench.train.loop import Training
from bench.train.teacher import Teacher

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path))


def prepare(*assignments):
    recipe = Registry().compose("deit_micro/digits/guided-offline", "quick", ["data.train_limit=450", *assignments])
    return recipe, open_dataset(recipe.data, "data"), Teacher(recipe.teacher, 10, None, recipe.guidance.teacher)


def test_a_teacher_that_is_trained_again_has_other_features(tmp_path):
    recipe, dataset, _ = prepare()
    folders = []
    for seed in (1, 2):
        network = models.create_network(recipe.teacher.model, 10, seed)
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        open_teacher(recipe, tmp_path / "model.safetensors", "teacher", dataset, CPU)
        folders.append({*(cache_folder() / "features").glob("teacher-*/")})
    assert [len(found) for found in folders] == [1, 2]


@pytest.mark.parametrize("side", [1, 8, 32])
def test_replayed_crops_are_those_of_the_released_code(side):
    """torchvision's resized_crop by the image's box, reduced to whole cells, without antialiasing, then a flip."""
    maps, random = torch.randn(40, 3, side, side), np.random.default_rng(0)
    boxes, flips, expected = [], [], []
    for sample in maps:
        tall, wide = random.integers(8, 33, 2)
        top, left = random.integers(0, 33 - tall), random.integers(0, 33 - wide)
        box = [value / 32 for value in (top, left, tall, wide)]
        cells = [int(value * side) for value in box]
        cells = [min(cells[0], side - 1), min(cells[1], side - 1), max(cells[2], 1), max(cells[3], 1)]
        flip = bool(random.integers(2))
        image = resized_crop(sample, *cells, size=[side, side], antialias=False)
        expected.append(image.flip(-1) if flip else image)
        boxes.append(box)
        flips.append(flip)
    replayed = replay(maps, torch.tensor(boxes, dtype=torch.float32), torch.tensor(flips))
    assert torch.allclose(replayed, torch.stack(expected), atol=1e-5)


def test_stored_features_are_the_teachers_of_the_unaugmented_images(monkeypatch, caplog):
    caplog.set_level("INFO")
    recipe, dataset, teacher = prepare()
    subset = dataset.training(recipe.data)
    cache = open_feature_cache(teacher, "teacher", recipe, dataset, CPU)
    values = sum(c * h * w for c, h, w in teacher.shapes)
    assert f"450 images, {values:,} values each, {2 * 450 * values / 2**20:,.0f} MiB" in caplog.text
    assert cache.shapes == teacher.shapes
    images = unaugmented(recipe.teacher, subset.images, subset.indices, CPU)
    indices = np.array([3, 449, 201])
    boxes = torch.tensor([[0.0, 0, 1, 1]] * 3)
    batch = Batch(images[indices], torch.zeros(3), slice(0, 3), indices, boxes, torch.zeros(3).bool())
    # batch statistics of 200 consecutive images, the last ones of the 50 that are left
    for stage, maps in enumerate(cache.stored(batch).maps()):
        expected = torch.cat([teacher(rows).maps[stage] for rows in images.split(200)])[indices]
        assert torch.allclose(maps, expected, atol=2e-2, rtol=1e-3) and maps.abs().max() > 0.5

    def compute_again(*_):
        raise AssertionError

    monkeypatch.setattr(Teacher, "forward", compute_again)
    open_feature_cache(teacher, "teacher", recipe, dataset, CPU)


def test_more_than_ten_maps_stay_in_the_order_of_their_layers():
    layers = [f"stages.{k}.0.{part}" for k in range(3) for part in ("conv1", "bn1", "conv2", "bn2")]
    settings = [f"teacher.model.feature_layers=[{', '.join(layers)}]", "guidance.params.stages=[0]"]
    recipe, dataset, teacher = prepare(*settings)
    assert open_feature_cache(teacher, "teacher", recipe, dataset, CPU).shapes == teacher.shapes


def test_offline_and_online_guidance_agree_without_augmentation():
    # Both use the native 8 px, since training resizes with another kernel than evaluation.
    assignments = ["teacher.bn=running", "train.epochs=2", "model.image_size=8", "teacher.model.image_size=8"]
    offline, dataset, teacher = prepare(*assignments)
    online = Registry().compose("deit_micro/digits/guided", "quick", ["data.train_limit=450", *assignments])
    cache = open_feature_cache(teacher, "teacher", offline, dataset, CPU)
    runs = ((offline, cache), (online, teacher))
    histories = [Training(recipe, dataset, Accelerator(cpu=True), source).run().history for recipe, source in runs]
    for one, other in zip(*histories, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


def test_features_that_do_not_fit_on_the_disk_are_refused(monkeypatch):
    recipe, dataset, teacher = prepare()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(RecipeError, match=r"teacher\.offline: the features take \d+ MiB, 0 MiB are free"):
        open_feature_cache(teacher, "teacher", recipe, dataset, CPU)
    assert not list((cache_folder() / "features").glob("teacher*/*"))

"""The frozen teacher: batch norm, and the resize of the student's batch."""

from __future__ import annotations

import pytest
import torch

from bench import models
from bench.config.registry import Registry
from bench.config.schema import RecipeError, TeacherPass
from bench.train.teacher import Teacher
from tests.helpers.plain import bilinear


def recipe_of(name="resnet8", *assignments):
    return Registry().compose("deit_micro/digits/guided", "quick", [f"teacher.model.name={name}", *assignments]).teacher


def teacher(*assignments, name="resnet8", **passes):
    return Teacher(recipe_of(name, *assignments), 10, None, TeacherPass(**passes))


@pytest.mark.parametrize("name", ["resnet8", "timm:test_efficientnet"])  # whose norms are a class of timm
def test_it_normalises_by_the_batch_or_by_its_running_statistics(name):
    images = torch.randn(6, 3, 16, 16)
    by_batch, by_running = teacher(name=name, bn="batch"), teacher(name=name, bn="running")
    network = models.create(recipe_of(name).model, 10, 0)
    _, in_eval_mode = network.eval()(images)
    _, in_train_mode = network.train()(images)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(by_batch(images).maps, in_train_mode, strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(by_running(images).maps, in_eval_mode, strict=True))
    before = {name: value.clone() for name, value in by_running.state_dict().items()}
    by_running(images)
    assert all(torch.equal(value, before[name]) for name, value in by_running.state_dict().items())
    assert not any(p.requires_grad for p in by_batch.parameters())


def test_its_input_is_resized_bilinearly():
    images = torch.randn(1, 3, 12, 12)
    plain, antialiased = (teacher("teacher.model.image_size=4", antialias=a).resize_input(images) for a in (False, True))
    assert torch.allclose(plain.double(), bilinear(images, 4, 4), atol=1e-5)
    assert not torch.allclose(plain, antialiased)


def test_where_no_method_needs_its_maps_it_need_not_have_any():
    recipe = recipe_of("timm:hrnet_w18_small", "teacher.model.image_size=32")
    with pytest.raises(RecipeError, match="has no feature map"):
        Teacher(recipe, 10, None, TeacherPass())
    outputs = Teacher(recipe, 10, None, TeacherPass(), maps=False)(torch.randn(2, 3, 32, 32))
    assert outputs.logits.shape == (2, 10) and outputs.maps == []

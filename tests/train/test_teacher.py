"""The frozen teacher: batch norm, and the resize of the student's batch."""

from __future__ import annotations

import torch

from bench import models
from bench.config.registry import Registry
from bench.config.schema import TeacherPass
from bench.train.teacher import Teacher
from tests.helpers.plain import bilinear


def teacher(*assignments, **passes):
    return Teacher(Registry().compose("resnet8/digits", "quick", assignments), 10, None, TeacherPass(**passes))


def test_it_normalises_by_the_batch_or_by_its_running_statistics():
    images = torch.randn(6, 3, 16, 16)
    by_batch, by_running = teacher(bn="batch"), teacher(bn="running")
    network = models.create(Registry().compose("resnet8/digits", "quick").model, 10, 0)
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
    plain, antialiased = (teacher("model.image_size=4", antialias=a).resize_input(images) for a in (False, True))
    assert torch.allclose(plain.double(), bilinear(images, 4, 4), atol=1e-5)
    assert not torch.allclose(plain, antialiased)

"""FLOPs and learning rates, which records and papers give."""

from __future__ import annotations

import pytest
import torch

from bench import models
from bench.config.registry import Registry
from bench.train.evaluate import flops_per_image
from bench.train.task import learning_rate

registry = Registry()


def test_flops_are_those_of_the_matrix_products():
    model = registry.compose("deit_micro/digits/baseline", "quick").model
    network = models.create(model, 10, 0).network.train()
    width, tokens, patch = model.width, (model.image_size // model.patch_size) ** 2 + 1, 3 * model.patch_size**2
    block = tokens * width * width * (3 + 1 + 4 + 4) + 2 * tokens * tokens * width  # qkv, projection, MLP; attention
    expected = 2 * ((tokens - 1) * patch * width + model.depth * block + width * 10)
    assert flops_per_image(network, model.image_size, torch.device("cpu")) == expected
    assert network.training


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        *((0, "5.000e-07"), (1, "2.548e-05"), (19, "4.750e-04"), (20, "4.946e-04"), (299, "5.014e-06")),
        *((100, "3.7625e-04"), (150, "2.5250e-04"), (200, "1.2875e-04"), (250, "3.8159e-05")),
    ],
)
def test_learning_rates_of_the_published_protocol(epoch, rate):
    train = registry.compose("deit_tiny/cifar100/guided", "paper").train
    assert f"{learning_rate(epoch, train):.{len(rate) - 6}e}" == rate


def test_the_teacher_follows_a_cosine_to_zero():
    train = registry.compose("resnet56/cifar100", "paper").train
    assert learning_rate(0, train) == 0.1 and learning_rate(150, train) == pytest.approx(0.05)
    assert 0 < learning_rate(299, train) < 1e-5

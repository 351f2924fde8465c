from __future__ import annotations

import torch

from bench import models
from bench.config.registry import Registry
from bench.train.evaluate import flops_per_image


def test_flops_are_those_of_the_matrix_products():
    recipe = Registry().compose("deit_micro/digits/baseline", "quick")
    model = recipe.model
    network = models.create(model, 10, 0).network.train()
    width, tokens, patch = model.width, (model.image_size // model.patch_size) ** 2 + 1, 3 * model.patch_size**2
    block = tokens * width * width * (3 + 1 + 4 + 4) + 2 * tokens * tokens * width  # qkv, projection, MLP; attention
    expected = 2 * ((tokens - 1) * patch * width + model.depth * block + width * 10)
    assert flops_per_image(network, model.image_size, torch.device("cpu")) == expected
    assert network.training

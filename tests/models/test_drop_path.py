"""Drop path: masks are a function of seed and epoch, and every network follows them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import models
from bench.models.drop_path import sample_drop_path_masks
from tests.helpers.networks import REGISTRY, STUDENTS, small


@pytest.mark.parametrize("name", STUDENTS)
def test_a_network_follows_its_masks(name):
    student = small(name)
    nn.init.normal_(student.network.head.weight)
    images = torch.randn(3, 3, 32, 32)
    calls = len(student.drop_path_rates)
    plain, _ = student.eval()(images)
    student.train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # CvT's, whose batch statistics would differ from the running ones
    nothing_dropped, _ = student(images, torch.ones(calls, 3))
    assert torch.allclose(plain, nothing_dropped, atol=1e-5)
    masks = torch.ones(calls, 3)
    masks[:, 1] = 0  # every branch of the second sample except the first block's
    dropped, _ = student(images, masks)
    assert torch.allclose(plain[[0, 2]], dropped[[0, 2]], atol=1e-5)
    assert not torch.allclose(plain[1], dropped[1], atol=1e-3)


def test_masks_are_a_function_of_seed_and_epoch():
    scales = sample_drop_path_masks([0.25, 0.5], 20_000, seed=1, epoch=2)
    assert torch.equal(scales[:, :500], sample_drop_path_masks([0.25, 0.5], 500, seed=1, epoch=2))
    assert not torch.equal(scales, sample_drop_path_masks([0.25, 0.5], 20_000, seed=1, epoch=3))
    assert torch.equal(scales.unique(), torch.tensor([0, 1 / 0.75, 2.0]))
    assert torch.allclose(scales.mean(1), torch.ones(2), atol=0.03)  # unbiased


@pytest.mark.parametrize(("name", "size"), [("mobilevit_xxs", 64), ("tnt_s_legacy_patch16_224", 224)])
def test_models_that_fold_patches_into_the_batch(name, size):
    recipe = REGISTRY.compose(f"timm:{name}/cifar10/baseline", "paper", [f"model.image_size={size}"])
    student = models.create(recipe.model, 10, 0, feature_layers=False).train()
    logits, _ = student(torch.randn(2, 3, size, size), torch.ones(len(student.drop_path_rates), 2))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize(("name", "blocks"), [("t2t_vit_7", 7), ("t2t_vit_14", 14), ("pvt_tiny", 8), ("cvt_13", 10)])
def test_rates_rise_block_by_block(name, blocks):
    # both branches of a block share its rate; the first block's is 0; only the ten blocks of CvT's last stage have it
    rates = [0.1 * i / (blocks - 1) for i in range(1, blocks) for _ in ("attention", "mlp")]
    assert small(name).drop_path_rates == pytest.approx(rates)

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from bench import models
from bench.models.drop_path import draw_scales
from bench.models.tapped import to_map
from bench.recipes import RecipeError, Registry

registry = Registry()

# facts of the published protocol: parameters for 100 classes, maps at 224 px, drop path of the last block
STUDENTS = {
    "deit_tiny": (5_543_716, [(192, 14, 14)] * 3, 0.1),
    "pit_tiny": (4_615_972, [(64, 27, 27), (128, 14, 14), (256, 7, 7)], 0.1 * 11 / 12),
    "pvt_v2_b0": (3_435_460, [(32, 56, 56), (64, 28, 28), (256, 7, 7)], 0.1),
    "convit_tiny": (5_536_812, [(192, 14, 14)] * 3, 0.1),
}


def build(recipe_id, *settings, classes=100, seed=0):
    return models.create(registry.compose(recipe_id, "paper", settings).model, classes, seed)


@pytest.mark.parametrize("name", STUDENTS)
def test_students_are_those_of_the_paper(name):
    parameters, shapes, drop_path = STUDENTS[name]
    student = build(f"{name}/cifar100/guided")
    assert sum(p.numel() for p in student.parameters()) == parameters
    assert student.shapes == shapes
    assert student.drop_path_rates[-1] == pytest.approx(drop_path)
    assert {m.eps for m in student.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    assert all(m.p == 0 for m in student.modules() if isinstance(m, nn.Dropout))
    logits, maps = student.eval()(torch.randn(1, 3, 224, 224))  # a batch of one works
    assert logits.shape == (1, 100) and [tuple(m.shape[1:]) for m in maps] == shapes


def test_initial_weights_are_the_released_ones():
    deit, pit, convit = (build(f"{name}/cifar100/baseline").network for name in ("deit_tiny", "pit_tiny", "convit_tiny"))
    assert not deit.head.weight.any() and not deit.head.bias.any()
    assert deit.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    for network in (deit, convit):
        assert network.blocks[3].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not network.blocks[3].mlp.fc1.bias.any()
    default = nn.Linear(64, 192).weight.std()  # PiT keeps PyTorch's own
    assert pit.transformers[0].blocks[0].attn.qkv.weight.std().item() == pytest.approx(default.item(), rel=0.1)
    assert pit.head.bias.any()
    gated = convit.blocks[0].attn
    assert torch.equal(gated.v.weight, torch.eye(192)) and gated.pos_proj.weight[0, 2] == -1


def test_the_guide_is_the_cifar_resnet():
    guide = build("resnet56/cifar100")
    assert sum(p.numel() for p in guide.parameters()) == 861_620
    assert guide.shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    _, maps = guide(torch.randn(2, 3, 32, 32))
    assert all(m.min() == 0 for m in maps)  # after the ReLU
    convolutions = [m for m in guide.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 55 + 2  # the linear layer is the 56th; two shortcuts
    weight = convolutions[-1].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_pvt_v2_starts_as_released():
    network = build("pvt_v2_b0/cifar100/baseline").network
    convolution = network.stages[1].downsample.proj  # 3 x 3 to 64 channels
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05) and not convolution.bias.any()
    assert network.stages[3].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_maps_come_in_the_order_of_the_taps():
    taps = ["stages.3.blocks.1", "stages.0.blocks.0", "stages.1.blocks.1"]
    student = build("pvt_v2_b0/cifar10/guided", f"model.taps=[{','.join(taps)}]", "model.image_size=32", classes=10)
    assert student.shapes == [(256, 1, 1), (32, 8, 8), (64, 4, 4)]


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 8), (96, 16)])
def test_other_input_sizes(name, size, patch):
    patches = [f"model.patch_size={patch}"] if name != "pvt_v2_b0" else []
    student = build(f"{name}/cifar10/guided", f"model.image_size={size}", *patches, classes=10)
    assert student.eval()(torch.randn(2, 3, size, size))[0].shape == (2, 10)


@pytest.mark.parametrize(
    ("recipe_id", "setting", "words"),
    [
        ("deit_tiny/cifar10/guided", "model.image_size=100", "no multiple of model.patch_size"),
        ("deit_tiny/cifar10/guided", "model.width=190", "model.heads: 3 does not divide model.width, 190"),
        ("pvt_v2_b0/cifar10/guided", "model.patch_size=4", "fixes them"),
        ("pit_tiny/cifar10/guided", "model.patch_size=5", "odd"),
        ("resnet56/cifar10", "model.depth=57", "6 n + 2"),
        ("deit_tiny/cifar10/guided", "model.taps=[blocks.0, blocks.6, blocks.12]", "blocks.12"),
        ("deit_tiny/cifar10/guided", "model.taps=[blocks.0, blocks.6, head]", "neither a map nor tokens"),
        ("pit_tiny/cifar10/guided", "model.taps=[transformers.0, transformers.1, transformers.2]", "puts out a tuple"),
        ("deit_tiny/cifar10/guided", "model.timm=deit_huge", "cannot be built"),
    ],
)
def test_impossible_sizes_give_one_sentence(recipe_id, setting, words):
    settings = [setting, "model.heads=3"] if "width" in setting else [setting]
    with pytest.raises(RecipeError, match=re.escape(words)):
        build(recipe_id, *settings)


def test_tokens_become_maps_without_the_class_token():
    pixels = torch.arange(9.0).reshape(1, 9, 1)
    expected = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert torch.equal(to_map(pixels), expected)
    assert torch.equal(to_map(torch.cat([torch.full((1, 1, 1), 99.0), pixels], 1)), expected)


def test_weights_depend_on_the_seed_alone():
    recipe = registry.compose("deit_micro/digits/guided", "quick").model
    one, other = models.create(recipe, 10, 3), models.create(recipe, 10, 3, taps=False)
    torch.manual_seed(1)
    torch.rand(5)
    again = models.create(recipe, 10, 3).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(a, again[name]) for name, a in one.state_dict().items())
    assert any(not torch.equal(a, again[n]) for n, a in models.create(recipe, 10, 4).state_dict().items())


@pytest.mark.parametrize("name", STUDENTS)
def test_drop_path_follows_its_masks(name):
    patches = ["model.patch_size=8"] if name != "pvt_v2_b0" else []
    student = build(f"{name}/cifar10/guided", "model.image_size=32", *patches, classes=10)
    student.network.apply(
        lambda m: nn.init.normal_(m.weight) if isinstance(m, nn.Linear) and m.out_features == 10 else None
    )
    images = torch.randn(3, 3, 32, 32)
    calls = len(student.drop_path_rates)
    plain, _ = student.eval()(images)
    kept, _ = student.train()(images, torch.ones(calls, 3))
    assert torch.allclose(plain, kept, atol=1e-5)
    masks = torch.ones(calls, 3)
    masks[:, 1] = 0  # every branch of the second sample but the first block's
    dropped, _ = student(images, masks)
    assert torch.allclose(plain[[0, 2]], dropped[[0, 2]], atol=1e-5)
    assert not torch.allclose(plain[1], dropped[1], atol=1e-3)


def test_drop_path_masks_are_a_function_of_seed_and_epoch():
    scales = draw_scales([0.25, 0.5], 20_000, seed=1, epoch=2)
    assert torch.equal(scales[:, :500], draw_scales([0.25, 0.5], 500, seed=1, epoch=2))
    assert not torch.equal(scales, draw_scales([0.25, 0.5], 20_000, seed=1, epoch=3))
    assert torch.equal(scales.unique(), torch.tensor([0, 1 / 0.75, 2.0]))
    assert torch.allclose(scales.mean(1), torch.ones(2), atol=0.03)  # unbiased

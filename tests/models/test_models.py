"""All networks: sizes, initial weights, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from bench import models
from bench.config.schema import RecipeError
from bench.models.sizes import sees_every_pixel
from tests.helpers.networks import PATCH_SIZE_IS_FREE, REGISTRY, build, small

# facts of the published protocol: parameters for 100 classes, maps at 224 px, drop path of the last block
STUDENTS = {
    "t2t_vit_7": (4_024_394, [(256, 14, 14)] * 3, 0.1),
    "t2t_vit_14": (21_119_306, [(384, 14, 14)] * 3, 0.1),
    "pvt_tiny": (12_767_588, [(64, 56, 56), (128, 28, 28), (512, 7, 7)], 0.1),
    "cvt_13": (19_650_980, [(64, 56, 56), (384, 14, 14), (384, 14, 14)], 0.1),
    "deit_tiny": (5_543_716, [(192, 14, 14)] * 3, 0.1),
    "pit_tiny": (4_615_972, [(64, 27, 27), (128, 14, 14), (256, 7, 7)], 0.1 * 11 / 12),
    "pvt_v2_b0": (3_435_460, [(32, 56, 56), (64, 28, 28), (256, 7, 7)], 0.1),
    "convit_tiny": (5_536_812, [(192, 14, 14)] * 3, 0.1),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_students_are_those_of_the_paper(name):
    parameters, shapes, drop_path = STUDENTS[name]
    student = build(f"{name}/cifar100/guided", classes=100)
    assert sum(p.numel() for p in student.parameters()) == parameters
    assert student.shapes == shapes
    assert student.drop_path_rates[-1] == pytest.approx(drop_path)
    assert {m.eps for m in student.modules() if isinstance(m, nn.LayerNorm)} == {1e-5 if name == "cvt_13" else 1e-6}
    assert all(m.p == 0 for m in student.modules() if isinstance(m, nn.Dropout))
    logits, maps = student.eval()(torch.randn(1, 3, 224, 224))  # a batch of one works
    assert logits.shape == (1, 100) and [tuple(m.shape[1:]) for m in maps] == shapes


def test_initial_weights_of_networks_of_timm_are_the_released_ones():
    deit, pit, convit, pvt_v2 = (small(name).network for name in ("deit_tiny", "pit_tiny", "convit_tiny", "pvt_v2_b0"))
    assert not deit.head.weight.any() and not deit.head.bias.any()
    assert deit.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    for blocks in (deit.blocks[2:], convit.blocks[2:], pvt_v2.stages[3].blocks):
        assert blocks[1].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not blocks[1].mlp.fc1.bias.any()
    default = nn.Linear(64, 192).weight.std()  # PiT keeps PyTorch's own
    assert pit.transformers[0].blocks[0].attn.qkv.weight.std().item() == pytest.approx(default.item(), rel=0.1)
    assert pit.head.bias.any()
    gated = convit.blocks[0].attn
    assert torch.equal(gated.v.weight, torch.eye(192)) and gated.pos_proj.weight[0, 2] == -1
    convolution = pvt_v2.stages[1].downsample.proj  # 3 x 3 to 64 channels
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05) and not convolution.bias.any()


def test_no_weight_starts_at_the_bound_of_the_truncated_normal():
    network = small("pvt_v2_b0").network  # timm gives it two weights of -2 with this seed
    assert max(m.weight.abs().max().item() for m in network.modules() if isinstance(m, nn.Linear)) < 0.2
    convit = build("timm:convit_small/cifar10/baseline", "model.image_size=32").network
    assert {-2.0, 2.0} <= set(convit.blocks[0].attn.pos_proj.weight.flatten().tolist())  # on purpose


def test_the_teacher_is_the_cifar_resnet():
    teacher = build("resnet56/cifar100", classes=100)
    assert sum(p.numel() for p in teacher.parameters()) == 861_620
    assert teacher.shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    _, maps = teacher(torch.randn(2, 3, 32, 32))
    assert all(m.min() == 0 for m in maps)  # after the ReLU
    convolutions = [m for m in teacher.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 55 + 2  # the linear layer is the 56th; two shortcuts
    assert convolutions[-1].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_the_other_teacher_is_the_imagenet_resnet_18():
    teacher = build("resnet18/cifar100", classes=100)
    assert sum(p.numel() for p in teacher.parameters()) == 11_227_812
    assert teacher.shapes == [(128, 28, 28), (256, 14, 14), (512, 7, 7)]


def test_models_of_timm_have_no_dropout():
    recipe = REGISTRY.compose("timm:rexnet_100/cifar10/baseline", "paper", ["model.image_size=32"])
    network = models.create(recipe.model, 10, 0, feature_layers=False).network
    theirs = timm.create_model("rexnet_100", num_classes=10)
    before, after = ([m.p for m in n.modules() if isinstance(m, nn.Dropout)] for n in (theirs, network))
    assert any(before) and len(before) == len(after) and not any(after)


def test_weights_depend_on_the_seed_alone():
    recipe = REGISTRY.compose("deit_micro/digits/guided", "quick").model
    one, other = models.create(recipe, 10, 3), models.create(recipe, 10, 3, feature_layers=False)
    torch.manual_seed(1)
    torch.rand(5)
    again = models.create(recipe, 10, 3).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(a, again[name]) for name, a in one.state_dict().items())
    assert any(not torch.equal(a, again[n]) for n, a in models.create(recipe, 10, 4).state_dict().items())


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 8), (96, 16)])
def test_other_input_sizes(name, size, patch):
    student = small(name, size=size, patch=patch)
    assert student.eval()(torch.randn(2, 3, size, size))[0].shape == (2, 10)


@pytest.mark.parametrize(("name", "size"), [("t2t_vit_7", 16), ("t2t_vit_7", 48), ("cvt_13", 16), ("cvt_13", 37)])
def test_sizes_that_only_some_students_take(name, size):
    student = small(name, size=size).eval()
    logits, maps = student(torch.randn(1, 3, size, size))
    assert logits.shape == (1, 10) and [tuple(m.shape[1:]) for m in maps] == student.shapes


@pytest.mark.parametrize("name", STUDENTS)
def test_an_image_size_is_refused_or_every_pixel_reaches_the_logits(name):
    accepted = []
    for size in range(32, 38):
        patch = ["model.patch_size=8"] if name in PATCH_SIZE_IS_FREE else []
        try:
            model = REGISTRY.compose(f"{name}/cifar10/baseline", "paper", [f"model.image_size={size}", *patch]).model
        except RecipeError:
            continue
        accepted.append(size)
        assert sees_every_pixel(models.create_network(model, 10, 0), size), size
    assert 32 in accepted


@pytest.mark.parametrize(("name", "size"), [("cvt_13", 34), ("pit_tiny", 36), ("timm:vit_tiny_patch16_224", 30)])
def test_pixels_that_reach_no_logit_are_found(name, size):
    model = REGISTRY.compose(f"{name}/cifar10/baseline", "paper", ["model.image_size=32"]).model
    assert sees_every_pixel(models.create_network(model, 10, 0), 32)
    assert not sees_every_pixel(models.create_network(replace(model, image_size=size), 10, 0), size)


@pytest.mark.parametrize(
    ("recipe_id", "assignment", "words"),
    [
        (
            "deit_tiny/cifar10/guided",
            "model.image_size=100",
            "got 100 px, but deit_tiny divides an image into patches of 16",
        ),
        ("deit_tiny/cifar10/guided", "model.width=190", "model.heads: 3 does not divide model.width, 190"),
        ("deit_tiny/cifar10/guided", "model.feature_layers=[blocks.0, blocks.6, blocks.12]", "no module 'blocks.12'"),
        ("deit_tiny/cifar10/guided", "model.feature_layers=[blocks.0, blocks.6, head]", "neither a map nor the tokens"),
        ("deit_tiny/cifar10/guided", "model.timm=deit_huge", "cannot be built"),
        ("convit_tiny/cifar10/guided", "model.depth=3", "model.depth: got 3, but convit_tiny fixes its width, depth"),
        ("pvt_v2_b0/cifar10/guided", "model.patch_size=4", "model.patch_size: got 4, but pvt_v2_b0 fixes"),
        (
            "pvt_v2_b0/cifar10/guided",
            "model.image_size=31",
            "got 31 px, but pvt_v2_b0 takes 32 px or more; nearest sizes that fit: 32 px",
        ),
        ("pit_tiny/cifar10/guided", "model.patch_size=5", "odd"),
        (
            "pit_tiny/cifar10/guided",
            "model.image_size=15",
            "has a patch of 16 px every 8 px; nearest sizes that fit: 16 px",
        ),
        ("pit_tiny/cifar10/guided", "model.image_size=30", "nearest sizes that fit: 24 px and 32 px"),
        ("pit_tiny/cifar10/guided", "model.feature_layers=[norm, transformers.1, transformers.2]", "is a tuple"),
        ("resnet56/cifar10", "model.depth=57", "6 n + 2"),
        ("t2t_vit_7/cifar10/guided", "model.image_size=40", "got 40 px, but t2t_vit_7 takes multiples of 16 px"),
        ("t2t_vit_7/cifar10/guided", "model.patch_size=16", "t2t_vit_7 fixes its patch_size"),
        ("t2t_vit_7/cifar10/guided", "model.heads=3", "model.heads: 3 does not divide model.width, 256"),
        ("pvt_tiny/cifar10/guided", "model.image_size=48", "nearest sizes that fit: 32 px and 64 px"),
        ("pvt_tiny/cifar10/guided", "model.mlp_ratio=4", "pvt_tiny fixes"),
        ("cvt_13/cifar10/guided", "model.image_size=15", "got 15 px, but cvt_13 takes 16 px or more"),
        ("cvt_13/cifar10/guided", "model.image_size=38", "nearest sizes that fit: 37 px and 39 px"),
        ("cvt_13/cifar10/guided", "model.patch_size=7", "cvt_13 fixes"),
    ],
)
def test_impossible_sizes_give_one_sentence(recipe_id, assignment, words):
    heads = ["model.heads=3"] if "width" in assignment else []
    with pytest.raises(RecipeError, match=re.escape(words)):
        build(recipe_id, assignment, *heads)

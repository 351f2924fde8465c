from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from bench import models
from bench.models.drop_path import sample_drop_path_masks
from bench.models.features import layout_of, to_map
from bench.config.registry import Registry
from bench.config.schema import RecipeError

registry = Registry()
OF_FIXED_PATCHES = ("pvt_v2_b0", "t2t_vit_7", "t2t_vit_14", "pvt_tiny", "cvt_13")

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


def build(recipe_id, *settings, classes=100, seed=0):
    return models.create(registry.compose(recipe_id, "paper", settings).model, classes, seed)


@pytest.mark.parametrize("name", STUDENTS)
def test_students_are_those_of_the_paper(name):
    parameters, shapes, drop_path = STUDENTS[name]
    student = build(f"{name}/cifar100/guided")
    assert sum(p.numel() for p in student.parameters()) == parameters
    assert student.shapes == shapes
    assert student.drop_path_rates[-1] == pytest.approx(drop_path)
    assert {m.eps for m in student.modules() if isinstance(m, nn.LayerNorm)} == {1e-5 if name == "cvt_13" else 1e-6}
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


def test_the_teacher_is_the_cifar_resnet():
    teacher = build("resnet56/cifar100")
    assert sum(p.numel() for p in teacher.parameters()) == 861_620
    assert teacher.shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    _, maps = teacher(torch.randn(2, 3, 32, 32))
    assert all(m.min() == 0 for m in maps)  # after the ReLU
    convolutions = [m for m in teacher.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 55 + 2  # the linear layer is the 56th; two shortcuts
    weight = convolutions[-1].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_the_other_teacher_is_the_imagenet_resnet_18():
    teacher = build("resnet18/cifar100")
    assert sum(p.numel() for p in teacher.parameters()) == 11_227_812
    assert teacher.shapes == [(128, 28, 28), (256, 14, 14), (512, 7, 7)]


def test_pvt_v2_starts_as_released():
    network = build("pvt_v2_b0/cifar100/baseline").network
    convolution = network.stages[1].downsample.proj  # 3 x 3 to 64 channels
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05) and not convolution.bias.any()
    assert network.stages[3].blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_maps_come_in_the_order_of_the_feature_layers():
    feature_layers = ["stages.3.blocks.1", "stages.0.blocks.0", "stages.1.blocks.1"]
    student = build("pvt_v2_b0/cifar10/guided", f"model.feature_layers=[{','.join(feature_layers)}]", "model.image_size=32", classes=10)
    assert student.shapes == [(256, 1, 1), (32, 8, 8), (64, 4, 4)]


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 8), (96, 16)])
def test_other_input_sizes(name, size, patch):
    patches = [f"model.patch_size={patch}"] if name not in OF_FIXED_PATCHES else []
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
        ("deit_tiny/cifar10/guided", "model.feature_layers=[blocks.0, blocks.6, blocks.12]", "blocks.12"),
        ("deit_tiny/cifar10/guided", "model.feature_layers=[blocks.0, blocks.6, head]", "neither a map nor the tokens"),
        ("pit_tiny/cifar10/guided", "model.feature_layers=[transformers.0, transformers.1, transformers.2]", "puts out a tuple"),
        ("deit_tiny/cifar10/guided", "model.timm=deit_huge", "cannot be built"),
    ],
)
def test_impossible_sizes_give_one_sentence(recipe_id, setting, words):
    settings = [setting, "model.heads=3"] if "width" in setting else [setting]
    with pytest.raises(RecipeError, match=re.escape(words)):
        build(recipe_id, *settings)


def test_maps_are_recovered_from_every_layout():
    maps = torch.randn(1, 5, 3, 3)
    tokens = maps.flatten(2).transpose(1, 2)
    for prefix in (0, 1, 2, 5):
        network = nn.Identity()
        network.num_prefix_tokens = prefix
        output = torch.cat([torch.full((1, prefix, 5), 99.0), tokens], 1)
        assert torch.equal(to_map(output, layout_of(output, network)), maps)
    late = nn.Identity()
    late.num_prefix_tokens = 1  # a class token that enters after this block
    for output in (maps, maps.permute(0, 2, 3, 1), tokens):
        assert torch.equal(to_map(output, layout_of(output, late)), maps)
    cube = torch.randn(1, 3, 3, 3)
    assert torch.equal(to_map(cube, layout_of(cube, late)), cube)
    late.output_fmt = "NHWC"
    assert torch.equal(to_map(cube, layout_of(cube, late)), cube.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "was not called"),
        ((torch.zeros(1, 4, 2),), "puts out a tuple"),
        (torch.zeros(1, 7, 2), "neither a map nor the tokens of a square"),
        (torch.zeros(1, 3, 4, 5), "neither a map"),
        (torch.zeros(4, 9, 2), "folds something else into the batch"),
    ],
)
def test_outputs_that_hold_no_map_are_refused(output, words):
    with pytest.raises(ValueError, match=words):
        layout_of(output, nn.Identity())


# model, image size, feature_layers, maps: layouts that differ (tokens with and without class and register tokens, NHWC, NCHW)
OF_TIMM = [
    ("deit_tiny_patch16_224", 32, ["blocks.0", "blocks.6", "blocks.11"], [(192, 2, 2)] * 3),
    ("vit_tiny_patch16_224", 48, ["blocks.0", "blocks.6", "blocks.11"], [(192, 3, 3)] * 3),
    ("vit_small_patch14_reg4_dinov2", 28, ["blocks.0", "blocks.6", "blocks.11"], [(384, 2, 2)] * 3),
    (
        "swin_tiny_patch4_window7_224",
        224,
        ["layers.0.blocks.0", "layers.2.blocks.2", "layers.3.blocks.1"],
        [(96, 56, 56), (384, 14, 14), (768, 7, 7)],
    ),
    ("xcit_nano_12_p16_224", 64, ["blocks.0", "blocks.6", "blocks.11"], [(128, 4, 4)] * 3),
    ("cait_xxs24_224", 32, ["blocks.0", "blocks.12", "blocks.23"], [(192, 2, 2)] * 3),
    (
        "convnext_atto",
        64,
        ["stages.0.blocks.0", "stages.2.blocks.2", "stages.3.blocks.1"],
        [(40, 16, 16), (160, 4, 4), (320, 2, 2)],
    ),
    ("fastvit_t8", 64, ["stages.0.blocks.0", "stages.2.blocks.1", "stages.3.blocks.1"], None),
    ("gcvit_xxtiny", 224, ["stages.0.blocks.0", "stages.2.blocks.2", "stages.3.blocks.1"], None),
    (
        "pit_ti_224",
        64,
        ["transformers.0.blocks.0", "transformers.1.blocks.4", "transformers.2.blocks.3"],
        [(64, 7, 7), (128, 4, 4), (256, 2, 2)],
    ),
]


@pytest.mark.parametrize(("name", "size", "feature_layers", "shapes"), OF_TIMM)
def test_any_model_of_timm_is_tapped_at_its_first_middle_and_last_block(name, size, feature_layers, shapes):
    student = build(f"timm:{name}/cifar10/guided", f"model.image_size={size}", classes=10)
    assert list(student.feature_layers) == feature_layers and student.shapes == (shapes or student.shapes)
    scales = sample_drop_path_masks(student.drop_path_rates, 2, seed=0, epoch=0)
    logits, maps = student.train()(torch.randn(2, 3, size, size), scales)
    assert logits.shape == (2, 10) and [m.shape[1:] for m in maps] == student.shapes
    logits.sum().backward()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("vit_tony_patch16_224", [], ["timm has no such model", "did you mean timm:vit_tiny_patch16_224"]),
        ("dla46_c", ["model.drop_path_rate=0"], ["timm:dla46_c cannot be tapped by itself", "model.feature_layers"]),
        ("crossvit_tiny_240", ["model.image_size=240"], ["timm:crossvit_tiny_240 cannot be tapped at 'blocks.0'", "list"]),
        ("hiera_tiny_224", [], ["timm:hiera_tiny_224 cannot be tapped", "do not lie in the image's order"]),
        ("convmixer_768_32", [], ["model.drop_path_rate", "set it to 0"]),
        ("vit_tiny_patch16_224", ["model.image_size=5"], ["timm:vit_tiny_patch16_224"]),
        ("vit_tiny_patch16_224", ["model.width=64"], ["fixes them"]),
    ],
)
def test_models_that_cannot_be_tapped_are_refused_by_name(name, settings, words):
    with pytest.raises(RecipeError) as caught:
        build(f"timm:{name}/cifar10/guided", *settings, classes=10)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    if name == "dla46_c":  # a baseline needs no feature_layers, nor does a student that imitates logits alone
        for arm in ("baseline", "logit-soft"):
            recipe = registry.compose(f"timm:{name}/cifar10/{arm}", "paper", [*settings, "model.image_size=32"])
            models.create(recipe.model, 10, 0, feature_layers=recipe.uses_feature_loss)


def test_convits_positions_are_no_outliers():
    weight = build("timm:convit_small/cifar10/baseline", "model.image_size=32").network.blocks[0].attn.pos_proj.weight
    assert {-2.0, 2.0} <= set(weight.flatten().tolist())


@pytest.mark.parametrize("name", ["mobilevit_xxs", "tnt_s_legacy_patch16_224"])
def test_drop_path_of_models_that_fold_patches_into_the_batch(name):
    size = {"mobilevit_xxs": 64}.get(name, 224)
    recipe = registry.compose(f"timm:{name}/cifar10/baseline", "paper", [f"model.image_size={size}"])
    student = models.create(recipe.model, 10, 0, feature_layers=False).train()
    logits, _ = student(torch.randn(2, 3, size, size), torch.ones(len(student.drop_path_rates), 2))
    assert logits.shape == (2, 10)


def test_models_of_timm_have_no_dropout():
    recipe = registry.compose("timm:rexnet_100/cifar10/baseline", "paper", ["model.image_size=32"])
    network = models.create(recipe.model, 10, 0, feature_layers=False).network
    as_timm_has_it = timm.create_model("rexnet_100", num_classes=10)
    given, ours = ([m.p for m in n.modules() if isinstance(m, nn.Dropout)] for n in (as_timm_has_it, network))
    assert any(given) and len(given) == len(ours) and not any(ours)


def test_no_weight_starts_at_the_bound_of_the_truncated_normal():
    network = build("pvt_v2_b0/cifar10/baseline", classes=10).network  # of this seed two weights were -2
    assert max(m.weight.abs().max().item() for m in network.modules() if isinstance(m, nn.Linear)) < 0.2


def test_weights_depend_on_the_seed_alone():
    recipe = registry.compose("deit_micro/digits/guided", "quick").model
    one, other = models.create(recipe, 10, 3), models.create(recipe, 10, 3, feature_layers=False)
    torch.manual_seed(1)
    torch.rand(5)
    again = models.create(recipe, 10, 3).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(a, again[name]) for name, a in one.state_dict().items())
    assert any(not torch.equal(a, again[n]) for n, a in models.create(recipe, 10, 4).state_dict().items())


@pytest.mark.parametrize("name", STUDENTS)
def test_drop_path_follows_its_masks(name):
    patches = ["model.patch_size=8"] if name not in OF_FIXED_PATCHES else []
    student = build(f"{name}/cifar10/guided", "model.image_size=32", *patches, classes=10)
    student.network.apply(
        lambda m: nn.init.normal_(m.weight) if isinstance(m, nn.Linear) and m.out_features == 10 else None
    )
    images = torch.randn(3, 3, 32, 32)
    calls = len(student.drop_path_rates)
    plain, _ = student.eval()(images)
    student.train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # CvT's, whose batch statistics would differ from the running ones
    kept, _ = student(images, torch.ones(calls, 3))
    assert torch.allclose(plain, kept, atol=1e-5)
    masks = torch.ones(calls, 3)
    masks[:, 1] = 0  # every branch of the second sample but the first block's
    dropped, _ = student(images, masks)
    assert torch.allclose(plain[[0, 2]], dropped[[0, 2]], atol=1e-5)
    assert not torch.allclose(plain[1], dropped[1], atol=1e-3)


def test_drop_path_masks_are_a_function_of_seed_and_epoch():
    scales = sample_drop_path_masks([0.25, 0.5], 20_000, seed=1, epoch=2)
    assert torch.equal(scales[:, :500], sample_drop_path_masks([0.25, 0.5], 500, seed=1, epoch=2))
    assert not torch.equal(scales, sample_drop_path_masks([0.25, 0.5], 20_000, seed=1, epoch=3))
    assert torch.equal(scales.unique(), torch.tensor([0, 1 / 0.75, 2.0]))
    assert torch.allclose(scales.mean(1), torch.ones(2), atol=0.03)  # unbiased

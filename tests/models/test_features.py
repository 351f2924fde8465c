"""Feature maps: every layout of outputs, and the default feature layers of models of timm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import models
from bench.config.schema import RecipeError
from bench.models.drop_path import sample_drop_path_masks
from bench.models.features import layout_of, to_map
from tests.helpers.networks import REGISTRY, build, small


def test_maps_are_in_the_order_of_the_feature_layers():
    student = small("pvt_v2_b0", "model.feature_layers=[stages.3.blocks.1, stages.0.blocks.0, stages.1.blocks.1]")
    assert student.shapes == [(256, 1, 1), (32, 8, 8), (64, 4, 4)]


def test_maps_are_recovered_from_every_layout():
    maps = torch.randn(1, 5, 3, 3)
    tokens = maps.flatten(2).transpose(1, 2)
    network = nn.Identity()
    for prefix in (0, 2, 5, 1):
        network.num_prefix_tokens = prefix
        output = torch.cat([torch.full((1, prefix, 5), 99.0), tokens], 1)
        assert torch.equal(to_map(output, layout_of(output, network)), maps)
    # the network has one class token, which may enter after this block
    for output in (maps, maps.permute(0, 2, 3, 1), tokens):
        assert torch.equal(to_map(output, layout_of(output, network)), maps)
    cube = torch.randn(1, 3, 3, 3)
    assert torch.equal(to_map(cube, layout_of(cube, network)), cube)
    network.output_fmt = "NHWC"
    assert torch.equal(to_map(cube, layout_of(cube, network)), cube.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "was not called"),
        ((torch.zeros(1, 4, 2),), "is a tuple"),
        (torch.zeros(1, 7, 2), "neither a map nor the tokens of a square"),
        (torch.zeros(1, 3, 4, 5), "neither a map"),
        (torch.zeros(4, 9, 2), "folds something else into the batch"),
    ],
)
def test_outputs_that_are_no_map_are_refused(output, words):
    with pytest.raises(ValueError, match=words):
        layout_of(output, nn.Identity())


VIT = "blocks.0 blocks.6 blocks.11"
CONVNEXT = "stages.0.blocks.0 stages.2.blocks.2 stages.3.blocks.1"
# model, image size, feature layers, maps: tokens with and without class and register tokens, NHWC, NCHW
OF_TIMM = [
    ("deit_tiny_patch16_224", 32, VIT, [(192, 2, 2)] * 3),
    ("vit_small_patch14_reg4_dinov2", 28, VIT, [(384, 2, 2)] * 3),
    ("xcit_nano_12_p16_224", 64, VIT, [(128, 4, 4)] * 3),
    ("cait_xxs24_224", 32, "blocks.0 blocks.12 blocks.23", [(192, 2, 2)] * 3),
    ("convnext_atto", 64, CONVNEXT, [(40, 16, 16), (160, 4, 4), (320, 2, 2)]),
    ("gcvit_xxtiny", 224, CONVNEXT, [(64, 56, 56), (256, 14, 14), (512, 7, 7)]),
    ("fastvit_t8", 64, CONVNEXT.replace("2.blocks.2", "2.blocks.1"), [(48, 16, 16), (192, 4, 4), (384, 2, 2)]),
    ("swin_tiny_patch4_window7_224", 224, CONVNEXT.replace("stages", "layers"), [(96, 56, 56), (384, 14, 14), (768, 7, 7)]),
    (
        "pit_ti_224",
        64,
        "transformers.0.blocks.0 transformers.1.blocks.4 transformers.2.blocks.3",
        [(64, 7, 7), (128, 4, 4), (256, 2, 2)],
    ),
]


@pytest.mark.parametrize(("name", "size", "feature_layers", "shapes"), OF_TIMM)
def test_default_layers_are_the_first_middle_and_last_block(name, size, feature_layers, shapes):
    student = build(f"timm:{name}/cifar10/guided", f"model.image_size={size}")
    assert list(student.feature_layers) == feature_layers.split() and student.shapes == shapes
    scales = sample_drop_path_masks(student.drop_path_rates, 2, seed=0, epoch=0)
    logits, maps = student.train()(torch.randn(2, 3, size, size), scales)
    assert logits.shape == (2, 10) and [m.shape[1:] for m in maps] == student.shapes
    logits.sum().backward()


@pytest.mark.parametrize(
    ("name", "size", "feature_layers", "sides"),
    [
        ("resnet18", 224, "layer2 layer3 layer4", [28, 14, 7]),
        ("resnet18", 64, "layer1 layer2 layer3", [16, 8, 4]),
        ("resnet18", 32, "act1 layer1 layer2", [16, 8, 4]),
        ("resnet18", 16, "act1 layer1 layer2", [8, 4, 2]),  # only two maps have 4 x 4 cells
        ("test_efficientnet", 64, "blocks.1 blocks.2 blocks.3", [16, 8, 4]),
        ("convnext_atto", 64, "stages.0 stages.1 stages.2", [16, 8, 4]),
        ("dla46_c", 32, "level1 level2 level3", [16, 8, 4]),  # as a student it has too few blocks
        ("vit_tiny_patch16_224", 32, "blocks.0 blocks.6 blocks.11", [2, 2, 2]),  # has one resolution
    ],
)
def test_default_layers_of_a_teacher_end_three_resolutions(name, size, feature_layers, sides):
    settings = [f"teacher.model.name=timm:{name}", f"teacher.model.image_size={size}"]
    model = REGISTRY.compose("deit_tiny/cifar10/guided", "paper", settings).teacher.model
    teacher = models.create(model, 10, 0)
    assert list(teacher.feature_layers) == feature_layers.split()
    assert [shape[1:] for shape in teacher.shapes] == [(side, side) for side in sides]


@pytest.mark.parametrize(
    ("name", "assignments", "words"),
    [
        ("vit_tony_patch16_224", [], ["timm has no such model", "did you mean timm:vit_tiny_patch16_224"]),
        ("dla46_c", ["model.drop_path_rate=0"], ["timm:dla46_c has no default feature layers", "set model.feature_layers"]),
        ("crossvit_tiny_240", ["model.image_size=240"], ["crossvit_tiny_240 has no feature map at 'blocks.0'", "list"]),
        ("hiera_tiny_224", [], ["timm:hiera_tiny_224 has no feature map", "not in the order of the image"]),
        ("convmixer_768_32", [], ["model.drop_path_rate", "set it to 0"]),
        ("vit_tiny_patch16_224", ["model.image_size=5"], ["timm:vit_tiny_patch16_224"]),
        ("vit_tiny_patch16_224", ["model.width=64"], ["model.width: got 64, but timm:vit_tiny_patch16_224 fixes"]),
    ],
)
def test_models_of_timm_without_feature_maps_are_refused(name, assignments, words):
    with pytest.raises(RecipeError) as caught:
        build(f"timm:{name}/cifar10/guided", *assignments)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("method", ["baseline", "kd"])
def test_students_without_a_feature_loss_need_no_feature_layers(method):
    assignments = ["model.drop_path_rate=0", "model.image_size=32"]
    recipe = REGISTRY.compose(f"timm:dla46_c/cifar10/{method}", "paper", assignments)
    student = models.create_student(recipe, 10)
    logits, maps = student(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10) and maps == []


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        ("resnet18", 32, "layer1.1.bn2, layer2, layer3.1.bn2"),
        ("mobilevit_xxs", 64, "stages.0, stages.1, stages.3.0.conv1_1x1.bn"),
    ],
)
def test_synchronised_batch_norms_compute_the_same_and_give_their_maps(name, size, layers):
    sizes = f"model.image_size={size}", "model.drop_path_rate=0", f"model.feature_layers=[{layers}]"
    student = build(f"timm:{name}/cifar10/guided", *sizes).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        logits, maps = student(images)
        student.synchronise_batch_norms()
        torch.testing.assert_close(student(images), (logits, maps), rtol=0, atol=0)
    norms = [module for module in student.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(module, nn.SyncBatchNorm) for module in norms)

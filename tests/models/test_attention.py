"""Attention maps: the softmax of queries and keys, computed anew from the weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bench
from tests.helpers.networks import build


def test_the_maps_are_the_softmax_of_queries_and_keys_and_change_nothing():
    network = build("deit_micro/digits/baseline").network.eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = {}
    attention = network.blocks[4].attn
    hook = attention.register_forward_hook(lambda module, given, _: inputs.update(x=given[0]))
    with torch.no_grad():
        logits, maps = network(images), bench.attention_maps(network, images)
        query, key, _ = attention.qkv(inputs["x"]).reshape(3, 17, 3, 2, 32).permute(2, 0, 3, 1, 4)
        expected = (query @ key.transpose(2, 3) / 32**0.5).softmax(-1)
        hook.remove()
        assert torch.allclose(maps["blocks.4.attn"], expected, atol=1e-6) and expected.std() > 1e-4
        assert torch.equal(network(images), logits)
    assert list(maps) == [f"blocks.{k}.attn" for k in range(6)]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in attention.modules())
    attention.fused_attn = False  # now timm's dropout of the attention is called
    unfused = bench.attention_maps(network, images)
    assert list(unfused) == list(maps) and torch.allclose(unfused["blocks.4.attn"], expected, atol=1e-6)


STUDENTS = ["pit_tiny", "convit_tiny", "t2t_vit_7", "pvt_v2_b0", "pvt_tiny", "cvt_13", "timm:swin_tiny_patch4_window7_224"]


@pytest.mark.parametrize("name", STUDENTS)
def test_rows_sum_to_one_in_other_families(name):
    maps = bench.attention_maps(
        build(f"{name}/cifar10/baseline", "model.image_size=64").network.eval(), torch.randn(2, 3, 64, 64)
    )
    assert len(maps) >= 7
    for layer, attention in maps.items():
        assert attention.ndim == 4, layer
        assert torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-5), layer


def test_the_maps_are_the_weights_of_the_values():
    """Of CvT, whose products have a scale of their own: weights times values must be what the layer goes on with."""
    network = build("cvt_13/cifar10/baseline", "model.image_size=64").network.eval()
    layer, found = network.stages[2].blocks[1].attn, {}
    layer.proj.register_forward_hook(lambda module, given, _: found.update(out=given[0]))
    layer.v.register_forward_hook(lambda module, _, output: found.update(v=output))
    weights = bench.attention_maps(network, torch.randn(2, 3, 64, 64))["stages.2.blocks.1.attn"]
    value = found["v"].unflatten(2, (layer.heads, -1)).transpose(1, 2)
    assert torch.allclose((weights @ value).transpose(1, 2).flatten(2), found["out"], atol=1e-5)


class Masked(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, **self.options)


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"attn_mask": torch.eye(5).bool()}, {"attn_mask": torch.randn(5, 5)}, {"scale": 2.0}]
)
def test_options_of_fused_attention_count(options):
    network, x = nn.Sequential(Masked(**options)), torch.randn(2, 3, 5, 4)
    weights = bench.attention_maps(network, x)["0"]
    assert torch.allclose(weights @ x, network(x), atol=1e-5)


def test_networks_without_attention_are_refused():
    network = build("resnet18/cifar10", "model.image_size=64").network
    with pytest.raises(ValueError, match="ResNet has no attention layer that is known here"):
        bench.attention_maps(network, torch.zeros(1, 3, 64, 64))

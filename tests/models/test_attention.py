"""Attention maps: the softmax of queries and keys, computed anew from the weights."""

from __future__ import annotations

import pytest
import torch

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
    assert not attention.attn_drop._forward_hooks and attention.fused_attn


@pytest.mark.parametrize("name", ["pit_tiny", "convit_tiny", "t2t_vit_7", "pvt_v2_b0", "timm:swin_tiny_patch4_window7_224"])
def test_rows_sum_to_one_in_other_families(name):
    maps = bench.attention_maps(
        build(f"{name}/cifar10/baseline", "model.image_size=64").network.eval(), torch.randn(2, 3, 64, 64)
    )
    assert len(maps) >= 7
    for layer, attention in maps.items():
        assert attention.ndim == 4, layer
        assert torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-5), layer


@pytest.mark.parametrize("name", ["pvt_tiny", "cvt_13", "resnet18"])
def test_networks_without_such_layers_are_refused(name):
    network = build(f"{name}/cifar10" if name == "resnet18" else f"{name}/cifar10/baseline", "model.image_size=64").network
    with pytest.raises(ValueError, match=f"{type(network).__name__} has no attention layer with attn_drop"):
        bench.attention_maps(network, torch.zeros(1, 3, 64, 64))

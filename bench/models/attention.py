"""Attention maps of a transformer."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


@torch.no_grad()
def attention_maps(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The attention of each block for some images: {module: [batch, heads, queries, keys]}, first to last. Rows sum to one.

    Of a plain vision transformer, query and key 0 are the class token, and the others are the patches, row by row: row 0
    without its first value is where the class token looks. The modules are those with timm's dropout of the attention,
    `attn_drop`, which is called with the softmax of the products of queries and keys. PVT and CvT have none; PVTv2 has
    fewer keys than queries; in Swin the first axis is windows.

    Args:
        network: in evaluation mode, on the device of the images.
        images: [batch, 3, size, size], normalised.

    Raises:
        ValueError: the network has no such module.
    """
    layers = {name: module for name, module in network.named_modules() if hasattr(module, "attn_drop")}
    if not layers:
        raise ValueError(f"{type(network).__name__} has no attention layer with attn_drop, so it has no attention maps")
    maps: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        maps[name] = inputs[0]

    hooks = [m.attn_drop.register_forward_hook(functools.partial(keep, name)) for name, m in layers.items()]
    fused = [module for module in layers.values() if getattr(module, "fused_attn", False)]
    try:
        for module in fused:
            module.fused_attn = False  # the fused kernel never writes the attention down
        network(images)
    finally:
        for module in fused:
            module.fused_attn = True
        for hook in hooks:
            hook.remove()
    return maps

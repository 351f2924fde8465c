"""Attention maps of a transformer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@torch.no_grad()
def attention_maps(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The attention of each block for some images: {module: [batch, heads, queries, keys]}, first to last. Rows sum to one.

    Of a plain vision transformer, query and key 0 are the class token, and the others are the patches, row by row: row 0
    without its first value is where the class token looks. PVT, PVTv2 and CvT have fewer keys than queries; in Swin the
    first axis is windows. The modules are those that call `scaled_dot_product_attention`, or timm's dropout of the
    attention, `attn_drop`, with the softmax of the products of queries and keys. The Performer layers of T2T-ViT never have
    such a matrix.

    Args:
        network: in evaluation mode, on the device of the images.
        images: [batch, 3, size, size], normalised.

    Raises:
        ValueError: the network has no such module.
    """
    maps: dict[str, Tensor] = {}
    active: list[str] = []  # the modules that run, the innermost last

    def enter(name: str, module: nn.Module, inputs: tuple) -> None:
        active.append(name)

    def leave(module: nn.Module, inputs: tuple, output: object) -> None:
        active.pop()

    def dropped(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        maps[name] = inputs[0]

    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(functools.partial(enter, name)))
        hooks.append(module.register_forward_hook(leave))
        if isinstance(dropout := getattr(module, "attn_drop", None), nn.Module):
            hooks.append(dropout.register_forward_hook(functools.partial(dropped, name)))
    try:
        with _FusedAttention(lambda weights: maps.__setitem__(active[-1], weights)):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not maps:
        raise ValueError(f"{type(network).__name__} has no attention layer that is known here, so it has no attention maps")
    return maps


class _FusedAttention(TorchFunctionMode):
    """While it is active, the weights of each call of `scaled_dot_product_attention` are computed too: the fused kernel
    never writes them down. Its output stays the same."""

    def __init__(self, keep: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._keep = keep

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._keep(_weights(*args, **kwargs))
        return func(*args, **kwargs)


def _weights(query: Tensor, key: Tensor, value: Tensor, *options: object, **named: object) -> Tensor:
    """The weights of `scaled_dot_product_attention`, whose arguments these are: [batch, heads, queries, keys].

    Its output is the product of weights and values, so an identity matrix in place of the values gives the weights.
    """
    keys = key.shape[-2]
    identity = torch.eye(keys, dtype=value.dtype, device=value.device).expand(*key.shape[:-1], keys)
    return F.scaled_dot_product_attention(query, key, identity, *options, **named)

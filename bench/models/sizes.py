"""Checks of the sizes in a recipe. `check_...` raise RecipeError for a wrong size; `sees_every_pixel` returns a bool."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from bench.config.schema import Model, RecipeError

STAGE_SIZES = ("width", "depth", "heads", "mlp_ratio")
ALL_SIZES = ("patch_size", *STAGE_SIZES)


def check_sizes(model: Model, fixed: Sequence[str]) -> None:
    """Check that a recipe sets no size that the architecture fixes. Its image size is checked in bench/config."""
    for key in fixed:
        if (value := getattr(model, key)) is not None:
            raise RecipeError(f"model.{key}: got {value}, but {model.name} fixes its {', '.join(fixed)}")


def check_heads(width: int | None, heads: int | None) -> None:
    """Check that heads divide the width; None is the architecture's own."""
    if width and heads and width % heads:
        raise RecipeError(f"model.heads: {heads} does not divide model.width, {width}")


def sees_every_pixel(network: nn.Module, size: int) -> bool:
    """Whether every pixel of a `size` x `size` image changes the logits: whether their gradient is zero at none.

    Parameters that start at zero, as of heads and of the last norm of a residual branch, would hide pixels, so a copy gets
    random ones there.
    """
    network, rng = copy.deepcopy(network).eval(), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if not parameter.any():
            parameter.normal_(std=0.5, generator=rng)
    images = torch.randn(2, 3, size, size, generator=rng).requires_grad_()
    logits = network(images)
    (logits * torch.randn(logits.shape, generator=rng)).sum().backward()
    return bool((images.grad != 0).any(1).any(0).all())

"""The image sizes that each builder in bench/models accepts: those at which its network sees every pixel.

This module does not need torch, so `plan` can use it. Other builders are tested by `sees_every_pixel` in bench/models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from bench.config.schema import Model

DEFAULT_PATCH = 16  # px
MAX_SIZE = 1024  # px, of model.image_size
Takes = Callable[[int], bool]


def patch_size(model: Model) -> int:
    """The patch size of DeiT, ConViT and PiT in px."""
    return model.patch_size or DEFAULT_PATCH


def _patches(model: Model) -> tuple[Takes, str]:
    patch = patch_size(model)
    return lambda size: size % patch == 0, f"divides an image into patches of {patch} px"


def _overlapping_patches(model: Model) -> tuple[Takes, str]:
    patch = patch_size(model)
    step = max(1, patch // 2)
    return lambda size: size >= patch and size % step == 0, f"has a patch of {patch} px every {step} px"


def _multiples(step: int) -> Callable[[Model], tuple[Takes, str]]:
    return lambda model: (lambda size: size % step == 0, f"takes multiples of {step} px")


TIMM_PATCH = re.compile(r"(?:vit|deit3?|beit|swin)_\w*?patch(\d+)(?:_|$)")  # names of models of timm that do not pad

# {builder: function of a model that returns (test of a size, text that says which sizes fit)}; None: every size fits.
RULES: dict[str, Callable[[Model], tuple[Takes, str]] | None] = {
    "vit": _patches,
    "convit": _patches,
    "pit": _overlapping_patches,
    "t2t_vit": _multiples(16),
    "pvt": _multiples(32),
    "pvt_v2": lambda model: (lambda size: size >= 32, "takes 32 px or more"),
    # windows of 7 px every 4 px, with a padding of 2 px: of 4 n + 2 px the last row and column are in none
    "cvt": lambda model: (lambda size: size >= 16 and size % 4 != 2, "takes 16 px or more, but not 4 n + 2 px"),
    "resnet_cifar": None,
}


def size_problem(model: Model) -> str | None:
    """Why a model does not take its image size, and the nearest that it takes; None if it does or nothing is known."""
    rule = RULES.get(model.builder)
    if model.timm and model.builder not in RULES and (found := TIMM_PATCH.match(model.timm)):
        model, rule = replace(model, patch_size=int(found[1])), _patches
    if rule is None:
        return None
    takes, why = rule(model)
    if takes(size := model.image_size):
        return None
    smaller = next((s for s in range(size - 1, 0, -1) if takes(s)), None)
    larger = next((s for s in range(size + 1, MAX_SIZE + 1) if takes(s)), None)
    fits = " and ".join(f"{s} px" for s in (smaller, larger) if s is not None) or "none was found"
    return f"got {size} px, but {model.name} {why}; nearest sizes that fit: {fits}"

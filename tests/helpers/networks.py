"""Networks of recipes, as tests need them."""

from __future__ import annotations

from bench import models
from bench.config.registry import Registry

REGISTRY = Registry()
STUDENTS = ("t2t_vit_7", "t2t_vit_14", "pvt_tiny", "cvt_13", "deit_tiny", "pit_tiny", "pvt_v2_b0", "convit_tiny")
PATCH_SIZE_IS_FREE = ("deit_tiny", "pit_tiny", "convit_tiny")


def build(recipe_id, *assignments, classes=10, seed=0):
    """The network of a recipe with its feature layers."""
    return models.create(REGISTRY.compose(recipe_id, "paper", assignments).model, classes, seed)


def small(name, *assignments, size=32, patch=8):
    """A student for small images."""
    patches = [f"model.patch_size={patch}"] if name in PATCH_SIZE_IS_FREE else []
    return build(f"{name}/cifar10/guided", f"model.image_size={size}", *patches, *assignments)

"""Checks of the sizes that a recipe asks an architecture for. Each raises RecipeError for one that it does not have."""

from __future__ import annotations

from collections.abc import Sequence

from bench.config.schema import Model, RecipeError

STAGE_SIZES = ("width", "depth", "heads", "mlp_ratio")
ALL_SIZES = ("patch_size", *STAGE_SIZES)


def check_sizes(model: Model, fixed: Sequence[str], *, multiple_of: int = 1, at_least: int = 1) -> None:
    """Check that a recipe sets no size that the architecture fixes, and that it takes the image size (px)."""
    for key in fixed:
        if (value := getattr(model, key)) is not None:
            raise RecipeError(f"model.{key}: got {value}, but {model.name} fixes its {', '.join(fixed)}")
    if model.image_size % multiple_of:
        raise RecipeError(f"model.image_size: {model.image_size} px, {model.name} takes multiples of {multiple_of} px")
    if model.image_size < at_least:
        raise RecipeError(f"model.image_size: {model.image_size} px, {model.name} takes {at_least} px or more")


def patch_size(model: Model) -> int:
    """The patch size of a plain transformer in px, 16 by default. Patches must divide the image."""
    patch = model.patch_size or 16
    if model.image_size % patch:
        raise RecipeError(f"model.image_size: {model.image_size} px is no multiple of model.patch_size, {patch} px")
    return patch


def check_heads(width: int | None, heads: int | None) -> None:
    """Check that heads divide the width; None is the architecture's own."""
    if width and heads and width % heads:
        raise RecipeError(f"model.heads: {heads} does not divide model.width, {width}")

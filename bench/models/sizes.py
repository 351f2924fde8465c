"""Checks of the sizes that a recipe asks an architecture for."""

from __future__ import annotations

from bench.config.schema import Model, RecipeError

STAGE_SIZES = ("width", "depth", "heads", "mlp_ratio")


def check_not_set(model: Model, *keys: str) -> None:
    """Raise RecipeError if a recipe sets a size that the architecture fixes."""
    for key in keys:
        if (value := getattr(model, key)) is not None:
            raise RecipeError(f"model.{key}: got {value}, but {model.name} fixes its {', '.join(keys)}")


def patch_size(model: Model) -> int:
    """The patch size of a plain transformer in px, 16 by default. Raises RecipeError if patches do not divide the image."""
    patch = model.patch_size or 16
    if model.image_size % patch:
        raise RecipeError(f"model.image_size: {model.image_size} px is no multiple of model.patch_size, {patch} px")
    return patch


def check_heads(width: int | None, heads: int | None) -> None:
    """Raise RecipeError if heads do not divide the width; None is the architecture's own."""
    if width and heads and width % heads:
        raise RecipeError(f"model.heads: {heads} does not divide model.width, {width}")

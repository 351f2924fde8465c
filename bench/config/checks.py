"""Refuses keys of a recipe that are valid one by one but not together."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from typing import Any

from bench.config.image_sizes import size_problem
from bench.config.names import NAME
from bench.config.parse import nearest, short_repr
from bench.config.plugins import PACKAGE, explained, modules_defining
from bench.config.schema import Data, Guidance, Model, Recipe, RecipeError

MAX_WEIGHTS = 5e8  # of a network; ViT-L has 3e8
MAX_TOKENS = 4096  # 64 x 64
DEFAULT_FEATURE_LAYERS = 3  # as many are chosen if the recipe names none

# Raises RecipeError for a key path and a problem, naming the file that has the key.
Fail = Callable[[str, str], typing.NoReturn]


def check_recipe(recipe: Recipe, fail: Fail) -> None:
    """Refuse a recipe whose keys do not fit together."""
    model, data, augment, train = recipe.model, recipe.data, recipe.augment, recipe.train
    if model.timm is not None and not re.fullmatch(r"[A-Za-z0-9_]+", model.timm):
        fail("model.timm", f"got {model.timm!r}, allowed is the name of an architecture; no weights are loaded")
    _check_size(model, fail)
    if augment.crop != "random_resized" and data.pipeline == "pil":
        fail("augment.crop", f"{augment.crop!r} needs data.pipeline=batched; timm's transform crops at random sizes")
    if augment.padding and augment.crop != "padded":
        fail("augment.padding", f"got {augment.padding}, but augment.crop={augment.crop} does not pad")
    for path, pair in (("augment.crop_area", augment.crop_area), ("augment.crop_ratio", augment.crop_ratio)):
        if pair[0] > pair[1]:
            fail(path, f"got {list(pair)}, allowed is the smaller number first")
    if not (augment.mixup and augment.cutmix):
        _refuse_idle(augment, "augment", ("mix_switch",), "without augment.mixup and augment.cutmix", fail)
    if not augment.mixes:
        _refuse_idle(augment, "augment", ("mix_prob",), "without augment.mixup or augment.cutmix", fail)
    check_data(data, fail)
    images = None if data.subset or data.holdout else data.train_images  # otherwise known when the dataset is here
    if data.train_limit and images and data.train_limit > images:
        fail("data.train_limit", f"got {data.train_limit}, allowed is at most {images}, the training images of {data.name}")
    trained = recipe.sha256 is None  # a teacher that is read from a file has no batches
    if trained and (most := most_training_images(data)) is not None and (problem := batch_problem(train.batch_size, most)):
        fail("train.batch_size", problem)
    if recipe.guidance is not None:
        _check_guidance(recipe, fail)


def most_training_images(data: Data) -> int | None:
    """The largest number of images that a run may train on, as far as the recipe alone tells; None: unknown."""
    count = data.train_images
    if count is not None and data.subset is not None and data.classes is not None:
        count -= data.classes - data.subset  # at least one of each class that is left out
    if count is not None and data.holdout and data.classes is not None:
        rounded = data.classes  # each class rounds its share, and keeps an image
        count = min(count, int(count * (1 - data.holdout)) + rounded)
    return min((n for n in (count, data.train_limit) if n is not None), default=None)


def batch_problem(batch: int, images: int) -> str | None:
    """What is wrong with a batch for this number of training images; None: nothing."""
    if batch <= images:
        return None
    return f"got {batch}, but there are {images} training images and only whole batches are used: set a smaller one"


def check_processes(recipe: Recipe, world: int) -> None:
    """Refuse a recipe that `world` processes cannot train. Raises RecipeError."""
    whole_batch = recipe.guidance is not None and recipe.guidance.needs_whole_batch
    if recipe.model.role == "teacher" and world > 1:
        raise RecipeError(f"{recipe.id}: a teacher is trained by one process, not {world}")
    if recipe.train.batch_size % world:
        raise RecipeError(f"train.batch_size: {recipe.train.batch_size} cannot be divided among {world} processes")
    own, micro = recipe.train.batch_size // world, recipe.train.micro_batch or 1
    if recipe.augment.mixes and own % 2:
        raise RecipeError(
            f"train.batch_size: {recipe.train.batch_size} on {world} process{'es' if world > 1 else ''} is {own} for each,"
            " allowed are even numbers, since augment.mixup and augment.cutmix mix pairs"
        )
    if own % micro:
        raise RecipeError(f"train.micro_batch: {micro} does not divide a process's batch of {own}")
    if whole_batch and recipe.train.micro_batch not in (None, own):
        raise RecipeError("train.micro_batch: this guidance compares the samples of a whole batch")
    if recipe.teacher is not None:
        try:
            check_processes(recipe.teacher, 1)
        except RecipeError as error:
            raise RecipeError(f"teacher.{error}") from None


def check_data(data: Data, fail: Fail) -> None:
    """Refuse keys of a dataset that do not fit together."""
    if data.layout not in (layouts := modules_defining("read", PACKAGE / "data" / "layouts")):
        fail("data.layout", f"got {data.layout!r}, allowed: {', '.join(layouts)}{nearest(data.layout, layouts)}")
    for place in data.places:
        if {"", ".", "..", "**"} & set(place.split("/")) or "**" in place:
            fail("data.places", f"got {short_repr(place)}, allowed are names and patterns in the data folder, without **")
    if data.hub is not None and not re.fullmatch(f"{NAME}(/{NAME})?", data.hub):
        fail("data.hub", f"got {short_repr(data.hub)}, allowed is the name of a dataset on the hub, as owner/name")
    if data.subset and data.classes and data.subset > data.classes:
        fail("data.subset", f"got {data.subset}, allowed is at most {data.classes}, the classes of {data.name}")


def _refuse_idle(section: Any, prefix: str, names: tuple[str, ...], when: str, fail: Fail) -> None:
    """Refuse keys of a section that have no effect here, unless they have their default values."""
    for name in names:
        if getattr(section, name) != getattr(type(section)(), name):
            fail(f"{prefix}.{name}", f"has no effect {when}, and must not change the hash then")


def _check_size(model: Model, fail: Fail) -> None:
    """Refuse image sizes of which a network would not see every pixel, and networks that no machine has memory for."""
    if (problem := size_problem(model)) is not None:
        fail("model.image_size", problem)
    per_layer = 64 if model.role == "teacher" else 4 + 2 * (model.mlp_ratio or 4)  # weights in widths squared, about
    weights = (model.depth or 12) * (model.width or 0) ** 2 * per_layer
    if weights > MAX_WEIGHTS:
        fail("model.width", f"got {model.width}, about {weights:.0e} weights in total, allowed are {MAX_WEIGHTS:.0e}")
    side = model.image_size // model.patch_size if model.patch_size else 0
    if side**2 > MAX_TOKENS:
        fail("model.patch_size", f"got {model.patch_size}: {side} x {side} tokens, allowed are at most {MAX_TOKENS}")


def _check_guidance(recipe: Recipe, fail: Fail) -> None:
    """Refuse guidance that does not fit the student, the teacher or the data."""
    guidance, schedule = recipe.guidance, recipe.guidance.schedule
    if schedule.from_epoch >= recipe.train.epochs:
        problem = f"got {schedule.from_epoch}, allowed is less than train.epochs, {recipe.train.epochs}"
        fail("guidance.schedule.from_epoch", problem)
    if schedule.until_epoch is not None and schedule.until_epoch <= schedule.from_epoch:
        problem = f"got {schedule.until_epoch}, allowed is more than from_epoch, {schedule.from_epoch}"
        fail("guidance.schedule.until_epoch", problem)
    idle = {"none": ("window", "threshold", "first_test"), "paper": ("first_test",)}.get(schedule.adaptive, ())
    _refuse_idle(schedule, "guidance.schedule", idle, f"with guidance.schedule.adaptive={schedule.adaptive}", fail)
    student_layers, teacher_layers = (
        0 if part is None else len(part.model.feature_layers) or DEFAULT_FEATURE_LAYERS for part in (recipe, recipe.teacher)
    )
    for params in guidance.params:
        with explained(params.plugin):
            problems = [(str(name), problem) for name, problem in params.problems(student_layers, teacher_layers)]
        for name, problem in problems:
            key = next((key for key, own, inner in guidance.keys if own is params and inner == name), name)
            fail(name if name.startswith("model.") else f"guidance.params.{key}", problem)
    if recipe.teacher is not None:
        _check_teacher_pass(recipe, guidance, fail)


def _check_teacher_pass(recipe: Recipe, guidance: Guidance, fail: Fail) -> None:
    """Refuse a way to use the teacher that does not fit the methods or the student's transform."""
    teacher_pass = guidance.teacher
    if teacher_pass.offline:
        if "logits" in guidance.needs:
            fail("teacher.offline", f"the stored features have no logits, which {guidance.method} needs")
        if recipe.augment.crop == "padded":
            fail("teacher.offline", "the stored features have no border: augment.crop must be random_resized or none")
        if recipe.augment.mixes:
            fail("teacher.offline", "the stored features are of single images: set augment.mixup and augment.cutmix to 0")
        _refuse_idle(teacher_pass, "teacher", ("antialias", "bn_scope"), "with teacher.offline", fail)
    elif (recipe.augment.mean, recipe.augment.std) != (recipe.teacher.augment.mean, recipe.teacher.augment.std):
        fail("teacher.augment.mean", "differs from the student's, whose normalised batch the teacher receives")

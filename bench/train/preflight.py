"""Checks before a run starts: what could only fail after hours of training is refused at once.

This is what needs torch; bench/data/preflight.py has the rest.
"""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bench import guidance, models
from bench.config.checks import check_processes
from bench.config.image_sizes import RULES
from bench.config.schema import Recipe, RecipeError
from bench.config.teacher_file import find_teacher_file
from bench.data.pil_loader import timm_transform
from bench.data.rand_augment import parse
from bench.guidance import Outputs
from bench.models.features import FeatureExtractor
from bench.models.sizes import sees_every_pixel
from bench.train.launch import check_launch, choose_device, choose_precision
from bench.train.teacher import load_teacher_weights


def check_recipe(recipe: Recipe, processes: int | None) -> None:
    """Refuse a recipe that cannot be trained here: processes, device, precision, networks, transforms.

    Args:
        processes: the number that the user expects; None: any.

    Raises:
        RecipeError: one sentence.
    """
    world = check_launch(processes)
    choose_precision(recipe.train, choose_device(recipe.train))
    check_processes(recipe, world)
    known = recipe.data.subset or recipe.data.classes  # a teacher's are the same
    classes = known or 2
    student, own, teacher = models.create_student(recipe, classes), recipe.teacher, None
    _check_network(student, recipe, world)
    if own is not None:
        teacher = models.create(own.model, classes, own.seed, feature_layers="maps" in recipe.guidance.needs)
        if own.weights is not None and known is not None:  # else the decoded dataset has the number
            load_teacher_weights(teacher.network, own, find_teacher_file(own.weights, own.sha256))
        _check_network(teacher, own, world=1)
    if recipe.guidance is not None:
        _check_methods(recipe, student, teacher)


def _check_network(network: FeatureExtractor, recipe: Recipe, world: int) -> None:
    _check_single_sample(network, recipe, world)
    _check_micro_batch(network, recipe, world)
    size = recipe.model.image_size
    if recipe.model.builder not in RULES and not sees_every_pixel(network.network, size):
        raise RecipeError(f"model.image_size: {recipe.model.name} does not see every pixel of {size} px: set another size")
    if recipe.data.pipeline == "pil":
        timm_transform(recipe)
    elif recipe.augment.rand_augment:
        parse(recipe.augment.rand_augment)


def _check_methods(recipe: Recipe, student: FeatureExtractor, teacher: FeatureExtractor | None) -> None:
    """Build the methods, and compute the terms of plug-ins once: not only after the teacher is trained."""
    shapes = [] if teacher is None else teacher.shapes
    methods = guidance.create(recipe.guidance, student.shapes, shapes, recipe.seed, student.groups)
    if any(params.own for params in recipe.guidance.params):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            parts = [recipe] if teacher is None else [recipe, recipe.teacher]
            images = [torch.randn(2, 3, part.model.image_size, part.model.image_size) for part in parts]
            ours, theirs = Outputs(*student.eval()(images[0])), None
            if teacher is not None:
                with torch.no_grad():
                    logits, maps = teacher.eval()(images[1])
                theirs = Outputs(logits if "logits" in recipe.guidance.needs else None, maps)
            guidance.check_terms(recipe.guidance, methods, ours, theirs, torch.tensor([0, 1]))


def _check_single_sample(network: FeatureExtractor, recipe: Recipe, world: int) -> None:
    """Refuse one sample per process if batch norm would normalise a single value (CvT's last maps at 32 px)."""
    if recipe.train.batch_size > world:
        return
    size, calls = recipe.model.image_size, len(network.drop_path_rates)
    try:
        network.train()(torch.zeros(1, 3, size, size), torch.ones(calls, 1))
    except ValueError as error:
        sentence = f"train.batch_size: {recipe.model.name} cannot train on one sample per process: {error}"
        raise RecipeError(sentence) from error


def _check_micro_batch(network: FeatureExtractor, recipe: Recipe, world: int) -> None:
    """Refuse micro-batches of a network with batch norm, whose sum is not the gradient of the whole batch."""
    micro, own = recipe.train.micro_batch, recipe.train.batch_size // world
    if micro is None or micro == own:
        return
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise RecipeError(f"train.micro_batch: {recipe.model.name} has batch norm, which needs the whole batch at once")

"""Checks before a run starts: what could only fail after hours of training is refused at once.

`check_recipe` needs no dataset; `check_dataset` needs it decoded.
"""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bench import guidance, models
from bench.config.schema import Recipe, RecipeError
from bench.data.device_loader import check_residence
from bench.data.pil_loader import timm_transform
from bench.data.rand_augment import parse
from bench.data.subsets import DecodedDataset
from bench.guidance import Outputs
from bench.models.features import FeatureExtractor
from bench.train.launch import check_launch, choose_device, choose_precision


def check_recipe(recipe: Recipe, processes: int | None) -> None:
    """Refuse a recipe that cannot be trained here: processes, device, precision, networks, transforms.

    Args:
        processes: the number that the user expects; None: any.

    Raises:
        RecipeError: one sentence.
    """
    world = check_launch(processes)
    choose_precision(recipe.train, choose_device(recipe.train))
    if recipe.train.batch_size % world:
        raise RecipeError(f"train.batch_size: {recipe.train.batch_size} cannot be divided among {world} processes")
    if world > 1 and recipe.guidance is not None and recipe.guidance.needs_whole_batch:
        raise RecipeError(
            f"guidance.method: {recipe.guidance.method} with these parameters compares the samples of one process, and"
            f" {world} were started"
        )
    if recipe.model.role == "teacher" and world > 1:
        raise RecipeError(f"{recipe.id}: a teacher is trained by one process, not {world}")
    networks = []
    for part in (recipe, recipe.teacher):
        if part is not None:
            classes = part.data.classes or 2
            network = models.create(part.model, classes, part.seed, feature_layers=recipe.uses_feature_loss)
            networks.append(network)
            _check_single_sample(network, part, world)
            _check_micro_batch(network, part, world)
            if part.data.pipeline == "pil":
                timm_transform(part)
            elif part.augment.rand_augment:
                parse(part.augment.rand_augment)
    if recipe.guidance is not None:
        _check_methods(recipe, *networks)


def _check_methods(recipe: Recipe, student: FeatureExtractor, teacher: FeatureExtractor) -> None:
    """Build the methods, and compute the terms of plug-ins once: not only after the teacher is trained."""
    methods = guidance.create(recipe.guidance, student.shapes, teacher.shapes, recipe.seed)
    if any(params.own for params in recipe.guidance.params):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            images = [torch.randn(2, 3, part.model.image_size, part.model.image_size) for part in (recipe, recipe.teacher)]
            ours = Outputs(*student.eval()(images[0]))
            with torch.no_grad():
                logits, maps = teacher.eval()(images[1])
            theirs = Outputs(logits if "logits" in recipe.guidance.needs else None, maps)
            guidance.check_terms(recipe.guidance, methods, ours, theirs)


def check_dataset(recipe: Recipe, dataset: DecodedDataset) -> None:
    """Refuse batches larger than the training set, of student or teacher, and a residence that the images cannot have."""
    for prefix, part in (("", recipe), ("teacher.", recipe.teacher)):
        if part is None:
            continue
        training = dataset.training(part.data)
        if part.train.batch_size > (images := len(training)):
            raise RecipeError(
                f"{prefix}train.batch_size: got {part.train.batch_size}, but there are {images} training images and only"
                f" whole batches are used: --set {prefix}train.batch_size=N"
            )
        check_residence(part.data, training)


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
    """Refuse micro-batches that do not divide a process's batch, or whose sum is not the gradient of the whole batch."""
    micro, own = recipe.train.micro_batch, recipe.train.batch_size // world
    if micro is None or micro == own:
        return
    if own % micro:
        raise RecipeError(f"train.micro_batch: {micro} does not divide a process's batch of {own}")
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise RecipeError(f"train.micro_batch: {recipe.model.name} has batch norm, which needs the whole batch at once")
    if recipe.guidance is not None and recipe.guidance.needs_whole_batch:
        raise RecipeError("train.micro_batch: this guidance compares the samples of a whole batch")

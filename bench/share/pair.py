"""Student and teacher of a guided run side by side, with the feature maps that guidance compared: `bench.load_pair`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from bench import guidance
from bench.config.command import command
from bench.config.schema import Recipe, RecipeError
from bench.data.loaders import ImageTransform
from bench.guidance import Outputs
from bench.guidance.locality import LocalityGuidance
from bench.models import with_maps
from bench.models.features import FeatureExtractor
from bench.runs.folder import RunFolder
from bench.runs.record import Record
from bench.share.load import Folders, read_run, trained_network
from bench.storage import first_line, sha256
from bench.train.teacher import Teacher
from bench.train.teacher_cache import cached_weights


class Compared(NamedTuple):
    """Two maps of one size, [batch, channels, height, width], as the loss compares them (before its transform)."""

    student: Tensor  # projected to the teacher's channels
    teacher: Tensor


class FeatureMaps(NamedTuple):
    """The feature maps of some images.

    student, teacher: {feature layer: [batch, channels, height, width]}, first to last, as each network has them.
    compared: {feature layer of the student: Compared}; empty for methods other than `locality`.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    compared: dict[str, Compared]


@dataclass(frozen=True)
class Pair:
    """The result of `bench.load_pair`. All networks are on the CPU, in evaluation mode.

    student: [batch, 3, size, size] to logits.
    teacher: the same at its own input size. With `teacher.bn: batch` in the recipe, its batch norm uses the statistics of
        the batch, as it did in training.
    guidance: the trained methods by name.
    projections: {feature layer of the student: its trained projection}; identities for transforms without one.
    transform: a PIL image to [3, size, size], as the run evaluated its images.
    record: of the run.
    """

    student: nn.Module
    teacher: nn.Module
    guidance: nn.ModuleDict
    projections: dict[str, nn.Module]
    transform: ImageTransform
    record: Record
    _networks: tuple[FeatureExtractor, Teacher] = field(repr=False)
    _teacher_transform: ImageTransform | None = field(repr=False)

    @torch.no_grad()
    def outputs(self, images: Image.Image | Sequence[Image.Image]) -> tuple[Outputs, Outputs]:
        """Logits and feature maps of student and teacher for one or several PIL images, as guidance methods take them.

        The teacher sees the student's normalised image at its own size, as in training. With `teacher.offline` it sees the
        image itself. Nothing is augmented.
        """
        images = [images] if isinstance(images, Image.Image) else images
        student, teacher = self._networks
        batch = torch.stack([self.transform(image) for image in images])
        if self._teacher_transform is None:
            theirs = teacher.resize_input(batch)
        else:
            theirs = torch.stack([self._teacher_transform(image) for image in images])
        return Outputs(*student(batch)), teacher(theirs)

    @torch.no_grad()
    def feature_maps(self, images: Image.Image | Sequence[Image.Image]) -> FeatureMaps:
        """The feature maps of student and teacher for one or several PIL images.

        With `teacher.bn: batch`, the maps of the teacher depend on all images of a call: give several, as in training.
        """
        ours, theirs = self.outputs(images)
        student, teacher = self._networks
        compared = {}
        for method in self.guidance.values():
            if isinstance(method, LocalityGuidance):
                chosen = Outputs(ours.logits, [ours.maps[index] for index in method.student_maps])
                pairs = (Compared(*method.compared(k, chosen, theirs)) for k in range(len(method.stages)))
                compared = dict(zip(self.projections, pairs, strict=True))
        return FeatureMaps(
            dict(zip(student.feature_layers, ours.maps, strict=True)),
            dict(zip(teacher.network.feature_layers, theirs.maps, strict=True)),
            compared,
        )


def load_pair(path: str | os.PathLike[str], recipes_dir: Folders = ()) -> Pair:
    """Student, teacher and projections of a guided run: `bench.load_pair`.

    The teacher is that of the run, by its checksum: from the cache, or from the teacher's own run in the same results.

    Args:
        path: the folder of a run below results/local/runs, whose method compares feature maps.
        recipes_dir: as of `bench.load`; needed too if the method or the teacher is a user's own.

    Raises:
        RecipeError: as `bench.load`; or the run has no such guidance, or its teacher or projections are not here.
    """
    folder = Path(path)
    record, recipe = read_run(folder, recipes_dir)
    if recipe.guidance is None:
        raise RecipeError(f"{folder}: {recipe.id} has no guidance, so it has no teacher: bench.load loads its network")
    if recipe.teacher is None or "maps" not in recipe.guidance.needs:
        raise RecipeError(f"{folder}: the guidance {recipe.guidance.method} compares no feature maps, so there is no pair")
    network = trained_network(folder, recipe, record.dataset.classes, record.weights)
    maps = recipe.guidance.student_maps
    student = with_maps(network, recipe.model, feature_layers="chosen" in maps, all_blocks="all" in maps).eval()
    teacher = trained_teacher(folder, recipe, record)
    methods = guidance.create(recipe.guidance, student.shapes, teacher.shapes, recipe.seed, student.groups)
    methods.eval().requires_grad_(False)
    _load_guidance(folder / "guidance.safetensors", methods)
    projections = {}
    for method in methods.values():
        if isinstance(method, LocalityGuidance):
            layers = [student.feature_layers[index] for index in method.student_maps]
            projections = dict(zip((layers[stage] for stage in method.stages), method.projections, strict=True))
    one_size = record.dataset.image_size is not None
    own_transform = ImageTransform(recipe.teacher, one_size) if recipe.guidance.teacher.offline else None
    transform = ImageTransform(recipe, one_size)
    networks = (student, teacher)
    return Pair(network, teacher.network.network, methods, projections, transform, record, networks, own_transform)


def trained_teacher(folder: Path, recipe: Recipe, record: Record) -> Teacher:
    """The teacher that guided a run, on the CPU. Raises RecipeError if its weights are not on this machine."""
    weights = teacher_weights(folder, recipe, record)
    return Teacher(recipe.teacher, record.dataset.classes, weights, recipe.guidance.teacher)


def teacher_weights(folder: Path, recipe: Recipe, record: Record) -> Path:
    """The weights of the teacher that guided a run. Raises RecipeError if they are not on this machine."""
    results = folder.absolute().parents[5:6]  # the run is in <results>/local/runs/<three parts of its id>/
    places = [cached_weights(record.teacher.key), *(RunFolder(parent, recipe.teacher).weights for parent in results)]
    places = [path for path in places if path.is_file()]
    for path in places:
        if record.teacher.weights in (None, sha256(path)):
            return path
    repeat = command(recipe)
    trains = f"`{repeat} --teacher-only` trains it"
    way = "run it again with --force" if places or repeat is None or recipe.teacher.sha256 else trains
    found = "the weights here are from another training of" if places else "this machine does not have the weights of"
    which = f"seed {recipe.teacher.seed}" if recipe.teacher.sha256 is None else f"SHA-256 {recipe.teacher.sha256}"
    raise RecipeError(f"{folder}: {found} its teacher {recipe.teacher.id}, {which}: {way}")


def _load_guidance(path: Path, methods: nn.ModuleDict) -> None:
    """Load what guidance trained. Raises RecipeError if it is missing, damaged, or of another method."""
    if not methods.state_dict():
        return
    try:
        methods.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except OSError as error:
        problem = f"the projections of the run cannot be read ({error.strerror}); an export does not have them"
        raise RecipeError(f"{path}: {problem}, so give the folder of the run") from error
    except Exception as error:  # safetensors, and torch beneath it, raise many kinds for files that are not theirs
        raise RecipeError(f"{path}: not the projections of this run: {first_line(error)}") from error

"""The teacher beside the student: a small trained CNN, frozen, that turns the student's batch into feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from bench import models
from bench.config.schema import Recipe, TeacherPass
from bench.data.loaders import EvalLoader, Shard
from bench.data.subsets import DecodedDataset
from bench.guidance import Outputs, Shape
from bench.runs.record import TeacherSummary
from bench.train.evaluate import accuracy
from bench.train.teacher_cache import TeacherCache


class Teacher(nn.Module):
    """The frozen teacher (the paper's "guidance CNN", arXiv 2207.10026, section 3.1).

    Args:
        recipe: the teacher's recipe.
        classes: number of classes.
        weights: its trained weights, or None for initial ones.
        config: how it processes the student's batch.
        maps: whether it returns feature maps beside logits. Without, it may be a network that has none.

    Raises:
        RecipeError: the weights are not of this network and number of classes.
    """

    def __init__(
        self, recipe: Recipe, classes: int, weights: Path | None, config: TeacherPass, *, maps: bool = True
    ) -> None:
        super().__init__()
        self._size, self._antialias = recipe.model.image_size, config.antialias
        self.network = models.create(recipe.model, classes, recipe.seed, feature_layers=maps)
        if weights is not None:
            load_teacher_weights(self.network.network, recipe, weights)
        self.requires_grad_(False)
        self.train(False)
        if config.bn == "batch":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    # Without running statistics, batch norm uses those of the batch, in evaluation mode too.
                    module.running_mean = module.running_var = module.num_batches_tracked = None
                    module.track_running_stats = False

    @property
    def shapes(self) -> Sequence[Shape]:
        """(channels, height, width) of each feature map."""
        return self.network.shapes

    def resize_input(self, images: Tensor) -> Tensor:
        """A student's batch at the teacher's input size: [batch, 3, size, size] to [batch, 3, 32, 32], for example."""
        if images.shape[-1] == self._size:
            return images
        return F.interpolate(
            images, (self._size, self._size), mode="bilinear", align_corners=False, antialias=self._antialias
        )

    def forward(self, images: Tensor) -> Outputs:
        """Logits and feature maps of images at the teacher's input size."""
        with torch.no_grad():  # not a decorator, whose frame torch.compile would name instead of this one
            logits, maps = self.network(images)
        return Outputs(logits, maps)


def load_teacher_weights(network: nn.Module, recipe: Recipe, weights: Path) -> None:
    """Load a file of weights into the network of a teacher. Raises RecipeError if they are not of this network."""
    where = str(weights) if recipe.weights is None else f"teacher.weights: {recipe.weights}"
    models.load_weights(network, weights.read_bytes(), recipe.model.name, where)


def summarize_teacher(cache: TeacherCache, dataset: DecodedDataset, accelerator: Accelerator) -> TeacherSummary:
    """What a record says of its teacher, which is in the cache.

    One that is read from a file is evaluated here, on the images that its students are evaluated on: how it was trained is
    unknown. All processes call this together.
    """
    recipe = cache.recipe
    same = {"key": cache.key, "id": recipe.id, "hash": recipe.hash}
    if recipe.sha256 is None:
        record = cache.record()
        own = {
            name: getattr(record, name)
            for name in ("seed", "last_accuracy", "best_accuracy", "epochs", "seconds", "weights")
        }
        return TeacherSummary(**same, **own, select=recipe.select)
    network = models.create_network(recipe.model, dataset.classes(recipe.data), recipe.seed)
    load_teacher_weights(network, recipe, cache.weights)
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    images = EvalLoader(recipe, dataset, accelerator.device, shard)
    percent, _ = accuracy(network.to(accelerator.device), images, accelerator)
    return TeacherSummary(
        **same,
        **dict.fromkeys(("last_accuracy", "best_accuracy"), percent),
        **dict.fromkeys(("seed", "epochs", "seconds")),
        select="given",
        weights=recipe.sha256,
    )

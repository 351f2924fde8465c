"""The teacher beside the student: a small trained CNN, frozen, that turns the student's batch into feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bench import models
from bench.config.schema import Recipe, TeacherPass
from bench.guidance import Outputs, Shape


class Teacher(nn.Module):
    """The frozen teacher (the paper's "guidance CNN", arXiv 2207.10026, section 3.1).

    Args:
        recipe: the teacher's recipe.
        classes: number of classes.
        weights: its trained weights, or None for initial ones.
        config: how it processes the student's batch.
        maps: whether it returns feature maps beside logits. Without, it may be a network that has none.
    """

    def __init__(
        self, recipe: Recipe, classes: int, weights: Path | None, config: TeacherPass, *, maps: bool = True
    ) -> None:
        super().__init__()
        self._size, self._antialias = recipe.model.image_size, config.antialias
        self.network = models.create(recipe.model, classes, recipe.seed, feature_layers=maps)
        if weights is not None:
            self.network.network.load_state_dict(load_file(weights))
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

"""The guide beside the student: a small trained CNN, frozen, that turns the student's batch into feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bench import models
from bench.schema import Guidance, Recipe


class Guide(nn.Module):
    """The frozen guide: a student's augmented batch to the guide's feature maps and logits, without gradients.

    Args:
        recipe: the guide's recipe.
        classes: outputs of its head.
        weights: its trained weights, or None for initial ones.
        norm: "batch" normalises by the statistics of the batch at hand, as the released code does by running the guide in
            train mode; "running" by those it was trained with.
        antialias: of the resize to the guide's input size.
    """

    def __init__(self, recipe: Recipe, classes: int, weights: Path | None, config: Guidance) -> None:
        super().__init__()
        self._size, self._antialias = recipe.model.image_size, config.antialias
        self.network = models.create(recipe.model, classes, recipe.seed)
        if weights is not None:
            self.network.network.load_state_dict(load_file(weights))
        self.requires_grad_(False)
        self.train(False)
        if config.guide_norm == "batch":
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    # Without running statistics batch norm uses the batch's, in evaluation mode too.
                    module.running_mean = module.running_var = module.num_batches_tracked = None
                    module.track_running_stats = False

    @property
    def shapes(self) -> Sequence[tuple[int, int, int]]:
        """(channels, height, width) of each map."""
        return self.network.shapes

    def view(self, images: Tensor) -> Tensor:
        """The guide's own small view of a student's batch: [batch, 3, size, size] to [batch, 3, 32, 32], say."""
        if images.shape[-1] == self._size:
            return images
        return F.interpolate(
            images, (self._size, self._size), mode="bilinear", align_corners=False, antialias=self._antialias
        )

    @torch.no_grad()
    def forward(self, view: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits [batch, classes] and the maps [batch, channels, height, width] of a view."""
        return self.network(view)

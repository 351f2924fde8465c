"""The training loader of a recipe's pipeline."""

from __future__ import annotations

import torch

from bench.config.schema import Recipe
from bench.data.device_loader import DeviceLoader
from bench.data.pil_loader import PilLoader
from bench.data.subsets import DecodedDataset
from bench.data.train_loader import ALONE, Shard, TrainLoader

PIPELINES = {"batched": DeviceLoader, "pil": PilLoader}


def make_train_loader(recipe: Recipe, dataset: DecodedDataset, device: torch.device, shard: Shard = ALONE) -> TrainLoader:
    """The loader of `data.pipeline`."""
    return PIPELINES[recipe.data.pipeline](recipe, dataset, device, shard)

"""The loaders of a recipe: batches to train on and to evaluate on."""

from __future__ import annotations

import torch

from bench.config.schema import Recipe
from bench.data.device_loader import DeviceLoader, check_residence
from bench.data.eval_loader import EvalLoader, ImageTransform, unaugmented
from bench.data.pil_loader import PilLoader
from bench.data.subsets import DecodedDataset
from bench.data.train_loader import Batch, Shard, TrainLoader

__all__ = ["Batch", "EvalLoader", "ImageTransform", "Shard", "check_residence", "make_train_loader", "unaugmented"]


def make_train_loader(recipe: Recipe, store: DecodedDataset, device: torch.device, share: Shard = Shard()) -> TrainLoader:
    """The training batches of a recipe, by its `data.pipeline`."""
    pipeline = PilLoader if recipe.data.pipeline == "pil" else DeviceLoader
    return pipeline(recipe, store, device, share)

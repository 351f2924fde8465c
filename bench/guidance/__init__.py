"""Guidance methods: one file each, with `build(config, student_shapes, guide_shapes)`; `create` finds it by the recipe's
`guidance.method`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import nn

from bench.draws import Stream, torch_seed
from bench.schema import Guidance

Shape = tuple[int, int, int]  # channels, height, width


def create(config: Guidance, student: Sequence[Shape], guide: Sequence[Shape], seed: int) -> nn.Module | None:
    """The module that turns student maps and guide maps into a loss, with what it trains itself (the projections); None
    where features are not imitated (`guidance.weight: 0`).

    Its `forward(student_maps, guide_maps)` returns an unweighted scalar in fp32. Its weights have a stream of random
    numbers of their own, so the student of one seed starts the same with and without guidance.
    """
    if not config.weight:
        return None
    method = importlib.import_module(f"bench.guidance.{config.method}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.PROJECTION))
        return method.build(config, student, guide)

"""Guidance methods, one file each. A file has

- a class `Params(MethodParams)`: the method's parameters with their defaults, and the teacher's outputs that it needs;
- `build(params, student_shapes, teacher_shapes)`, which returns the method as a `Method`.

`create` finds a method by the recipe's `guidance.method`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.config.schema import Guidance
from bench.rng import Stream, torch_seed

Shape = tuple[int, int, int]  # channels, height, width


class Outputs(NamedTuple):
    """What a network computes for a batch.

    logits: [batch, classes]; None where no method needs them.
    maps: [batch, channels, height, width] for each feature layer, first to last.
    """

    logits: Tensor | None
    maps: list[Tensor]


class Method(nn.Module):
    """Base of guidance methods. The loss of a run is ce_weight · cross-entropy + weight · term.

    With joined methods, cross-entropy is multiplied by every ce_weight, and the weighted terms are added.

    `forward(student: Outputs, teacher: Outputs)` returns the term, an unweighted scalar in fp32.
    """

    weight: float = 1.0
    ce_weight: float = 1.0


def create(guidance: Guidance, student: Sequence[Shape], teacher: Sequence[Shape], seed: int) -> nn.ModuleDict:
    """The methods of a recipe by name, with the modules that they train (projections).

    Their initial weights have a random stream of their own, so a student of one seed has the same initial weights with and
    without guidance.

    Args:
        student, teacher: shapes of the feature maps, first to last.
    """
    names = guidance.method.split("+")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.PROJECTION))
        modules = (importlib.import_module(f"bench.guidance.{name}") for name in names)
        built = [module.build(params, student, teacher) for module, params in zip(modules, guidance.params, strict=True)]
    return nn.ModuleDict(dict(zip(names, built, strict=True)))

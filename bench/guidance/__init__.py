"""Guidance methods, one file each. A file has

- a class `Params(MethodParams)`: the method's parameters with their defaults, and the teacher's outputs that it needs;
- `build(params, student_shapes, teacher_shapes)`, which returns the method as a `Method`.

`create` finds a method by the recipe's `guidance.method`; a user's own method is such a file below `--recipes-dir`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.config.plugins import explained, load, place_of
from bench.config.schema import Guidance, MethodParams, RecipeError
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
        built = [_build(*method, student, teacher) for method in zip(names, guidance.params, strict=True)]
    return nn.ModuleDict(dict(zip(names, built, strict=True)))


def _build(name: str, params: MethodParams, student: Sequence[Shape], teacher: Sequence[Shape]) -> Method:
    """One method. Raises RecipeError if it is a plug-in that is not here or does not work."""
    if not params.own:
        return importlib.import_module(f"bench.guidance.{name}").build(params, student, teacher)
    plugin = params.plugin
    if plugin is None:
        raise RecipeError(
            f"guidance.method: {name} is a file of its author, which is not here: --recipes-dir names its folder"
        )
    if hasattr(nn.ModuleDict(), name):
        raise RecipeError(f"{plugin.path}: {name} is a name that torch uses: rename the file")
    module = load(plugin)
    with explained(plugin):
        method = module.build(params, student, teacher)
    if not isinstance(method, Method):
        raise RecipeError(
            f"{place_of(module.build, plugin)}: build returned {type(method).__name__}, allowed is a bench.guidance.Method"
        )
    return method


def check_terms(guidance: Guidance, methods: nn.ModuleDict, student: Outputs, teacher: Outputs) -> None:
    """Raise RecipeError if the term of a plug-in cannot be trained on, for a batch of outputs like those of a run."""
    for method, params in zip(methods.values(), guidance.params, strict=True):
        if (plugin := params.plugin) is None:
            continue
        with explained(plugin):
            term = method(student, teacher)
        problem = None
        if not isinstance(term, Tensor):
            problem = f"returned {type(term).__name__}"
        elif term.ndim:
            problem = f"returned a tensor of shape {list(term.shape)}"
        elif not term.isfinite():
            problem = f"returned {term.item()} for random images"
        elif not term.requires_grad:
            problem = "returned a term without a gradient"
        if problem is not None:
            where = place_of(type(method).forward, plugin)
            raise RecipeError(f"{where}: forward {problem}, allowed is a finite scalar that depends on the student")

"""Guidance methods, one file each. A file has

- a class `Params(MethodParams)`: the method's parameters with their defaults, and what it needs of teacher and student;
- `build(params, student_shapes, teacher_shapes)`, which returns the method as a `Method`.

`create` finds a method by the recipe's `guidance.method`; a user's own method is such a file below `--recipes-dir`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.config.params import PUBLISHED_EPOCHS
from bench.config.plugins import absent, explained, load, place_of
from bench.config.schema import Guidance, MethodParams, RecipeError
from bench.rng import Stream, generator, torch_seed

Shape = tuple[int, int, int]  # channels, height, width


class Outputs(NamedTuple):
    """What a network computes for a batch.

    logits: [batch, classes]; None where no method needs them.
    maps: [batch, channels, height, width], first to last: of the feature layers, or of all blocks.
    """

    logits: Tensor | None
    maps: list[Tensor]

    def rows(self, rows: slice) -> Outputs:
        """Those of some samples of the batch."""
        return Outputs(None if self.logits is None else self.logits[rows], [maps[rows] for maps in self.maps])


class Samples(NamedTuple):
    """The samples of a batch, for a method.

    labels: [batch] int64.
    draws: [batch, ...], what the method's `draw` returned for them, or None.
    """

    labels: Tensor
    draws: Tensor | None = None


class Signals(NamedTuple):
    """What guides the student in a batch.

    teacher: the teacher's outputs; None without a teacher.
    draws: the random draws of methods that have some, by name.
    """

    teacher: Outputs | None
    draws: dict[str, Tensor]

    def rows(self, rows: slice) -> Signals:
        """Those of some samples of the batch."""
        teacher = None if self.teacher is None else self.teacher.rows(rows)
        return Signals(teacher, {name: draws[rows] for name, draws in self.draws.items()})


class Method(nn.Module):
    """Base of guidance methods. The loss of a run is ce_weight · cross-entropy + weight · scale · term.

    With joined methods, cross-entropy is multiplied by every ce_weight, and the weighted terms are added.

    `forward(student: Outputs, teacher: Outputs | None, samples: Samples)` returns the term, an unweighted scalar in fp32.
    The teacher is None if no method of the recipe needs one. The forward pass may neither wait for the device nor branch on
    the values of tensors, so that it can be compiled and captured in a CUDA graph.

    Attributes:
        student_maps: which of the student's maps the method gets, as indices.
        ramp: the scale of the current epoch; a buffer, so a new value compiles nothing again.
    """

    weight: float = 1.0
    ce_weight: float = 1.0
    student_maps: Sequence[int] = ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ramp", torch.ones(()), persistent=False)

    def scale(self, epoch: int, epochs: int) -> float:
        """The factor of the weight in an epoch, counted from 0, of a run of `epochs`."""
        return 1.0

    def draw(self, rng: np.random.Generator, count: int) -> Tensor | None:
        """The random draws of an epoch for `count` samples, [count, ...]; None if the method draws nothing."""
        return None


def create(
    guidance: Guidance,
    student: Sequence[Shape],
    teacher: Sequence[Shape],
    seed: int,
    groups: Mapping[str, Sequence[int]],
) -> nn.ModuleDict:
    """The methods of a recipe by name, with the modules that they train (projections).

    Their initial weights have a random stream of their own, so a student of one seed has the same initial weights with and
    without guidance.

    Args:
        student, teacher: shapes of the maps, first to last; the teacher's are empty without one.
        groups: which of the student's maps are "chosen" and which are "all", as indices.
    """
    names = guidance.method.split("+")
    methods = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.PROJECTION))
        for name, params in zip(names, guidance.params, strict=True):
            indices = () if params.student_maps is None else groups[params.student_maps]
            methods[name] = _build(name, params, [student[index] for index in indices], teacher)
            methods[name].student_maps = tuple(indices)
    return nn.ModuleDict(methods)


def begin_epoch(methods: nn.ModuleDict, seed: int, epoch: int, epochs: int, positions: int) -> dict[str, Tensor]:
    """Set the scale of each method, and return the random draws of an epoch, [positions, ...] on the CPU, by method.

    The draws depend on the seed, the epoch and the position in the epoch's global order alone.

    Args:
        epoch: counted from 0, of `epochs`.
    """
    rng, draws = generator(seed, Stream.GUIDANCE, epoch), {}
    for name, method in methods.items():
        method.ramp.fill_(method.scale(epoch, epochs))
        if (drawn := method.draw(rng, positions)) is not None:
            draws[name] = drawn
    return draws


def _build(name: str, params: MethodParams, student: Sequence[Shape], teacher: Sequence[Shape]) -> Method:
    """One method. Raises RecipeError if it is a plug-in that is not here or does not work."""
    if not params.own:
        return importlib.import_module(f"bench.guidance.{name}").build(params, student, teacher)
    plugin = params.plugin
    if plugin is None:
        raise absent("guidance.method", name)
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


def check_terms(
    guidance: Guidance, methods: nn.ModuleDict, student: Outputs, teacher: Outputs | None, labels: Tensor
) -> None:
    """Raise RecipeError if the term of a plug-in cannot be trained on, for a batch of outputs like those of a run."""
    rng = generator(0, Stream.GUIDANCE)
    for method, params in zip(methods.values(), guidance.params, strict=True):
        if (plugin := params.plugin) is None:
            continue
        with explained(plugin):
            method.ramp.fill_(method.scale(0, PUBLISHED_EPOCHS))
            ours = Outputs(student.logits, [student.maps[index] for index in method.student_maps])
            term = method(ours, teacher, Samples(labels, method.draw(rng, len(labels))))
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

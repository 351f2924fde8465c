"""One training step: the teacher's outputs, the student's forward and backward, the optimiser's update.

Nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor

from bench import guidance
from bench.config.schema import Recipe
from bench.data.loaders import Batch
from bench.guidance import Outputs, Signals, outputs_rows
from bench.models.features import FeatureExtractor
from bench.runs.record import Compilation
from bench.train.compilation import compilation, fall_back_quietly
from bench.train.feature_cache import FeatureCache
from bench.train.task import Task, make_optimizer
from bench.train.teacher import Teacher


class Step:
    """The training step of a recipe on the processes of `accelerator`.

    Args:
        student: the network that is trained.
        teacher: the frozen teacher, its stored features, or None if no method needs one.

    Attributes:
        task: the module that learns: student and guidance methods.
        optimizer: its optimiser.
        mode: of torch.compile, or None.
        ema: the average of the student's network over the steps (`train.ema`), or None.
        updates: number of steps so far; a resumed run sets it.
    """

    def __init__(
        self, recipe: Recipe, student: FeatureExtractor, teacher: Teacher | FeatureCache | None, accelerator: Accelerator
    ) -> None:
        self._guidance, self._teacher, self._accelerator = recipe.guidance, teacher, accelerator
        device, world = accelerator.device, accelerator.num_processes
        methods = None
        if recipe.guidance is not None:
            shapes = [] if teacher is None else teacher.shapes
            methods = guidance.create(recipe.guidance, student.shapes, shapes, recipe.seed, student.groups)
        task = Task(student, methods, recipe.train.label_smoothing)
        self.ema, self.updates = None, 0
        if recipe.train.ema:
            # Warm-up, since small datasets have few steps: with a fixed decay of 0.9998, the 4,500 steps of a run on
            # Flowers-102 would leave 41 % of the initial weights in the average.
            self.ema = ModelEmaV3(student.network, decay=recipe.train.ema, use_warmup=True).to(device).requires_grad_(False)
        if device.type == "cuda" and world > 1:
            # batch norm of students uses the statistics of the global batch
            task = torch.nn.SyncBatchNorm.convert_sync_batchnorm(task)
            for parameter in task.parameters():
                parameter.register_hook(as_stored)
        self.mode = compile_mode(recipe, device, world)
        if isinstance(teacher, Teacher):
            teacher.to(device)
        if self.mode is not None:
            # a missing compiler stops a run only if compilation was asked for
            fall_back_quietly(recipe.train.compile == "auto")
            for module in (task, teacher):
                if isinstance(module, torch.nn.Module):
                    module.compile(mode=self.mode)  # before data parallelism wraps it; torch splits it into buckets there
        self.task = task
        self._kinds: set[bool] = set()  # of steps so far: guided or not
        self._parallel, self.optimizer = accelerator.prepare(task, make_optimizer(task.to(device), recipe.train))
        own = recipe.train.batch_size // world
        micro = recipe.train.micro_batch or own
        self._micro_batches = [slice(first, first + micro) for first in range(0, own, micro)]

    def __call__(self, batch: Batch, drop_path: Tensor, draws: Mapping[str, Tensor] | None) -> Tensor:
        """Train on one batch.

        Args:
            drop_path: [calls, batch] scales of these samples.
            draws: the random draws of the epoch by method, [positions, ...]; None if guidance is not active in this epoch.

        Returns:
            [2] on the device: the loss, and the sum of the unweighted guidance terms.
        """
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        losses = self.backward(batch, drop_path, None if draws is None else self.signals(batch, draws))
        if self.task.guidance is not None and draws is None:
            for parameter in self.task.guidance.parameters():
                parameter.grad = None  # inactive: without a gradient there is no weight decay either
        self.update()
        return losses

    @property
    def compiled(self) -> str:
        """The result of compilation so far: "off", the mode, or "fell back" if there is no compiler."""
        if self.mode is None:
            return "off"
        return self.mode if self.compilation().found else "fell back"

    def compilation(self) -> Compilation | None:
        """What has been compiled and captured so far, see `bench.train.compilation`."""
        of_teacher = isinstance(self._teacher, Teacher) and True in self._kinds
        return compilation(self._accelerator, (len(self._kinds) + of_teacher) * (self.mode is not None))

    def signals(self, batch: Batch, draws: Mapping[str, Tensor]) -> Signals:
        """What guides the student in a batch. draws: as in `__call__`."""
        teacher = None if self._teacher is None else self.teacher_outputs(batch)
        return Signals(teacher, {name: drawn[batch.positions] for name, drawn in draws.items()})

    def teacher_outputs(self, batch: Batch) -> Outputs:
        """The teacher's outputs for this process's samples.

        If the teacher's batch norm uses the statistics of the global batch, every process runs the teacher on the images of
        all processes, so that the statistics are the same on any number of GPUs.
        """
        teacher, accelerator, world = self._teacher, self._accelerator, self._accelerator.num_processes
        if isinstance(teacher, FeatureCache):
            return Outputs(None, teacher.maps(batch))
        images, config = teacher.resize_input(batch.images), self._guidance.teacher
        is_global = world > 1 and config.bn == "batch" and config.bn_scope == "global"
        if is_global:
            images = accelerator.gather(images)
        with accelerator.autocast():
            outputs = teacher(images)
        if is_global:
            own = len(batch.labels)
            outputs = outputs_rows(outputs, slice(accelerator.process_index * own, (accelerator.process_index + 1) * own))
        return outputs if "logits" in self._guidance.needs else Outputs(None, outputs.maps)

    def forward(
        self, batch: Batch, drop_path: Tensor, signals: Signals | None, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """The loss of some rows of a batch, with its graph, and the sum of the unweighted guidance terms."""
        self._kinds.add(signals is not None)
        signals = None if signals is None else signals.rows(rows)
        mixed = None if batch.mixed is None else batch.mixed.rows(rows)
        return self._parallel(batch.images[rows], batch.labels[rows], drop_path[:, rows], signals, mixed)

    def backward(self, batch: Batch, drop_path: Tensor, signals: Signals | None) -> Tensor:
        """Forward and backward of a batch, in micro-batches if the recipe has them. Gradients add up to the batch's."""
        parts, losses = len(self._micro_batches), torch.zeros(2, device=self._accelerator.device)
        for part, rows in enumerate(self._micro_batches, 1):
            wait = part < parts  # processes exchange gradients once, after the last part
            with self._accelerator.no_sync(self._parallel) if wait else contextlib.nullcontext():
                loss, guidance_loss = self.forward(batch, drop_path, signals, rows)
                self._accelerator.backward(loss / parts)
            losses += torch.stack([loss.detach(), guidance_loss]) / parts
        return losses

    def update(self) -> None:
        """The optimiser's update, then that of the averaged weights."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        if self.ema is not None:
            self.ema.update(self.task.student.network, self.updates)


def as_stored(gradient: Tensor) -> Tensor:
    """A gradient with the strides of a contiguous parameter, without a copy where it is one but for axes of length 1.

    cuDNN gives gradients of 1x1 convolutions other strides on these axes; data parallelism would copy each one, and warn.
    """
    return gradient.reshape(-1).view(gradient.shape) if gradient.is_contiguous() else gradient


def compile_mode(recipe: Recipe, device: torch.device, world: int) -> str | None:
    """The mode of torch.compile for a recipe's `train.compile`, or None.

    `auto` compiles on a GPU only: on a CPU it takes a minute or two, and small networks gain nothing. Small networks on a
    large GPU are limited by kernel launches, which CUDA graphs avoid. Graphs are not possible with several processes, nor
    with micro-batches, since each run of a graph overwrites the gradients of the one before.
    """
    mode = recipe.train.compile
    if mode == "auto":
        mode = "graphs" if device.type == "cuda" else "off"
    if mode == "graphs" and (device.type != "cuda" or world > 1 or recipe.train.micro_batch is not None):
        mode = "default"
    return {"off": None, "default": "default", "graphs": "reduce-overhead"}[mode]

"""One training step: what the guide says of a batch, the student's forward and backward, the optimiser's update.

Nothing here waits for the device.
"""

from __future__ import annotations

import contextlib

import torch
from accelerate import Accelerator
from torch import Tensor

from bench import guidance
from bench.data.batches import Batch
from bench.guide import Guide
from bench.kept_features import KeptFeatures
from bench.models.tapped import Tapped
from bench.schema import Recipe
from bench.task import Task, make_optimizer


class Step:
    """The step of a recipe on the processes of `accelerator`.

    Args:
        student: the network that is trained.
        guide: the frozen guide, its kept features, or None.

    Attributes:
        task: what learns: student and projections.
        optimizer: its optimiser.
        mode: torch.compile's, or None.
    """

    def __init__(
        self, recipe: Recipe, student: Tapped, guide: Guide | KeptFeatures | None, accelerator: Accelerator
    ) -> None:
        self._recipe, self._guide, self._accelerator = recipe, guide, accelerator
        device, world = accelerator.device, accelerator.num_processes
        method = None if guide is None else guidance.create(recipe.guidance, student.shapes, guide.shapes, recipe.seed)
        task = Task(student, method, recipe.guidance)
        if device.type == "cuda" and world > 1:
            # Of students that have batch norm: of the global batch.
            task = torch.nn.SyncBatchNorm.convert_sync_batchnorm(task)
        self.mode = compile_mode(recipe, device, world)
        if isinstance(guide, Guide):
            guide.to(device)
        if self.mode is not None:
            # What was not asked for must not keep a run from going on where no compiler is.
            torch._dynamo.config.suppress_errors = recipe.train.compile == "auto"
            for module in (task, guide):
                if isinstance(module, torch.nn.Module):
                    module.compile(mode=self.mode)  # before data parallelism wraps it; torch cuts it into buckets there
        self.task = task
        self._parallel, self.optimizer = accelerator.prepare(task, make_optimizer(task.to(device), recipe.train))
        own = recipe.train.batch_size // world
        micro = recipe.train.micro_batch or own
        self._micro_batches = [slice(first, first + micro) for first in range(0, own, micro)]

    def __call__(self, batch: Batch, drop_path: Tensor, guided: bool) -> Tensor:
        """Train on one batch.

        Args:
            drop_path: [calls, batch] scales of these samples.
            guided: whether guidance acts in this epoch.

        Returns:
            [2] on the device: the loss, and the unweighted terms of guidance added up.
        """
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        maps, logits = self.imitated(batch) if guided else (None, None)
        sums = self.backward(batch, drop_path, maps, logits)
        if self.task.guidance is not None and not guided:
            for parameter in self.task.guidance.parameters():
                parameter.grad = None  # at rest: without a gradient there is no weight decay either
        self.update()
        return sums

    @property
    def compiled(self) -> str:
        """What became of compilation so far: "off", the mode, or "fell back" where there is no compiler."""
        if self.mode is None:
            return "off"
        return self.mode if torch._dynamo.utils.counters["stats"]["unique_graphs"] else "fell back"

    def imitated(self, batch: Batch) -> tuple[list[Tensor], Tensor | None]:
        """The guide's maps of this process's samples, and its logits where the recipe wants them. Where the guide's batch
        norm uses the batch's statistics, every process runs it on the views of the global batch, so that one GPU and eight
        mean the same statistics."""
        guide, accelerator = self._guide, self._accelerator
        if isinstance(guide, KeptFeatures):
            return guide.maps(batch), None
        view = guide.view(batch.images)
        config, world = self._recipe.guidance, accelerator.num_processes
        together = world > 1 and config.guide_norm == "batch" and config.guide_norm_scope == "global"
        if together:
            view = accelerator.gather(view)
        with accelerator.autocast():
            logits, maps = guide(view)
        if together:
            own = len(batch.labels)
            mine = slice(accelerator.process_index * own, (accelerator.process_index + 1) * own)
            logits, maps = logits[mine], [m[mine] for m in maps]
        return maps, logits if config.logits != "none" else None

    def forward(
        self, batch: Batch, drop_path: Tensor, maps: list[Tensor] | None, logits: Tensor | None, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """The loss of some rows of a batch, with its graph, and the unweighted terms of guidance."""
        return self._parallel(
            batch.images[rows],
            batch.labels[rows],
            drop_path[:, rows],
            None if maps is None else [m[rows] for m in maps],
            None if logits is None else logits[rows],
        )

    def backward(self, batch: Batch, drop_path: Tensor, maps: list[Tensor] | None, logits: Tensor | None) -> Tensor:
        """Forward and backward of a batch, in micro-batches where the recipe says so; gradients add up to the batch's."""
        parts, sums = len(self._micro_batches), torch.zeros(2, device=self._accelerator.device)
        for part, rows in enumerate(self._micro_batches, 1):
            wait = part < parts  # processes exchange gradients once, after the last part
            with self._accelerator.no_sync(self._parallel) if wait else contextlib.nullcontext():
                loss, guidance_loss = self.forward(batch, drop_path, maps, logits, rows)
                self._accelerator.backward(loss / parts)
            sums += torch.stack([loss.detach(), guidance_loss]) / parts
        return sums

    def update(self) -> None:
        """The optimiser's step."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def compile_mode(recipe: Recipe, device: torch.device, world: int) -> str | None:
    """torch.compile's mode for a recipe's `train.compile`, or None for none.

    `auto` compiles on a GPU only: on a CPU it takes a minute or two and small networks gain nothing. Small networks on a
    large GPU wait for their kernels to be launched, which CUDA graphs do at once; not with several processes, nor where
    gradients add up over micro-batches, since a graph's gradients are overwritten by its next run.
    """
    asked = recipe.train.compile
    if asked == "auto":
        asked = "graphs" if device.type == "cuda" else "off"
    if asked == "graphs" and (device.type != "cuda" or world > 1 or recipe.train.micro_batch is not None):
        asked = "default"
    return {"off": None, "default": "default", "graphs": "reduce-overhead"}[asked]

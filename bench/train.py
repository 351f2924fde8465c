"""The training of one recipe, student or guide: from its decoded dataset to a history and trained weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from bench import guidance, models
from bench.data.batches import Batch, Share, TestBatches, train_batches
from bench.data.parts import Store
from bench.evaluate import count_correct
from bench.guide import Guide
from bench.kept_features import KeptFeatures
from bench.models.drop_path import draw_scales
from bench.progress import Progress
from bench.schedule import learning_rate
from bench.schema import Recipe
from bench.task import Task, make_optimizer


class Diverged(RuntimeError):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    history: a row an epoch, with the columns of history.csv.
    network, guidance: the weights to keep, on the CPU; guidance is empty where nothing was trained beside the network.
    parameters: trainable ones of the network.
    maps: shape [channels, height, width] by tapped module, of guided students.
    """

    history: list[dict[str, Any]]
    network: dict[str, Tensor]
    guidance: dict[str, Tensor]
    parameters: int
    maps: dict[str, tuple[int, int, int]]


def train(
    recipe: Recipe,
    store: Store,
    accelerator: Accelerator,
    guide: Guide | KeptFeatures | None = None,
    after_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None,
) -> Trained:
    """Train the network of a recipe on the processes of `accelerator`.

    Args:
        guide: for recipes with guidance: the frozen guide, or its kept features where the recipe says `guidance.offline`.
        after_epoch: called on every process with the history so far.

    Raises:
        Diverged: the loss of an epoch is not finite.
        RecipeError: the recipe does not fit the dataset or the number of processes.
    """
    settings, device = recipe.train, accelerator.device
    share = Share(accelerator.process_index, accelerator.num_processes)
    config = recipe.guidance
    student = models.create(recipe.model, store.classes(recipe.data), recipe.seed, taps=recipe.imitates_maps)
    method = None
    if guide is not None:
        method = guidance.create(config, student.shapes, guide.shapes, recipe.seed)
        if isinstance(guide, Guide):
            guide.to(device)
    task = Task(student, method, config)
    if device.type == "cuda" and share.world > 1:
        task = torch.nn.SyncBatchNorm.convert_sync_batchnorm(task)  # of students that have batch norm: the global batch's
    batches = train_batches(recipe, store, device, share)
    test = TestBatches(recipe, store, device, share)
    parallel, optimizer = accelerator.prepare(task, make_optimizer(task.to(device), settings))
    evaluated_on = "held-out" if recipe.data.holdout else "test"
    progress = Progress(settings.epochs, batches.steps, not accelerator.is_main_process, evaluated_on)

    history: list[dict[str, Any]] = []
    kept = {}
    for epoch in range(settings.epochs):
        rate = learning_rate(epoch, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        drop_path = draw_scales(student.drop_path_rates, batches.positions, recipe.seed, epoch).to(device)
        task.train()
        guided = guide is not None and config.from_epoch <= epoch < (config.until_epoch or math.inf)
        totals = torch.zeros(2, device=device)  # stays there until the epoch ends: the step never waits for the host
        began = time.perf_counter()
        for batch in batches.epoch(epoch):
            maps, logits = _imitated(guide, batch, recipe, accelerator) if guided else (None, None)
            loss, guidance_loss, _ = parallel(batch.images, batch.labels, drop_path[:, batch.positions], maps, logits)
            accelerator.backward(loss)
            if method is not None and not guided:
                for parameter in method.parameters():
                    parameter.grad = None  # at rest: without a gradient there is no weight decay either
            optimizer.step()
            optimizer.zero_grad()
            totals += torch.stack([loss.detach(), guidance_loss])
            progress.step()
        train_loss, guidance_mean = (accelerator.reduce(totals, "mean") / batches.steps).tolist()
        seconds = time.perf_counter() - began
        correct, count = accelerator.reduce(count_correct(student.network, test, device), "sum").tolist()
        if not math.isfinite(train_loss):
            raise Diverged(f"the training loss is {train_loss} in epoch {epoch + 1}")
        history.append(
            {
                "epoch": epoch + 1,
                "lr": rate,
                "train_loss": round(train_loss, 6),
                "guidance_loss": round(guidance_mean, 6) if guided else None,
                "test_accuracy": round(100 * correct / count, 4),
                "images_per_second": round(batches.positions / seconds, 1),
            }
        )
        progress.epoch(history[-1])
        if recipe.select == "best" and all(row["test_accuracy"] < history[-1]["test_accuracy"] for row in history[:-1]):
            kept = _on_cpu(student.network)
        after_epoch(history)
    progress.close()
    return Trained(
        history,
        kept or _on_cpu(student.network),
        _on_cpu(method) if method is not None else {},
        sum(p.numel() for p in student.network.parameters() if p.requires_grad),
        dict(zip(student.taps, student.shapes, strict=True)),
    )


def _imitated(
    guide: Guide | KeptFeatures, batch: Batch, recipe: Recipe, accelerator: Accelerator
) -> tuple[list[Tensor], Tensor | None]:
    """The guide's maps of this process's samples, and its logits where the recipe wants them. Where the guide's batch norm
    uses the batch's statistics, every process runs it on the views of the global batch, so that one GPU and eight mean the
    same statistics."""
    if isinstance(guide, KeptFeatures):
        return guide.maps(batch), None
    view = guide.view(batch.images)
    config, world = recipe.guidance, accelerator.num_processes
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


def _on_cpu(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}

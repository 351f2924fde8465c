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
from bench.data.store import Store
from bench.evaluate import count_correct
from bench.guide import Guide
from bench.models.drop_path import draw_scales
from bench.progress import Progress
from bench.recipes import Recipe
from bench.schedule import learning_rate
from bench.task import Task, make_optimizer


class Diverged(RuntimeError):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    history: a row an epoch, with the columns of history.csv.
    network, guidance: the weights to keep, on the CPU; guidance is empty where nothing was trained beside the network.
    parameters: trainable ones of the network.
    """

    history: list[dict[str, Any]]
    network: dict[str, Tensor]
    guidance: dict[str, Tensor]
    parameters: int


def train(
    recipe: Recipe,
    store: Store,
    accelerator: Accelerator,
    guide: Guide | None = None,
    after_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None,
) -> Trained:
    """Train the network of a recipe on the processes of `accelerator`.

    Args:
        guide: frozen, for recipes with guidance.
        after_epoch: called on every process with the history so far.

    Raises:
        Diverged: the loss of an epoch is not finite.
        RecipeError: the recipe does not fit the dataset or the number of processes.
    """
    settings, device = recipe.train, accelerator.device
    share = Share(accelerator.process_index, accelerator.num_processes)
    student = models.create(recipe.model, recipe.data.classes, recipe.seed, taps=guide is not None)
    method = None
    if guide is not None:
        method = guidance.create(recipe.guidance, student.shapes, guide.shapes, recipe.seed)
        guide.to(device)
    task = Task(student, method, recipe.guidance.weight if method is not None else 0.0)
    batches = train_batches(recipe, store, device, share)
    test = TestBatches(recipe, store, device, share)
    parallel, optimizer = accelerator.prepare(task, make_optimizer(task.to(device), settings))
    progress = Progress(settings.epochs, batches.steps, silent=not accelerator.is_main_process)

    history: list[dict[str, Any]] = []
    kept = {}
    for epoch in range(settings.epochs):
        rate = learning_rate(epoch, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        drop_path = draw_scales(student.drop_path_rates, batches.positions, recipe.seed, epoch).to(device)
        task.train()
        totals = torch.zeros(2, device=device)  # stays there until the epoch ends: the step never waits for the host
        began = time.perf_counter()
        for batch in batches.epoch(epoch):
            maps = None if guide is None else _guide_maps(guide, batch, recipe, accelerator)
            loss, guidance_loss, _ = parallel(batch.images, batch.labels, drop_path[:, batch.positions], maps)
            accelerator.backward(loss)
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
                "guidance_loss": None if guide is None else round(guidance_mean, 6),
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
    )


def _guide_maps(guide: Guide, batch: Batch, recipe: Recipe, accelerator: Accelerator) -> list[Tensor]:
    """The guide's maps of this process's samples. Where its batch norm uses the batch's statistics, every process runs it
    on the views of the global batch, so that one GPU and eight mean the same statistics."""
    view = guide.view(batch.images)
    config, world = recipe.guidance, accelerator.num_processes
    together = world > 1 and config.guide_norm == "batch" and config.guide_norm_scope == "global"
    if together:
        view = accelerator.gather(view)
    with accelerator.autocast():
        maps = guide(view)
    if together:
        own = len(batch.labels)
        first = accelerator.process_index * own
        maps = [m[first : first + own] for m in maps]
    return maps


def _on_cpu(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}

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

from bench import models
from bench.checkpoint import Checkpoints
from bench.data.batches import Share, TestBatches, train_batches
from bench.data.parts import Store
from bench.evaluate import accuracy, flops_per_image
from bench.guide import Guide
from bench.kept_features import KeptFeatures
from bench.models.drop_path import draw_scales
from bench.progress import Progress
from bench.schedule import learning_rate
from bench.schema import Recipe, RecipeError
from bench.step import Step


class Stopped(RuntimeError):
    """The run was asked to stop; its state is saved."""


AGREED_EVERY = 16  # steps after which several processes ask one another whether one of them was told to stop


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    history: a row an epoch, with the columns of history.csv.
    network, guidance: the weights to keep, on the CPU; guidance is empty where nothing was trained beside the network.
    predicted: [images] int64, the class that the kept weights give each image of the evaluated part, in its order.
    parameters: trainable ones of the network.
    flops_per_image: of its forward pass in evaluation.
    seconds: of training and evaluation, interruptions left out.
    maps: shape [channels, height, width] by tapped module, of guided students.
    diverged: the training loss of the last epoch, or a weight after it, was no finite number, and training ended there.
    compiled: torch.compile's mode, "off", or "fell back" where it was wanted and could not be had.
    """

    history: list[dict[str, Any]]
    network: dict[str, Tensor]
    guidance: dict[str, Tensor]
    predicted: Tensor
    parameters: int
    flops_per_image: int
    seconds: float
    maps: dict[str, tuple[int, int, int]]
    diverged: bool
    compiled: str


def train(
    recipe: Recipe,
    store: Store,
    accelerator: Accelerator,
    guide: Guide | KeptFeatures | None = None,
    after_epoch: Callable[[list[dict[str, Any]]], None] = lambda history: None,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train the network of a recipe on the processes of `accelerator`, from where its newest checkpoint stands.

    A run that was stopped or killed and goes on ends as one that was not: on a CPU, at the same number of threads, bit for
    bit.

    Args:
        guide: for recipes with guidance: the frozen guide, or its kept features where the recipe says `guidance.offline`.
        after_epoch: called on every process with the history so far, of a training that goes on also before it does.
        checkpoints: where the state is kept; None keeps none.
        stop: asked after every step whether to save and leave. One process that is told so takes the others with it.

    Raises:
        Stopped: `stop` said so, and the state is saved.
        RecipeError: the recipe does not fit the dataset or the number of processes.
    """
    settings, device = recipe.train, accelerator.device
    share = Share(accelerator.process_index, accelerator.num_processes)
    config = recipe.guidance
    student = models.create(recipe.model, store.classes(recipe.data), recipe.seed, taps=recipe.imitates_maps)
    train_step = Step(recipe, student, guide, accelerator)
    task, optimizer = train_step.task, train_step.optimizer
    batches = train_batches(recipe, store, device, share)
    test = TestBatches(recipe, store, device, share)
    evaluated_on = "held-out" if recipe.data.holdout else "test"
    progress = Progress(settings.epochs, batches.steps, not accelerator.is_main_process, evaluated_on)

    history: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}  # network and predictions of the best epoch, where the recipe selects it
    first_epoch, first_step, totals, earlier = 0, 0, torch.zeros(2), 0.0
    began = time.perf_counter()
    state = checkpoints.newest() if checkpoints is not None else None
    _check_same_start(state, accelerator)
    if state is not None:
        task.load_state_dict(state["task"])
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        history, kept, totals, earlier = state["history"], state["kept"], state["totals"], state["seconds"]
        first_epoch, first_step = state["epoch"], state["step"]
        progress.resume(first_epoch, first_step)
        if accelerator.is_main_process:
            print(f"goes on after epoch {first_epoch}, step {first_step} of {batches.steps}", flush=True)
        if history:
            after_epoch(history)

    def save(epoch: int, step: int, totals: Tensor) -> None:
        if checkpoints is not None and accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            state = {"task": task.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler, "kept": kept}
            seconds = earlier + time.perf_counter() - began
            checkpoints.save(epoch, step, {**state, "history": history, "totals": totals.cpu(), "seconds": seconds})

    def leave(epoch: int, step: int, totals: Tensor) -> None:
        save(epoch, step, accelerator.reduce(totals, "mean"))
        accelerator.wait_for_everyone()  # who leaves first makes the launcher end the others, the one that saves too
        raise Stopped(f"after epoch {epoch}, step {step}")

    for epoch in range(first_epoch, settings.epochs):
        rate = learning_rate(epoch, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        drop_path = draw_scales(student.drop_path_rates, batches.positions, recipe.seed, epoch).to(device)
        task.train()
        guided = guide is not None and config.from_epoch <= epoch < (config.until_epoch or math.inf)
        totals = totals.to(device)  # they stay there until the epoch ends: the step never waits for the host
        epoch_began = time.perf_counter()
        for step, batch in enumerate(batches.epoch(epoch, first_step), first_step + 1):
            totals += train_step(batch, drop_path[:, batch.positions], guided)
            progress.step()
            if step < batches.steps and _stop_agreed(stop, step, accelerator):
                leave(epoch, step, totals)
        train_loss, guidance_mean = (accelerator.reduce(totals, "mean") / batches.steps).tolist()
        seconds = time.perf_counter() - epoch_began
        test_accuracy, predicted = accuracy(student.network, test, accelerator)
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in task.parameters()]).all().item()
        diverged = not (finite and math.isfinite(train_loss))
        trained_on = (batches.steps - first_step) * settings.batch_size
        history.append(
            {
                "epoch": epoch + 1,
                "lr": rate,
                "train_loss": round(train_loss, 6) if math.isfinite(train_loss) else None,
                "guidance_loss": round(guidance_mean, 6) if guided and math.isfinite(guidance_mean) else None,
                "test_accuracy": round(test_accuracy, 4),
                "images_per_second": round(trained_on / seconds, 1),
            }
        )
        progress.epoch(history[-1])
        if recipe.select == "best" and all(row["test_accuracy"] < history[-1]["test_accuracy"] for row in history[:-1]):
            kept = {"network": _on_cpu(student.network), "predicted": predicted}
        after_epoch(history)
        if diverged:
            kept = {}  # the network as it is now, for whoever wants to know why
            break
        first_step, totals = 0, torch.zeros(2)
        if epoch + 1 < settings.epochs:
            if _stop_agreed(stop, 0, accelerator):
                leave(epoch + 1, 0, totals.to(device))
            if checkpoints is not None and checkpoints.due():
                save(epoch + 1, 0, totals)
    progress.close()
    if not kept:
        kept = {"network": _on_cpu(student.network), "predicted": predicted}
    return Trained(
        history,
        kept["network"],
        _on_cpu(task.guidance) if task.guidance is not None else {},
        kept["predicted"],
        sum(p.numel() for p in student.network.parameters() if p.requires_grad),
        flops_per_image(student.network, recipe.model.image_size, device),
        earlier + time.perf_counter() - began,
        dict(zip(student.taps, student.shapes, strict=True)),
        diverged,
        train_step.compiled,
    )


def _check_same_start(state: dict[str, Any] | None, accelerator: Accelerator) -> None:
    """Raise RecipeError where the processes would go on from different checkpoints."""
    start = [state["epoch"], state["step"]] if state is not None else [-1, -1]
    starts = accelerator.gather(torch.tensor([start], device=accelerator.device))
    if (starts != starts[0]).any():
        raise RecipeError(
            f"--results-dir: the processes found different checkpoints there (epoch, step: {starts.tolist()}): it must be"
            " one folder that all machines see"
        )


def _stop_agreed(stop: Callable[[], bool], step: int, accelerator: Accelerator) -> bool:
    """Whether to leave after this step; the same answer on every process."""
    if accelerator.num_processes == 1:
        return stop()
    if step % AGREED_EVERY:
        return False
    return accelerator.reduce(torch.tensor(float(stop()), device=accelerator.device), "sum").item() > 0


def _on_cpu(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}

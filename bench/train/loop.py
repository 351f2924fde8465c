"""The training loop: from a decoded dataset to trained weights and a history, for students and teachers alike."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from bench import guidance, models
from bench.config.schema import Recipe, RecipeError
from bench.data.loaders import EvalLoader, Shard, TrainLoader
from bench.data.subsets import DecodedDataset
from bench.guidance import Shape, schedule
from bench.models.drop_path import sample_drop_path_masks
from bench.runs.record import Compilation, GuidanceStop, HistoryRow, best_row
from bench.train.checkpoint import Checkpoints, TrainingState
from bench.train.console import Progress
from bench.train.evaluate import accuracy, flops_per_image
from bench.train.feature_cache import FeatureCache
from bench.train.request import Stopped
from bench.train.step import Step
from bench.train.task import learning_rate
from bench.train.teacher import Teacher

LOG = logging.getLogger(__name__)
STOP_CHECK_STEPS = 16  # with several processes: steps between two checks whether one of them was asked to stop


@dataclass(frozen=True)
class TrainResult:
    """The result of a training, with weights on the CPU. Fields without a comment are as in `Record`."""

    history: list[HistoryRow]
    network: dict[str, Tensor]  # weights of the epoch that the recipe selects
    guidance: dict[str, Tensor]  # weights of the guidance methods; empty if they have none
    predictions: Tensor  # [images] int64, the class that `network` predicts for each evaluated image, in order
    parameters: int
    flops_per_image: int
    seconds: float
    feature_maps: dict[str, Shape]
    diverged: bool  # whether the last loss or a weight was not finite; training ended there
    compiled: str  # of `Step`
    compilation: Compilation | None
    guidance_stop: GuidanceStop | None  # where an adaptive schedule ended guidance


class Training:
    """The training of a recipe's network on the processes of `accelerator`.

    A run that was stopped or killed continues from its newest checkpoint and ends as one that was not interrupted: on a CPU
    with the same number of threads, bit for bit.

    Args:
        teacher: the recipe's frozen teacher, or its stored features with `teacher.offline`; None without a teacher.
        after_epoch: called on every process with the history after each epoch, and once on resume.
        checkpoints: None saves none.
        stop: whether to save and stop. It is called after every step; with several processes after every STOP_CHECK_STEPS
            steps and after every epoch. If it returns true on one process, all stop.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: DecodedDataset,
        accelerator: Accelerator,
        teacher: Teacher | FeatureCache | None = None,
        after_epoch: Callable[[list[HistoryRow]], None] = lambda history: None,
        checkpoints: Checkpoints | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._recipe, self._accelerator, self._checkpoints = recipe, accelerator, checkpoints
        self._after_epoch, self._stop = after_epoch, stop
        device, shard = accelerator.device, Shard(accelerator.process_index, accelerator.num_processes)
        classes = dataset.classes(recipe.data)
        self._student = models.create_student(recipe, classes)
        self._step = Step(recipe, self._student, teacher, accelerator)
        self._loader = TrainLoader(recipe, dataset, device, shard)
        self._eval_loader = EvalLoader(recipe, dataset, device, shard)
        evaluated_on = "held-out" if recipe.data.holdout else "test"
        self._progress = Progress(recipe.train.epochs, self._loader.steps, not accelerator.is_main_process, evaluated_on)
        # the state that checkpoints hold
        self._history: list[HistoryRow] = []
        self._guidance_losses: list[float] = []  # unweighted, of the epochs with guidance
        self._best_state: dict[str, dict[str, Tensor] | Tensor] = {}  # of the best epoch, if the recipe selects it
        self._losses = torch.zeros(2)  # sums over the steps of the current epoch, at its start and its end
        self._first_epoch, self._first_step = 0, 0
        self._earlier_seconds, self._began = 0.0, time.perf_counter()

    def run(self) -> TrainResult:
        """Train to the end.

        Raises:
            Stopped: `stop` said so, and the state is saved.
            RecipeError: the recipe does not fit the dataset or the number of processes.
        """
        self._resume()
        diverged, predictions = False, torch.empty(0, dtype=torch.int64)
        for epoch in range(self._first_epoch, self._recipe.train.epochs):
            seconds = self._train_epoch(epoch)
            predictions, diverged = self._end_epoch(epoch, seconds)
            if diverged:
                self._best_state = {}  # the record keeps the weights that diverged
                break
            self._first_step, self._losses = 0, torch.zeros(2)
            if epoch + 1 < self._recipe.train.epochs:
                if self._stop_agreed(0):
                    self._save_and_stop(epoch + 1, 0)
                if self._checkpoints is not None and self._checkpoints.due():
                    self._save(epoch + 1, 0)
        self._progress.close()
        task, student = self._step.task, self._student
        network = student.network if diverged else self._network  # those that diverged, not their average
        best = self._best_state or {"network": _on_cpu(network), "predictions": predictions}
        return TrainResult(
            history=self._history,
            network=best["network"],
            guidance=_on_cpu(task.guidance) if task.guidance is not None else {},
            predictions=best["predictions"],
            parameters=sum(p.numel() for p in student.network.parameters() if p.requires_grad),
            flops_per_image=flops_per_image(student.network, self._recipe.model.image_size, self._accelerator.device),
            seconds=self._seconds(),
            feature_maps=dict(zip(student.feature_layers, student.shapes, strict=True)),
            diverged=diverged,
            compiled=self._step.compiled,
            compilation=self._step.compilation(),
            guidance_stop=self._guidance_stop(),
        )

    def _train_epoch(self, epoch: int) -> float:
        """Train the steps of an epoch that are left. Returns the seconds they took."""
        loader, device = self._loader, self._accelerator.device
        self._set_learning_rate(epoch)
        masks = sample_drop_path_masks(self._student.drop_path_rates, loader.positions, self._recipe.seed, epoch)
        drop_path = masks.to(device)
        draws = self._draws(epoch)
        self._step.task.train()
        self._step.losses.copy_(self._losses)  # they stay on the device until the epoch ends, so no step waits for it
        began = time.perf_counter()
        for step, batch in enumerate(loader.epoch(epoch, self._first_step), self._first_step + 1):
            if self._recipe.train.lr_per == "step":
                self._set_learning_rate(epoch + (step - 1) / loader.steps)
            self._step(batch, drop_path[:, batch.positions], draws)
            self._progress.step()
            if step < loader.steps and self._stop_agreed(step):
                self._save_and_stop(epoch, step)
        # reading the losses waits for the device
        self._losses = self._accelerator.reduce(self._step.losses, "mean").cpu()
        return time.perf_counter() - began

    def _set_learning_rate(self, epoch: float) -> None:
        self._step.set_learning_rate(learning_rate(epoch, self._recipe.train))

    @property
    def _network(self) -> torch.nn.Module:
        """The network that is evaluated and kept: with `train.ema` the average of the student's."""
        return self._student.network if self._step.ema is None else self._step.ema.module

    def _end_epoch(self, epoch: int, seconds: float) -> tuple[Tensor, bool]:
        """Evaluate and extend the history. Returns the predictions, and whether the run has diverged."""
        recipe, loader = self._recipe, self._loader
        train_loss, guidance_loss = (self._losses / loader.steps).tolist()
        weights = [parameter.detach().isfinite().all() for parameter in self._step.task.parameters()]
        diverged = not (torch.stack(weights).all().item() and math.isfinite(train_loss))
        is_last = diverged or epoch + 1 == recipe.train.epochs
        test_accuracy, raw_accuracy, predictions = None, None, torch.empty(0, dtype=torch.int64)
        if is_last or (epoch + 1) % recipe.train.evaluate_every == 0:
            test_accuracy, predictions = accuracy(self._network, self._eval_loader, self._accelerator)
            if self._step.ema is not None:
                raw_accuracy, _ = accuracy(self._student.network, self._eval_loader, self._accelerator)
        guided = self._is_guided(epoch)
        if guided:
            self._guidance_losses.append(guidance_loss)
        images = (loader.steps - self._first_step) * recipe.train.batch_size
        row = HistoryRow(
            epoch=epoch + 1,
            lr=learning_rate(epoch, recipe.train),
            train_loss=round(train_loss, 6) if math.isfinite(train_loss) else None,
            guidance_loss=round(guidance_loss, 6) if guided and math.isfinite(guidance_loss) else None,
            test_accuracy=test_accuracy,
            images_per_second=round(images / seconds, 1),
        )
        if self._step.ema is not None:
            row["raw_accuracy"] = raw_accuracy
        self._history.append(row)
        if recipe.select == "best" and test_accuracy is not None and best_row(self._history) is row:
            self._best_state = {"network": _on_cpu(self._network), "predictions": predictions}
        self._progress.epoch(row)
        self._progress.compilation(self._step.compilation())
        if guided and (stop := self._guidance_stop()) is not None:
            self._progress.guidance_ended(stop)
        self._after_epoch(self._history)
        return predictions, diverged

    def _is_guided(self, epoch: int) -> bool:
        """Whether guidance is active in an epoch. All earlier epochs have to be over."""
        if self._recipe.guidance is None or self._guidance_stop() is not None:
            return False
        planned = self._recipe.guidance.schedule
        return planned.from_epoch <= epoch < (planned.until_epoch or math.inf)

    def _draws(self, epoch: int) -> dict[str, Tensor] | None:
        """Prepare the guidance methods for an epoch. Returns their random draws on the device; None without guidance."""
        if not self._is_guided(epoch):
            return None
        methods, train = self._step.task.guidance, self._recipe.train
        draws = guidance.begin_epoch(methods, self._recipe.seed, epoch, train.epochs, self._loader.positions)
        return {name: drawn.to(self._accelerator.device) for name, drawn in draws.items()}

    def _guidance_stop(self) -> GuidanceStop | None:
        """Where an adaptive schedule has ended guidance."""
        if self._recipe.guidance is None:
            return None
        planned, losses = self._recipe.guidance.schedule, self._guidance_losses
        if (found := schedule.stop(planned, self._recipe.train.epochs, losses)) is None:
            return None
        count, *slopes = found
        return GuidanceStop(planned.from_epoch + count, *slopes)

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one. Raises RecipeError if the processes find different ones."""
        state = self._checkpoints.newest() if self._checkpoints is not None else None
        start = (state["epoch"], state["step"]) if state is not None else (-1, -1)
        starts = self._accelerator.gather(torch.tensor([start], device=self._accelerator.device)).tolist()
        if any(other != starts[0] for other in starts):
            raise RecipeError(
                f"--results-dir: the processes found different checkpoints there (epoch, step: {starts}): it must"
                " be one folder that all machines see"
            )
        if state is None:
            return
        self._step.task.load_state_dict(state["task"])
        self._step.optimizer.load_state_dict(state["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        if self._step.ema is not None:
            self._step.ema.module.load_state_dict(state["ema"])
        self._step.updates = state["epoch"] * self._loader.steps + state["step"]
        self._history, self._best_state, self._losses = state["history"], state["best_state"], state["losses"]
        self._guidance_losses = state.get("guidance_losses", [])  # runs that earlier versions began have none
        self._first_epoch, self._first_step, self._earlier_seconds = state["epoch"], state["step"], state["seconds"]
        self._progress.resume(self._first_epoch, self._first_step)
        if self._accelerator.is_main_process:
            LOG.info(f"resumes after epoch {self._first_epoch}, step {self._first_step} of {self._loader.steps}")
        if self._history:
            self._after_epoch(self._history)

    def _save(self, epoch: int, step: int) -> None:
        if self._checkpoints is None or not self._accelerator.is_main_process:
            return
        scaler, ema = self._accelerator.scaler, self._step.ema
        state = TrainingState(
            epoch=epoch,
            step=step,
            task=self._step.task.state_dict(),
            optimizer=self._step.optimizer.state_dict(),
            scaler=scaler.state_dict() if scaler is not None else None,
            ema=ema.module.state_dict() if ema is not None else None,
            best_state=self._best_state,
            history=self._history,
            guidance_losses=self._guidance_losses,
            losses=self._losses.cpu(),
            seconds=self._seconds(),
        )
        self._checkpoints.save(state)

    def _save_and_stop(self, epoch: int, step: int) -> None:
        if step:
            self._losses = self._accelerator.reduce(self._step.losses, "mean")
        self._save(epoch, step)
        # when one process leaves, launchers end the others, which may be the one that is saving
        self._accelerator.wait_for_everyone()
        raise Stopped(f"after epoch {epoch}, step {step}")

    def _seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._began

    def _stop_agreed(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on every process."""
        if self._accelerator.num_processes == 1:
            return self._stop()
        if step % STOP_CHECK_STEPS:
            return False
        asked = torch.tensor(float(self._stop()), device=self._accelerator.device)
        return self._accelerator.reduce(asked, "sum").item() > 0


def _on_cpu(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}

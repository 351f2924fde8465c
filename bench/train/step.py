"""One training step: the teacher's outputs, the student's forward and backward, the optimiser's update.

Nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor

from bench import guidance
from bench.config.schema import Recipe, RecipeError
from bench.data.loaders import Batch
from bench.guidance import Outputs, Signals
from bench.models.features import FeatureExtractor
from bench.runs.record import Compilation
from bench.storage import first_line
from bench.train.compilation import compilation, fall_back_quietly
from bench.train.feature_cache import FeatureCache
from bench.train.graph import Inputs, StepGraph, on_stream, read_rate_from_memory
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
        mode: "off", "default" or "graphs", as `compile_mode` chose.
        capture_refused: why a step could not be captured in a CUDA graph; None if none was refused.
        ema: the average of the student's network over the steps (`train.ema`), or None.
        updates: number of steps so far; a resumed run sets it.
        losses: [2] on the device, the sums over the steps of the loss and of the unweighted guidance terms. `Training` sets
            them when an epoch starts.
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
            student.synchronise_batch_norms()
            if methods is not None:
                task.guidance = convert_sync_batchnorm(methods)
            for parameter in task.parameters():
                parameter.register_hook(as_stored)
        self.mode = compile_mode(recipe, device, world)
        if self.mode == "graphs" and accelerator.scaler is not None:
            self.mode = "default"  # whether an update is skipped depends on values
        if isinstance(teacher, Teacher):
            teacher.to(device)
        self._auto = recipe.train.compile == "auto"
        if self.mode != "off":
            # a missing compiler stops a run only if compilation was asked for
            fall_back_quietly(self._auto)
            if isinstance(teacher, Teacher):
                teacher.compile()
            if self.mode == "graphs":  # in two parts, so that the teacher can run beside the first
                task.student.compile()
                task.loss = torch.compile(task.loss)
            else:
                task.compile()  # before data parallelism wraps it; torch splits it into buckets there
        self.task = task
        self._kinds: set[bool] = set()  # of steps so far: guided or not
        self._parallel, self.optimizer = accelerator.prepare(task, make_optimizer(task.to(device), recipe.train))
        own = recipe.train.batch_size // world
        micro = recipe.train.micro_batch or own
        self._micro_batches = [slice(first, first + micro) for first in range(0, own, micro)]
        self.losses = torch.zeros(2, device=device)
        self.capture_refused: str | None = None
        self._graphs: dict[bool, StepGraph] = {}  # by whether guidance is active
        if self.mode == "graphs":
            read_rate_from_memory(self.optimizer.optimizer, device)
            pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
            self._graphs = {guided: StepGraph(self.train, pool, stream) for guided in (False, True)}
            self._teacher_stream = torch.cuda.Stream(device)

    def __call__(self, batch: Batch, drop_path: Tensor, draws: Mapping[str, Tensor] | None) -> None:
        """Train on one batch.

        Args:
            drop_path: [calls, batch] scales of these samples.
            draws: the random draws of the epoch by method, [positions, ...]; None if guidance is not active in this epoch.

        Raises:
            RecipeError: `train.compile` asks for graphs, and the step cannot be captured.
        """
        inputs = self.inputs(batch, drop_path, draws)
        if self.mode == "graphs":
            self._train_in_graph(inputs)
        else:
            self.train(inputs)
        self.updates += 1
        if self.ema is not None:
            self.ema.update(self.task.student.network, self.updates)

    def train(self, inputs: Inputs) -> None:
        """The work of a step on the device, which a CUDA graph can hold."""
        signals = None
        if inputs.draws is not None:
            in_graph = self.mode == "graphs"
            signals = on_stream(lambda: self.signals(inputs), self._teacher_stream) if in_graph else self.signals(inputs)
        self.losses += self.backward(inputs, signals)
        if self.task.guidance is not None and inputs.draws is None:
            for parameter in self.task.guidance.parameters():
                parameter.grad = None  # inactive: without a gradient there is no weight decay either
        self.update()

    def _train_in_graph(self, inputs: Inputs) -> None:
        graph = self._graphs[inputs.draws is not None]
        if graph.capture_is_next():
            try:
                graph.capture()
            except RuntimeError as error:
                self.optimizer.zero_grad()
                # after a refused operation, ending the capture fails too, with a less clear error
                first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
                self.capture_refused = first_line(first)
                if not self._auto:
                    raise RecipeError(
                        f"train.compile: a step cannot be captured in a CUDA graph ({self.capture_refused}): set it to auto"
                        " or default, which train without"
                    ) from error
        graph(inputs)

    @property
    def compiled(self) -> str:
        """The mode; "fell back" if nothing was compiled or a CUDA graph was refused so far."""
        if self.mode == "off":
            return "off"
        if not torch._dynamo.utils.counters["stats"]["unique_graphs"] or self.capture_refused is not None:
            return "fell back"
        return self.mode

    def compilation(self) -> Compilation | None:
        """What has been compiled and captured so far, see `bench.train.compilation`."""
        # with graphs, the student is one for all kinds of steps, and its loss is another for each
        of_student = len(self._kinds) + (self.mode == "graphs")
        of_teacher = isinstance(self._teacher, Teacher) and True in self._kinds
        expected = 0 if self.mode == "off" else of_student + of_teacher
        refused = [self.capture_refused] if self.capture_refused is not None else []
        return compilation(self._accelerator, expected, self.captured, refused)

    @property
    def captured(self) -> int:
        """Number of CUDA graphs: at most two, of epochs with and without guidance."""
        return sum(graph.captured for graph in self._graphs.values())

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def inputs(self, batch: Batch, drop_path: Tensor, draws: Mapping[str, Tensor] | None) -> Inputs:
        """What a step on a batch reads. drop_path, draws: as in `__call__`."""
        own = None if draws is None else {name: drawn[batch.positions] for name, drawn in draws.items()}
        offline = draws is not None and isinstance(self._teacher, FeatureCache)
        stored = self._teacher.stored(batch) if offline else None
        return Inputs(batch.images, batch.labels, drop_path.contiguous(), batch.mixed, own, stored)

    def signals(self, inputs: Inputs) -> Signals:
        """What guides the student in a batch."""
        return Signals(None if self._teacher is None else self.teacher_outputs(inputs), inputs.draws)

    def teacher_outputs(self, inputs: Inputs) -> Outputs:
        """The teacher's outputs for this process's samples.

        If the teacher's batch norm uses the statistics of the global batch, every process runs the teacher on the images of
        all processes, so that the statistics are the same on any number of GPUs.
        """
        teacher, accelerator, world = self._teacher, self._accelerator, self._accelerator.num_processes
        if isinstance(teacher, FeatureCache):
            return Outputs(None, inputs.stored.maps())
        images, config = teacher.resize_input(inputs.images), self._guidance.teacher
        is_global = world > 1 and config.bn == "batch" and config.bn_scope == "global"
        if is_global:
            images = accelerator.gather(images)
        with accelerator.autocast():
            outputs = teacher(images)
        if is_global:
            own = len(inputs.labels)
            outputs = outputs.rows(slice(accelerator.process_index * own, (accelerator.process_index + 1) * own))
        return outputs if "logits" in self._guidance.needs else Outputs(None, outputs.maps)

    def forward(
        self, inputs: Inputs, signals: Signals | Callable[[], Signals] | None, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """The loss of some rows of a batch, with its graph, and the sum of the unweighted guidance terms."""
        self._kinds.add(signals is not None)
        if isinstance(signals, Signals):
            signals = signals.rows(rows)
        mixed = None if inputs.mixed is None else inputs.mixed.rows(rows)
        return self._parallel(inputs.images[rows], inputs.labels[rows], inputs.drop_path[:, rows], signals, mixed)

    def backward(self, inputs: Inputs, signals: Signals | Callable[[], Signals] | None) -> Tensor:
        """Forward and backward of a batch, in micro-batches if the recipe has them. Gradients add up to the batch's.

        signals: or a function that returns them, without micro-batches: it is called after the student's forward pass.

        Returns:
            [2] on the device: the loss, and the sum of the unweighted guidance terms.
        """
        parts, losses = len(self._micro_batches), torch.zeros(2, device=self._accelerator.device)
        for part, rows in enumerate(self._micro_batches, 1):
            wait = part < parts  # processes exchange gradients once, after the last part
            with self._accelerator.no_sync(self._parallel) if wait else contextlib.nullcontext():
                loss, guidance_loss = self.forward(inputs, signals, rows)
                self._accelerator.backward(loss / parts)
            losses += torch.stack([loss.detach(), guidance_loss]) / parts
        return losses

    def update(self) -> None:
        """The optimiser's update."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def as_stored(gradient: Tensor) -> Tensor:
    """A contiguous gradient with standard strides on axes of length 1 too, without a copy; any other gradient unchanged.

    cuDNN gives gradients of 1x1 convolutions other strides on such axes; data parallelism would copy each one and warn.
    """
    return gradient.reshape(-1).view(gradient.shape) if gradient.is_contiguous() else gradient


def compile_mode(recipe: Recipe, device: torch.device, world: int) -> str:
    """How a recipe's `train.compile` is done here: "off", "default" or "graphs".

    `auto` compiles on a GPU only: on a CPU it takes a minute or two, and small networks gain nothing. Small networks on a
    large GPU are limited by kernel launches, which CUDA graphs avoid. Graphs are for one process without micro-batches.
    """
    mode = recipe.train.compile
    if mode == "auto":
        mode = "graphs" if device.type == "cuda" else "off"
    if mode == "graphs" and (device.type != "cuda" or world > 1 or recipe.train.micro_batch is not None):
        mode = "default"
    return mode

"""One variant of `python -m bench speed`: what is timed and counted of a recipe. speed_process.py has its process."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor

from bench import guidance, models
from bench.config.schema import Recipe
from bench.data.device_loader import MAX_STEPS_AHEAD
from bench.data.loaders import Batch, TrainLoader
from bench.data.subsets import DecodedDataset, Images
from bench.guidance import Signals
from bench.models.drop_path import sample_drop_path_masks
from bench.runs import environment
from bench.runs.record import Code, Compilation, Hardware
from bench.train.evaluate import counting_flops
from bench.train.feature_cache import open_teacher
from bench.train.graph import Inputs
from bench.train.launch import bf16_note, hardware, make_accelerator, peak_memory_mib
from bench.train.step import Step

UNTIMED_REPEATS = 3  # of a part, before it is timed
MATRIX_SECONDS = 5
MATRIX_REPEATS = 10
MAX_NOISE_IMAGES, MAX_NOISE_BYTES = 4096, 2**27  # more would change no step


@dataclass(frozen=True)
class Usage:
    """What a variant has used so far."""

    peak_memory_mib: float
    precision: str
    compile: str  # of `Step.compiled`
    guidance_parameters: int  # that the guidance methods train beside the student
    compilation: Compilation | None


@dataclass(frozen=True)
class Environment:
    """Where it is measured."""

    dataset: str  # its fingerprint
    hardware: Hardware
    libraries: dict[str, str]
    code: Code


@dataclass(frozen=True)
class Details:
    """What is measured once."""

    parts_ms: dict[str, float]  # of a step, each by itself
    flops_per_image: dict[str, float]  # by part
    matrix_flops: float  # FLOP/s of a matrix product
    first_step: dict[str, float]  # seconds from the start of the process to its first batch; import_seconds among them
    bf16_note: str | None  # where bf16 may be faster


def random_dataset(recipe: Recipe, side: int) -> DecodedDataset:
    """Images of noise of `side` x `side` px instead of a dataset: as many as it has, up to what a measurement needs."""
    rng = np.random.default_rng(0)
    batches = (part.train.batch_size for part in (recipe, recipe.teacher) if part is not None)
    needed = max(2 * max(batches), recipe.data.train_limit or 0)
    most = max(needed, min(MAX_NOISE_IMAGES, MAX_NOISE_BYTES // (3 * side**2)))

    def split(count: int) -> Images:
        count = min(count, most)
        pixels = rng.integers(0, 256, count * side * side * 3, dtype=np.uint8)
        labels = np.arange(count, dtype=np.int64) % (recipe.data.subset or recipe.data.classes or 100)
        return Images(pixels, np.full((count, 2), side, np.int32), labels, labels.astype(str))

    return DecodedDataset(
        split(recipe.data.train_images or 50_000),
        split(recipe.data.test_images or 10_000),
        None,
        f"noise of {side} px",
    )


class Variant:
    """A recipe that is ready to be timed. Its teacher has initial weights, which take as long as trained ones."""

    def __init__(self, recipe: Recipe, dataset: DecodedDataset) -> None:
        self.first_step: dict[str, float] = {}  # see `Details`
        self._dataset = dataset.fingerprint
        self._accelerator, self._precision = make_accelerator(recipe.train)
        self.device = device = self._accelerator.device
        classes = dataset.classes(recipe.data)
        student = models.create_student(recipe, classes)
        teacher = open_teacher(recipe, None, "untrained", dataset, device)
        self.step = Step(recipe, student, teacher, self._accelerator)
        self.step.task.train()
        self._has_teacher = teacher is not None
        self._micro = recipe.train.micro_batch or recipe.train.batch_size
        loader = TrainLoader(recipe, dataset, device)
        masks = sample_drop_path_masks(student.drop_path_rates, loader.positions, recipe.seed, 0)
        self._drop_path = masks.to(device)
        self._draws: dict[str, Tensor] | None = None
        if recipe.guidance is not None:
            methods, epochs = self.step.task.guidance, recipe.train.epochs
            # of the last epoch, since some methods begin with a weight of zero
            draws = guidance.begin_epoch(methods, recipe.seed, epochs - 1, epochs, loader.positions)
            self._draws = {name: drawn.to(device) for name, drawn in draws.items()}
        self._batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))

    def train(self, count: int, guided: bool = True) -> None:
        """Train that many steps, as a run does. guided: false for steps of an epoch without guidance."""
        for batch in itertools.islice(self._batches, count):
            self.step(batch, self._drop_path[:, batch.positions], self._draws if guided else None)

    def train_unguided(self, count: int) -> None:
        """Train that many steps as in an epoch without guidance."""
        self.train(count, guided=False)

    def load(self, count: int) -> Batch:
        """Make that many batches. Returns the last."""
        return collections.deque(itertools.islice(self._batches, count), maxlen=1)[0]

    def seconds(self, call: Callable[[], object], of_cpu: bool = False) -> float:
        """The time of a call, including the device's work. of_cpu: on a CPU, the time that this process computes, in which
        other load of the machine does not count."""
        clock = time.process_time if of_cpu and self.device.type == "cpu" else time.perf_counter
        self._wait()
        began = clock()
        call()
        self._wait()
        return clock() - began

    def timed(self, function: Callable[[Variant, int], object], count: int, of_cpu: bool = False) -> float:
        """Seconds per step or batch of a method that gets their number. of_cpu: see `seconds`."""
        return self.seconds(lambda: function(self, count), of_cpu) / count

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _prepared(self) -> tuple[Inputs, Signals | None]:
        """What a step reads, and what guides the student there."""
        batch, step = self.load(1), self.step
        inputs = step.inputs(batch, self._drop_path[:, batch.positions], self._draws)
        return inputs, None if self._draws is None else step.signals(inputs)

    def parts(self, count: int) -> dict[str, float]:
        """Seconds of each part of a step by itself, the median of `count` repeats.

        Parts may overlap on a GPU, and run without a CUDA graph, so they can add up to more than a step. With
        micro-batches, the forward of the first is timed and multiplied.
        """
        step, (inputs, signals) = self.step, self._prepared()

        def forward() -> Tensor:
            return step.forward(inputs, signals, slice(0, self._micro))[0]

        def backward() -> None:
            step.backward(inputs, signals)

        def timed(call: Callable[[], object], before: Callable[[], object] = step.optimizer.zero_grad) -> float:
            times = []
            for _ in range(UNTIMED_REPEATS + count):
                before()
                times.append(self.seconds(call))
            return median(times[UNTIMED_REPEATS:])

        at_once = MAX_STEPS_AHEAD if self.device.type == "cuda" else 1  # a GPU makes the batches of several steps at once
        out = {"input": timed(lambda: self.load(at_once)) / at_once}
        if self._has_teacher:
            out["teacher"] = timed(lambda: step.teacher_outputs(inputs))
        out["forward"] = timed(forward) * (len(inputs.labels) // self._micro)
        out["backward"] = max(0.0, timed(backward) - out["forward"])
        out["optimiser"] = timed(step.update, backward)  # without gradients it would do nothing
        return out

    def flops(self) -> dict[str, float]:
        """FLOPs per image: of the student's forward, of its forward and backward, of the teacher."""
        rows, (inputs, signals) = slice(0, self._micro), self._prepared()
        out = {}
        with counting_flops() as counter:
            loss, _ = self.step.forward(inputs, signals, rows)
            out["forward"] = counter.get_total_flops() / self._micro
            self._accelerator.backward(loss)
        out["forward and backward"] = counter.get_total_flops() / self._micro
        if self._has_teacher:
            with counting_flops() as counter:
                self.step.teacher_outputs(inputs)
            out["teacher"] = counter.get_total_flops() / len(inputs.labels)
        self.step.optimizer.zero_grad()
        return out

    def matrix_flops(self) -> float:
        """FLOP/s of a large square matrix product on this device: the best of several, an upper limit for networks."""
        precision = self._precision.used
        # 2048 in 16 bits takes a minute on a processor without instructions for them
        size = 8192 if self.device.type == "cuda" else 2048 if precision == "fp32" else 512
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        one, other = (torch.randn(size, size, device=self.device, dtype=kind) for _ in range(2))
        times: list[float] = []
        while len(times) < MATRIX_REPEATS and sum(times) <= MATRIX_SECONDS:
            times.append(self.seconds(lambda: one @ other))
        return 2 * size**3 / min(times)

    def usage(self) -> Usage:
        """Memory, precision and the result of compilation so far."""
        trained = [] if self.step.task.guidance is None else self.step.task.guidance.parameters()
        count = sum(parameter.numel() for parameter in trained)
        used, done = self._precision.used, self.step.compilation()
        return Usage(peak_memory_mib(self.device), used, self.step.compiled, count, done)

    def environment(self) -> Environment:
        """Dataset, hardware, libraries and code."""
        return Environment(self._dataset, hardware(self.device), environment.libraries(), environment.code())

    def details(self, count: int) -> Details:
        """The parts of a step, each the median of `count` repeats, and everything else that is measured once."""
        return Details(
            parts_ms={part: 1e3 * seconds for part, seconds in self.parts(count).items()},
            flops_per_image=self.flops(),
            matrix_flops=self.matrix_flops(),
            first_step=self.first_step,
            bf16_note=bf16_note(self._precision.used, self.device.type),
        )

"""One arm of `python -m bench speed`, in the process that bench/train/speed.py starts for it: built, timed, taken apart."""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import models
from bench.config.schema import Recipe, RecipeError
from bench.data.eval_loader import EvalLoader
from bench.data.loaders import make_train_loader
from bench.data.store import open_dataset
from bench.data.subsets import DecodedDataset, Images
from bench.data.train_loader import Batch, Shard
from bench.models.drop_path import sample_drop_path_masks
from bench.run import OUT_OF_MEMORY, check_batches, check_feasible, out_of_memory
from bench.runs import environment
from bench.storage import unwritable
from bench.train.evaluate import predict
from bench.train.feature_cache import feature_cache
from bench.train.launch import make_accelerator
from bench.train.step import Step
from bench.train.teacher import Teacher

EVALUATED = {"cuda": 10_000}  # test images, at most; 200 elsewhere
UNTIMED = 3  # repeats of a part before it is timed: a CUDA graph runs, is recorded, and only then replayed
PR_SET_PDEATHSIG = 1  # prctl's, of linux/prctl.h


def random_store(recipe: Recipe, side: int) -> DecodedDataset:
    """Images of noise in the place of a dataset that is not here: as many, of `side` x `side` px."""
    numbers = np.random.default_rng(0)

    def split(count: int) -> Images:
        pixels = numbers.integers(0, 256, count * side * side * 3, dtype=np.uint8)
        labels = np.arange(count, dtype=np.int64) % (recipe.data.classes or 100)
        return Images(pixels, np.full((count, 2), side, np.int32), labels, labels.astype(str))

    return DecodedDataset(
        recipe.data.name,
        split(recipe.data.train_images or 50_000),
        split(recipe.data.test_images or 10_000),
        None,
        f"noise of {side} px",
    )


class Arm:
    """One way to train, ready to be timed.

    Attributes:
        precision: what was asked for and what is used.
    """

    def __init__(self, recipe: Recipe, store: DecodedDataset) -> None:
        self.recipe = recipe
        self.accelerator, self.precision = make_accelerator(recipe.train)
        self.device = device = self.accelerator.device
        classes = store.classes(recipe.data)
        student = models.create(recipe.model, classes, recipe.seed, feature_layers=recipe.uses_feature_loss)
        teacher = Teacher(recipe.teacher, classes, None, recipe.guidance) if recipe.teacher is not None else None
        if teacher is not None and recipe.guidance.offline:
            teacher = feature_cache(teacher, "untrained", recipe, store, device)
        self.step = Step(recipe, student, teacher, self.accelerator)
        self.step.task.train()
        self.network = student.network
        self._guided = teacher is not None
        self._micro = recipe.train.micro_batch or recipe.train.batch_size
        self._batches = make_train_loader(recipe, store, device)
        every = max(1, len(store.evaluation(recipe.data)) // EVALUATED.get(device.type, 200))
        self._test = EvalLoader(recipe, store, device, Shard(0, every))
        self._drop_path = sample_drop_path_masks(student.drop_path_rates, self._batches.positions, recipe.seed, 0).to(
            device
        )
        self._endless = itertools.chain.from_iterable(map(self._batches.epoch, itertools.count()))

    def steps(self, count: int) -> None:
        """Train that many steps, as a run does."""
        for batch in itertools.islice(self._endless, count):
            self.step(batch, self._drop_path[:, batch.positions], self._guided)

    def input(self, count: int) -> Batch:
        """Make that many batches; returns the last."""
        return collections.deque(itertools.islice(self._endless, count), maxlen=1)[0]

    def evaluated(self) -> int:
        """Evaluate; returns how many images."""
        return len(predict(self.network, self._test, self.device)[0])

    def seconds(self, call: Callable[[], object]) -> float:
        """How long a call takes, the device's work included."""
        self._wait()
        began = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _begin(self) -> None:
        """As a step begins: without gradients, and with the last step's CUDA graphs free to be run again."""
        self.step.optimizer.zero_grad()
        if self.step.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()

    def _imitated(self, batch: Batch) -> tuple[list[Tensor] | None, Tensor | None]:
        """The teacher's maps and logits, for as long as one likes: those of a CUDA graph are overwritten by its next run."""
        if not self._guided:
            return None, None
        self._begin()
        maps, logits = self.step.imitated(batch)
        return [m.clone() for m in maps], None if logits is None else logits.clone()

    def parts(self, count: int) -> dict[str, float]:
        """Seconds a step of each part by itself, the median of `count` repeats. On a GPU parts may overlap, so they can add
        up to more than a step. Of a batch in micro-batches, the forward is timed on the first and multiplied."""
        step, batch = self.step, self.input(1)
        scales, (maps, logits) = self._drop_path[:, batch.positions], self._imitated(batch)

        def forward() -> Tensor:
            return step.forward(batch, scales, maps, logits, slice(0, self._micro))[0]

        def both() -> None:
            step.backward(batch, scales, maps, logits)

        def begin_and_both() -> None:
            self._begin()
            both()

        def each(call: Callable[[], object], before: Callable[[], object] = self._begin) -> float:
            taken = []
            for _ in range(UNTIMED + count):
                before()
                taken.append(self.seconds(call))
            return median(taken[UNTIMED:])

        out = {"input": each(lambda: self.input(1))}
        if self._guided:
            out["teacher"] = each(lambda: step.imitated(batch))
        out["forward"] = each(forward) * (len(batch.labels) // self._micro)
        out["backward"] = max(0.0, each(both) - out["forward"])
        out["optimiser"] = each(step.update, begin_and_both)  # without gradients it would do nothing
        return out

    def flops(self) -> dict[str, float]:
        """FLOPs an image (two a multiplication): of the student's forward, of its forward and backward, of the teacher."""
        batch, rows = self.input(1), slice(0, self._micro)
        scales, (maps, logits) = self._drop_path[:, batch.positions], self._imitated(batch)
        out = {}
        self._begin()
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            with FlopCounterMode(display=False) as counter:
                loss, _ = self.step.forward(batch, scales, maps, logits, rows)
                out["forward"] = counter.get_total_flops() / self._micro
                self.accelerator.backward(loss)
            out["forward and backward"] = counter.get_total_flops() / self._micro
            if self._guided:
                with FlopCounterMode(display=False) as counter:
                    self.step.imitated(batch)
                out["teacher"] = counter.get_total_flops() / len(batch.labels)
        self.step.optimizer.zero_grad()
        return out


def matrix_rate(device: torch.device, precision: str, size: int | None = None) -> float:
    """FLOP/s of a large square matrix product on this device, the best of up to ten in five seconds: what a network can
    hope for."""
    # A processor without instructions for 16 bits takes a minute for 2048.
    size = size or (8192 if device.type == "cuda" else 2048 if precision == "fp32" else 512)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    one, other = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best, started = float("inf"), time.perf_counter()
    for _ in range(10):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() - started > 5:
            break
    return 2 * size**3 / best


class Service:
    """What bench/train/speed.py may ask of an arm's process, `prepare` first.

    Args:
        imports: seconds that the libraries' imports took.
    """

    def __init__(self, imports: float) -> None:
        self._imports = imports

    def prepare(self, recipe: Recipe, data_dir: str, synthetic: int | None, scratch: str | None) -> dict[str, Any]:
        """Build the arm and make its first batch.

        Args:
            data_dir: local datasets.
            synthetic: px, the side of images of noise instead of the dataset, or None.
            scratch: the cache of what is made from here on, as an untrained teacher's features, or None for the user's.

        Returns:
            `seconds` since the process began, `imports` in seconds, `precision` and the `dataset`'s fingerprint.

        Raises:
            RecipeError: the recipe cannot be run here.
        """
        check_feasible(recipe, None)
        self._store = open_dataset(recipe.data, data_dir) if synthetic is None else random_store(recipe, synthetic)
        check_batches(recipe, self._store)
        if scratch is not None:
            os.environ["LOCALITY_BENCH_CACHE"] = scratch
        self._arm = Arm(recipe, self._store)
        self._arm.input(1)
        return {
            "seconds": time.time() - psutil.Process().create_time(),
            "imports": self._imports,
            "precision": self._arm.precision.used,
            "dataset": self._store.fingerprint,
        }

    def steps(self, count: int) -> float:
        """Seconds of that many steps."""
        return self._arm.seconds(lambda: self._arm.steps(count))

    def input(self, count: int) -> float:
        """Seconds of making that many batches."""
        return self._arm.seconds(lambda: self._arm.input(count))

    def so_far(self) -> dict[str, Any]:
        """`peak_memory_mib` up to now, and what became of `compile`."""
        return {
            "peak_memory_mib": environment.peak_memory_mib(self._arm.device),
            "compile": self._arm.step.compiled,
        }

    def details(self, count: int) -> dict[str, Any]:
        """Seconds of the `parts` of a step, each the median of `count`; images/s of the `evaluation`; `flops` an image;
        `matrix_flops` a second; `hardware`, `libraries` and `code`."""
        arm = self._arm
        parts = arm.parts(count)
        evaluated = arm.evaluated()  # warms up
        return {
            "parts": parts,
            "evaluation": evaluated / arm.seconds(arm.evaluated),
            "flops": arm.flops(),
            "matrix_flops": matrix_rate(arm.device, arm.precision.used),
            "hardware": environment.hardware(arm.device),
            "libraries": environment.libraries(),
            "code": environment.code(),
        }


def serve(imports: float) -> None:
    """Answer the requests that come over the connection whose file descriptor is the first argument, until None comes.

    An answer is a pair: "done" with what was asked for, "refused" with a RecipeError's sentence, "failed" with a traceback.
    """
    die_with_the_parent()
    os.register_at_fork(after_in_child=die_with_the_parent)  # the workers, too
    service = Service(imports)
    with Connection(int(sys.argv[1])) as connection:
        while (request := connection.recv()) is not None:
            command, arguments = request
            try:
                answer = "done", getattr(service, command)(*arguments)
            except RecipeError as error:
                answer = "refused", str(error)
            except Exception as error:  # of whatever kind: the other process shall know, and this one stay
                told = OUT_OF_MEMORY if out_of_memory(error) else unwritable(error)
                answer = ("refused", told) if told else ("failed", traceback.format_exc())
            connection.send(answer)


def die_with_the_parent() -> None:
    """Have the kernel kill this process when its parent ends, on Linux: one that is stopped would not notice, and stay."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

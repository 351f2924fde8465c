"""`python -m bench speed`: images per second of a recipe on this machine, and where the time of a step goes.

The guide has its initial weights, which take as long as trained ones. Arms are measured in turns, so that whatever else the
machine does falls on all alike.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import environment, models
from bench.data.batches import Batch, Share, TestBatches, train_batches
from bench.data.parts import Images, Store
from bench.evaluate import predict
from bench.guide import Guide
from bench.kept_features import kept_features
from bench.models.drop_path import draw_scales
from bench.processes import make_accelerator
from bench.schema import Recipe
from bench.step import Step, compile_mode

ROUNDS = 5  # turns in which the arms are measured
EVALUATED = {"cuda": 10_000}  # test images, at most; 200 elsewhere


def random_store(recipe: Recipe, side: int) -> Store:
    """Images of noise in the place of a dataset that is not here: as many, of `side` x `side` px."""
    numbers = np.random.default_rng(0)

    def split(count: int) -> Images:
        pixels = numbers.integers(0, 256, count * side * side * 3, dtype=np.uint8)
        labels = np.arange(count, dtype=np.int64) % (recipe.data.classes or 100)
        return Images(pixels, np.full((count, 2), side, np.int32), labels, labels.astype(str))

    return Store(
        recipe.data.name,
        split(recipe.data.train_images or 50_000),
        split(recipe.data.test_images or 10_000),
        None,
        f"noise of {side} px",
    )


class Arm:
    """One way to train, ready to be timed.

    Args:
        plain: as one would without this suite: timm's transform in worker processes, eager, fp32 without TF32.
    """

    def __init__(self, recipe: Recipe, store: Store, plain: bool = False) -> None:
        if plain:
            train = replace(recipe.train, precision="fp32", compile="off")
            recipe = replace(recipe, data=replace(recipe.data, pipeline="pil"), train=train)
        self.recipe, self._plain = recipe, plain
        self.accelerator, self.precision = make_accelerator(recipe.train)
        device = self.accelerator.device
        classes = store.classes(recipe.data)
        student = models.create(recipe.model, classes, recipe.seed, taps=recipe.imitates_maps)
        guide = Guide(recipe.guide, classes, None, recipe.guidance) if recipe.guide is not None else None
        if guide is not None and recipe.guidance.offline:
            guide = kept_features(guide, "untrained", recipe, store, device)
        self.step = Step(recipe, student, guide, self.accelerator)
        self.step.task.train()
        self.network, self.mode = student.network, compile_mode(recipe, device, 1)
        self._batches = train_batches(recipe, store, device)
        every = max(1, len(store.evaluation(recipe.data)) // EVALUATED.get(device.type, 200))
        self._test = TestBatches(recipe, store, device, Share(0, every))
        self._drop_path = draw_scales(student.drop_path_rates, self._batches.positions, recipe.seed, 0).to(device)
        self._endless = itertools.chain.from_iterable(map(self._batches.epoch, itertools.count()))

    def __enter__(self) -> Arm:
        if self._plain:
            self._tf32 = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        return self

    def __exit__(self, *_: object) -> None:
        if self._plain:
            torch.backends.cudnn.allow_tf32 = self._tf32

    def steps(self, count: int) -> None:
        """Train that many steps, as a run does."""
        for batch in itertools.islice(self._endless, count):
            self.step(batch, self._drop_path[:, batch.positions], self.recipe.guide is not None)

    def input(self, count: int) -> Batch:
        """Make that many batches; returns the last."""
        return list(itertools.islice(self._endless, count))[-1]

    def evaluated(self) -> int:
        """Evaluate; returns how many images."""
        return len(predict(self.network, self._test, self.accelerator.device)[0])

    def seconds(self, call: Callable[[], object]) -> float:
        """How long a call takes, the device's work included."""
        self._wait()
        began = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)

    def parts(self, count: int) -> dict[str, float]:
        """Seconds a step of each part by itself. On a GPU parts may overlap, so they can add up to more than a step."""
        step, batch = self.step, self.input(1)
        scales, guided = self._drop_path[:, batch.positions], self.recipe.guide is not None
        maps, logits = step.imitated(batch) if guided else (None, None)

        def forward() -> Tensor:
            return step.forward(batch, scales, maps, logits)[0]

        def both() -> None:
            self.accelerator.backward(forward())

        def each(call: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
            taken = []
            for _ in range(count + 1):  # the first warms up
                before()
                taken.append(self.seconds(call))
            return median(taken[1:])

        out = {"input": each(lambda: self.input(1))}
        if guided:
            out["guide"] = each(lambda: step.imitated(batch))
        out["forward"] = each(forward)
        out["backward"] = max(0.0, each(both) - out["forward"])
        out["optimiser"] = each(step.update, before=both)  # without gradients it would do nothing
        return out

    def flops(self) -> dict[str, float]:
        """FLOPs an image (two a multiplication): of the student's forward, of its forward and backward, of the guide."""
        batch = self.input(1)
        scales, count = self._drop_path[:, batch.positions], len(batch.labels)
        maps, logits = self.step.imitated(batch) if self.recipe.guide is not None else (None, None)
        out = {}
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            with FlopCounterMode(display=False) as counter:
                loss, _ = self.step.forward(batch, scales, maps, logits)
                out["forward"] = counter.get_total_flops() / count
                self.accelerator.backward(loss)
            out["forward and backward"] = counter.get_total_flops() / count
            if self.recipe.guide is not None:
                with FlopCounterMode(display=False) as counter:
                    self.step.imitated(batch)
                out["guide"] = counter.get_total_flops() / count
        self.step.optimizer.zero_grad()
        return out


def matrix_rate(device: torch.device, precision: str, size: int | None = None) -> float:
    """FLOP/s of a large square matrix product on this device, the best of ten: what a network can hope for."""
    size = size or (8192 if device.type == "cuda" else 2048)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    one, other = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def arms_of(recipe: Recipe, plain: bool) -> dict[str, tuple[Recipe, bool]]:
    """{name: (recipe, whether the plain way)} of what is timed: the recipe, what it costs over its baseline, and, if asked,
    the plain way."""
    guided = recipe.guide is not None
    arms = {recipe.id.rpartition("/")[2] if guided else "baseline": (recipe, False)}
    if guided:
        arms["baseline"] = (replace(recipe, guidance=None, guide=None), False)
    if plain:
        arms["plain"] = (recipe, True)
    return arms


def measure(
    asked: dict[str, tuple[Recipe, bool]], store: Store, steps: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Time the arms in turns, and take the first one apart.

    Args:
        asked: from `arms_of`.
        steps: of each arm.
        say: told what goes on.

    Returns:
        `arms`: images/s and ms a step of each (the median turn, and the fastest and slowest), and images/s of its input
        alone; `ratios`: of the first arm's step to each other arm's; `parts_ms` of a step, FLOPs an image, FLOP/s of a
        matrix product, the share of it that is used, images/s of the evaluation, peak memory, seconds from the start of the
        process to the first step, and what it ran on.
    """
    arms: dict[str, Arm] = {}
    first_step = {}
    for name, (recipe, plain) in asked.items():
        say(f"{name}: warming up")
        with Arm(recipe, store, plain) as arm:
            if not arms:
                arm.input(1)
                first_step["seconds"] = time.time() - psutil.Process().create_time()
            arm.steps(3)
        arms[name] = arm
    each = max(1, steps // ROUNDS)
    turns: dict[str, list[float]] = {name: [] for name in arms}
    inputs: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(ROUNDS):
        say(f"turn {turn + 1} of {ROUNDS}, {each} steps an arm")
        for name, arm in arms.items():
            with arm:
                turns[name].append(arm.seconds(lambda arm=arm: arm.steps(each)) / each)
                inputs[name].append(arm.seconds(lambda arm=arm: arm.input(each)) / each)
    name, first = next(iter(arms.items()))
    say(f"{name}: its parts")
    batch, device = first.recipe.train.batch_size, first.accelerator.device
    seconds = {name: median(own) for name, own in turns.items()}
    with first:
        parts = first.parts(max(3, each))
        evaluated = first.evaluated()  # warms up
        evaluation = evaluated / first.seconds(first.evaluated)
        flops = first.flops()
    rate = matrix_rate(device, first.precision.used)
    return {
        "recipe": first.recipe.id,
        "protocol": first.recipe.protocol,
        "hash": first.recipe.hash,
        "batch": batch,
        "image_size": first.recipe.model.image_size,
        "precision": first.precision.used,
        "compile": first.mode or "off",
        "steps": each * ROUNDS,
        "arms": {
            name: {
                "images_per_second": batch / seconds[name],
                "ms": 1e3 * seconds[name],
                "range_ms": [1e3 * min(own), 1e3 * max(own)],
                "input_images_per_second": batch / median(inputs[name]),
            }
            for name, own in turns.items()
        },
        "ratios": {other: seconds[name] / seconds[other] for other in list(arms)[1:]},
        "parts_ms": {part: 1e3 * value for part, value in parts.items()},
        "evaluation_images_per_second": evaluation,
        "flops_per_image": flops,
        "matrix_flops": rate,
        "utilisation": (flops["forward and backward"] + flops.get("guide", 0)) * batch / seconds[name] / rate,
        "first_step": first_step,
        "peak_memory_mib": environment.peak_memory_mib(device),
        "dataset": store.fingerprint,
        "hardware": environment.hardware(device),
        "libraries": environment.libraries(),
        "code": environment.code(),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What `measure` found, for people."""
    hardware = found["hardware"]
    where = f"{hardware['processor']}, {hardware['threads']} thread{'s' if hardware['threads'] > 1 else ''}"
    if hardware["device"] != "cpu":
        where = hardware["device"]
    yield (
        f"{found['recipe']}  batch {found['batch']}  {found['image_size']} px  {found['precision']}  compile"
        f" {found['compile']}  on {where}, {found['steps']} steps"
    )
    for name, arm in found["arms"].items():
        low, high = arm["range_ms"]
        rate = f"{arm['images_per_second']:>10,.1f} images/s"
        alone = f"input alone {arm['input_images_per_second']:,.1f} images/s"
        yield f"  {name:<10} {rate}  {arm['ms']:,.1f} ms a step ({low:,.1f} to {high:,.1f})  {alone}"
    first = next(iter(found["arms"]))
    for other, ratio in found["ratios"].items():
        yield f"  a step of {first} takes {ratio:.3f} of one of {other}"
    step = found["arms"][first]["ms"]
    yield f"  parts of {first}, each by itself:"
    for part, value in found["parts_ms"].items():
        yield f"    {part:<10} {value:>9,.1f} ms  {value / step:>6.1%}"
    yield f"    together   {sum(found['parts_ms'].values()):>9,.1f} ms of {step:,.1f}"
    yield f"  evaluation {found['evaluation_images_per_second']:>10,.1f} images/s"
    flops = ", ".join(f"{name} {value / 1e9:.3f}" for name, value in found["flops_per_image"].items())
    yield f"  GFLOPs an image: {flops}"
    yield (
        f"  {found['utilisation']:.1%} of the {found['matrix_flops'] / 1e12:,.2f} TFLOP/s that a matrix product reaches"
        f" here in {found['precision']}; peak memory {found['peak_memory_mib']:,.0f} MiB"
    )
    start = found["first_step"]
    yield f"  the first step began {start['seconds']:.1f} s after the process, {start['imports']:.1f} s of it were imports"

"""The verb `speed`: images/s of a recipe on this machine, and the time per part of a step."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import psutil

from bench.cli import DONE, FAILED, add_recipe_options, compose, say_error
from bench.config.schema import Recipe, RecipeError
from bench.locks import cache_folder
from bench.storage import write_json
from bench.train import speed_variant
from bench.train.launch import out_of_memory
from bench.train.main import OUT_OF_MEMORY
from bench.train.speed_variant import Details, Prepared, Usage

T = TypeVar("T")
MAX_TURNS = 10
WARM_UP_STEPS = 3
MIN_REPEATS = 3  # of a part of a step
MAX_SIDE_PX = 4096  # of synthetic images


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """The options of `speed`."""
    parser.add_argument("--recipe", required=True, metavar="ID")
    add_recipe_options(parser)
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="per variant (20)")
    parser.add_argument("--compare", choices=["plain"], help="measure the plain way too: PIL workers, eager, fp32")
    parser.add_argument("--synthetic", type=int, metavar="PX", help="noise images of this side instead of the dataset")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
    parser.add_argument("--json", metavar="FILE", help="also write the measurements there")


def run_speed(arguments: argparse.Namespace) -> int:
    """Time a recipe beside its baseline, and beside the plain way if asked."""
    if arguments.steps < 1:
        raise RecipeError(f"--steps: got {arguments.steps}, allowed from 1")
    if arguments.synthetic is not None and not 1 <= arguments.synthetic <= MAX_SIDE_PX:
        raise RecipeError(f"--synthetic: got {arguments.synthetic}, allowed from 1 to {MAX_SIDE_PX}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that stopped processes are ended, as after Ctrl-C
    recipes = variants_of(compose(arguments), plain=arguments.compare == "plain")
    say = partial(print, file=sys.stderr, flush=True)
    try:
        report = measure(recipes, arguments.data_dir, arguments.synthetic, arguments.steps, say)
    except RuntimeError as error:  # also of a variant's process that was killed
        say_error(OUT_OF_MEMORY if out_of_memory(error) else error)
        return FAILED
    print("\n".join(report.lines()))
    if arguments.json:
        write_json(Path(arguments.json), report.to_dict())
    return DONE


def variants_of(recipe: Recipe, plain: bool) -> dict[str, Recipe]:
    """The recipes to time, by name: the recipe, its baseline and, if asked, the plain way.

    The plain way is how one would train without this suite: timm's transform in worker processes, eager, fp32.
    """
    guided = recipe.teacher is not None
    variants = {recipe.id.rpartition("/")[2] if guided else "baseline": recipe}
    if guided:
        variants["baseline"] = replace(recipe, guidance=None, teacher=None)
    if plain:
        train = replace(recipe.train, precision="fp32", compile="off")
        variants["plain"] = replace(recipe, data=replace(recipe.data, pipeline="pil"), train=train)
    return variants


@dataclass(frozen=True)
class VariantSpeed:
    """The measurements of one variant.

    step_seconds, input_seconds: per step and per batch of input, of each turn.
    """

    prepared: Prepared
    usage: Usage
    step_seconds: list[float]
    input_seconds: list[float]

    def to_dict(self, batch: int) -> dict[str, object]:
        """Rates and times from the median turn, as JSON content."""
        step = median(self.step_seconds)
        return {
            "images_per_second": batch / step,
            "ms": 1e3 * step,
            "range_ms": [1e3 * min(self.step_seconds), 1e3 * max(self.step_seconds)],
            "input_images_per_second": batch / median(self.input_seconds),
            "peak_memory_mib": self.usage.peak_memory_mib,
            "precision": self.prepared.precision,
            "compile": self.usage.compile,
        }


@dataclass(frozen=True)
class SpeedReport:
    """All measurements. The first variant is the recipe that was asked for; `details` are of it."""

    recipe: Recipe
    steps: int
    variants: dict[str, VariantSpeed]
    details: Details

    @property
    def first(self) -> VariantSpeed:
        """The measurements of the recipe that was asked for."""
        return next(iter(self.variants.values()))

    @property
    def ratios(self) -> dict[str, float]:
        """The step time of the recipe over that of each other variant: the median over turns, since machines drift."""
        ours = self.first.step_seconds
        return {
            name: median(a / b for a, b in zip(ours, other.step_seconds, strict=True))
            for name, other in list(self.variants.items())[1:]
        }

    @property
    def utilisation(self) -> float:
        """The part of a matrix product's FLOP/s that a step uses."""
        flops = self.details.flops["forward and backward"] + self.details.flops.get("teacher", 0)
        return flops * self.recipe.train.batch_size / median(self.first.step_seconds) / self.details.matrix_flops

    def to_dict(self) -> dict[str, object]:
        """The measurements as JSON content."""
        recipe, details, prepared = self.recipe, self.details, self.first.prepared
        batch = recipe.train.batch_size
        return {
            "recipe": recipe.id,
            "protocol": recipe.protocol,
            "hash": recipe.hash,
            "batch": batch,
            "image_size": recipe.model.image_size,
            "steps": self.steps,
            "variants": {name: variant.to_dict(batch) for name, variant in self.variants.items()},
            "ratios": self.ratios,
            "parts_ms": {part: 1e3 * seconds for part, seconds in details.parts.items()},
            "evaluation_images_per_second": details.evaluation,
            "flops_per_image": details.flops,
            "matrix_flops": details.matrix_flops,
            "utilisation": self.utilisation,
            "first_step": {"seconds": prepared.seconds, "import_seconds": prepared.import_seconds},
            "dataset": prepared.dataset,
            "hardware": dataclasses.asdict(details.hardware),
            "libraries": details.libraries,
            "code": dataclasses.asdict(details.code),
        }

    def lines(self) -> Iterator[str]:
        """The measurements as text."""
        recipe, details, first = self.recipe, self.details, self.first
        machine, batch = details.hardware, recipe.train.batch_size
        where = machine.device
        if where == "cpu":
            where = f"{machine.processor}, {machine.threads} thread{'s' if machine.threads > 1 else ''}"
        yield (
            f"{recipe.id}  batch {batch}  {recipe.model.image_size} px  {first.prepared.precision}  compile"
            f" {first.usage.compile}  on {where}, {self.steps} steps"
        )
        for name, variant in self.variants.items():
            step, low, high = (1e3 * f(variant.step_seconds) for f in (median, min, max))
            rate, input_rate = batch / median(variant.step_seconds), batch / median(variant.input_seconds)
            yield (
                f"  {name:<10} {rate:>10,.1f} images/s  {step:,.1f} ms per step ({low:,.1f} to {high:,.1f})"
                f"  input alone {input_rate:,.1f} images/s"
            )
        name = next(iter(self.variants))
        for other, ratio in self.ratios.items():
            yield f"  a step of {name} takes {ratio:.3f} times a step of {other}"
        step = 1e3 * median(first.step_seconds)
        yield f"  parts of {name}, each by itself:"
        for part, seconds in details.parts.items():
            yield f"    {part:<10} {1e3 * seconds:>9,.1f} ms  {1e3 * seconds / step:>6.1%}"
        yield f"    sum        {1e3 * sum(details.parts.values()):>9,.1f} ms of {step:,.1f}"
        yield f"  evaluation {details.evaluation:>10,.1f} images/s"
        yield "  GFLOPs per image: " + ", ".join(f"{part} {flops / 1e9:.3f}" for part, flops in details.flops.items())
        yield (
            f"  {self.utilisation:.1%} of the {details.matrix_flops / 1e12:,.2f} TFLOP/s of a matrix product here in"
            f" {first.prepared.precision}; peak memory {first.usage.peak_memory_mib:,.0f} MiB"
        )
        prepared = first.prepared
        yield f"  first step {prepared.seconds:.1f} s after the start, {prepared.import_seconds:.1f} s of it for imports"


def measure(
    recipes: dict[str, Recipe],
    data_dir: str,
    synthetic: int | None,
    steps: int,
    say: Callable[[str], None] = lambda text: None,
) -> SpeedReport:
    """Time the variants in turns, so that other load of the machine affects all of them, and the parts of the first one.

    Args:
        recipes: from `variants_of`.
        data_dir: local datasets.
        synthetic: side of noise images in px, which replace the dataset; or None.
        steps: per variant; divided into at most ten turns of equal length.
        say: receives progress messages.

    Raises:
        RecipeError: a variant cannot run, or a launcher has started several processes.
        RuntimeError: a variant failed, or its process was killed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: bench speed measures one process: use no launcher")
    turns = min(MAX_TURNS, steps)
    per_turn = steps // turns
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch(recipes))
        pools = {name: stack.enter_context(_own_process()) for name in recipes}

        def ask(name: str, function: Callable[..., T], *arguments: object) -> T:
            """The result of a function of bench/train/speed_variant.py in the process of a variant."""
            return pools[name].submit(function, *arguments).result()

        prepared: dict[str, Prepared] = {}
        for name, recipe in recipes.items():
            prepared[name] = ask(name, speed_variant.prepare, recipe, data_dir, synthetic, scratch)
            say(f"{name}: warming up")
            ask(name, speed_variant.train, WARM_UP_STEPS)
        step_seconds: dict[str, list[float]] = {name: [] for name in recipes}
        input_seconds: dict[str, list[float]] = {name: [] for name in recipes}
        for turn in range(turns):
            say(f"turn {turn + 1} of {turns}, {per_turn} step{'s' if per_turn > 1 else ''} per variant")
            for name in recipes:
                ask(name, speed_variant.train, 1)  # the other variants have replaced the content of the processor's caches
                step_seconds[name].append(ask(name, speed_variant.train, per_turn) / per_turn)
                input_seconds[name].append(ask(name, speed_variant.load, per_turn) / per_turn)
        usage = {name: ask(name, speed_variant.usage) for name in recipes}  # before the details need more memory
        first = next(iter(recipes))
        say(f"{first}: parts of a step")
        details = ask(first, speed_variant.details, max(MIN_REPEATS, per_turn))
    variants = {
        name: VariantSpeed(prepared[name], usage[name], step_seconds[name], input_seconds[name]) for name in recipes
    }
    return SpeedReport(recipes[first], per_turn * turns, variants, details)


@contextlib.contextmanager
def _own_process() -> Iterator[ProcessPoolExecutor]:
    """A process for one variant. It ends with the block; after an error it is killed, with its data workers."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=speed_variant.start) as pool:
        try:
            yield pool
            pool.submit(speed_variant.close).result()
        except BaseException:
            for variant in multiprocessing.active_children():  # without the helper processes of Python itself
                with contextlib.suppress(psutil.NoSuchProcess):
                    for process in psutil.Process(variant.pid).children(recursive=True):
                        process.kill()
                variant.kill()
            raise


@contextlib.contextmanager
def _scratch(recipes: dict[str, Recipe]) -> Iterator[str | None]:
    """A temporary cache for the features of an untrained teacher, which are of no use later; None if not needed."""
    if not any(recipe.guidance is not None and recipe.guidance.teacher.offline for recipe in recipes.values()):
        yield None
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="speed-", dir=cache_folder()) as folder:
        yield folder

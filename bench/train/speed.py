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

from bench.cli import DONE, FAILED, add_recipe_options, compose, count, say_error
from bench.config.schema import Recipe, RecipeError
from bench.locks import cache_folder
from bench.storage import write_json
from bench.train import speed_variant
from bench.train.main import OUT_OF_MEMORY, out_of_memory
from bench.train.speed_variant import Details, Variant

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
    guided = recipe.guidance is not None
    variants = {recipe.id.rpartition("/")[2] if guided else "baseline": recipe}
    if guided:
        variants["baseline"] = replace(recipe, guidance=None, teacher=None)
    if plain:
        train = replace(recipe.train, precision="fp32", compile="off")
        variants["plain"] = replace(recipe, data=replace(recipe.data, pipeline="pil"), train=train)
    return variants


@dataclass(frozen=True)
class VariantSpeed:
    """The median turn of a variant, and its fastest and slowest one. compile: the mode, "off" or "fell back"."""

    images_per_second: float
    ms: float  # per step
    range_ms: tuple[float, float]
    input_images_per_second: float
    peak_memory_mib: float
    precision: str
    compile: str


@dataclass(frozen=True)
class SpeedReport:
    """All measurements.

    variants: the first is the recipe that was asked for.
    ratios: the step time of that recipe over that of each other variant: the median over turns, since machines drift.
    details: of that recipe.
    """

    recipe: Recipe
    steps: int
    variants: dict[str, VariantSpeed]
    ratios: dict[str, float]
    details: Details

    @property
    def utilisation(self) -> float:
        """The part of a matrix product's FLOP/s that a step uses."""
        flops, first = self.details.flops_per_image, next(iter(self.variants.values()))
        per_image = flops["forward and backward"] + flops.get("teacher", 0)
        return per_image * first.images_per_second / self.details.matrix_flops

    def to_dict(self) -> dict[str, object]:
        """The measurements as JSON content."""
        return {
            "recipe": self.recipe.id,
            "protocol": self.recipe.protocol,
            "hash": self.recipe.hash,
            "batch": self.recipe.train.batch_size,
            "image_size": self.recipe.model.image_size,
            "steps": self.steps,
            "variants": {name: dataclasses.asdict(variant) for name, variant in self.variants.items()},
            "ratios": self.ratios,
            "utilisation": self.utilisation,
            **dataclasses.asdict(self.details),
        }

    def lines(self) -> Iterator[str]:
        """The measurements as text."""
        recipe, details = self.recipe, self.details
        name, first = next(iter(self.variants.items()))
        yield (
            f"{recipe.id}  batch {recipe.train.batch_size}  {recipe.model.image_size} px  {first.precision}  compile"
            f" {first.compile}  on {details.hardware}, {self.steps} steps"
        )
        for variant, speed in self.variants.items():
            low, high = speed.range_ms
            yield (
                f"  {variant:<10} {speed.images_per_second:>10,.1f} images/s  {speed.ms:,.1f} ms per step ({low:,.1f} to"
                f" {high:,.1f})  input alone {speed.input_images_per_second:,.1f} images/s"
            )
        for other, ratio in self.ratios.items():
            yield f"  a step of {name} takes {ratio:.3f} times a step of {other}"
        yield f"  parts of {name}, each by itself:"
        for part, ms in details.parts_ms.items():
            yield f"    {part:<10} {ms:>9,.1f} ms  {ms / first.ms:>6.1%}"
        yield f"    sum        {sum(details.parts_ms.values()):>9,.1f} ms of {first.ms:,.1f}"
        flops = (f"{part} {flops / 1e9:.3f}" for part, flops in details.flops_per_image.items())
        yield f"  GFLOPs per image: {', '.join(flops)}"
        yield (
            f"  {self.utilisation:.1%} of the {details.matrix_flops / 1e12:,.2f} TFLOP/s of a matrix product here in"
            f" {first.precision}; peak memory {first.peak_memory_mib:,.0f} MiB"
        )
        seconds, imports = details.first_step["seconds"], details.first_step["import_seconds"]
        yield f"  first step {seconds:.1f} s after the start, {imports:.1f} s of it for imports"


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
        synthetic: side of noise images in px, which replace the dataset; or None.
        steps: per variant; divided into at most ten turns.
        say: receives progress messages.

    Raises:
        RecipeError: a variant cannot run, or a launcher has started several processes.
        RuntimeError: a variant failed, or its process was killed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: bench speed measures one process: use no launcher")
    turns = min(MAX_TURNS, steps)
    lengths = [steps // turns + (turn < steps % turns) for turn in range(turns)]
    first = next(iter(recipes))
    step_seconds: dict[str, list[float]] = {name: [] for name in recipes}  # per step, of each turn
    input_seconds: dict[str, list[float]] = {name: [] for name in recipes}  # per batch
    with contextlib.ExitStack() as stack:
        scratch = None
        if any(recipe.teacher is not None and recipe.guidance.teacher.offline for recipe in recipes.values()):
            # the features of an untrained teacher are of no use later
            cache_folder().mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="speed-", dir=cache_folder()))
        pools = {name: stack.enter_context(_own_process()) for name in recipes}

        def ask(name: str, function: Callable[..., T], *arguments: object) -> T:
            """The result of a function of bench/train/speed_variant.py in the process of a variant."""
            return pools[name].submit(function, *arguments).result()

        for name, recipe in recipes.items():
            ask(name, speed_variant.prepare, recipe, data_dir, synthetic, scratch)
            say(f"{name}: warming up")
            ask(name, speed_variant.timed, Variant.train, WARM_UP_STEPS)
        for turn, length in enumerate(lengths, 1):
            say(f"turn {turn} of {turns}, {count(length, 'step')} per variant")
            for name in recipes:
                # the other variants have replaced the content of the processor's caches
                ask(name, speed_variant.timed, Variant.train, 1)
                step_seconds[name].append(ask(name, speed_variant.timed, Variant.train, length) / length)
                input_seconds[name].append(ask(name, speed_variant.timed, Variant.load, length) / length)
        usage = {name: ask(name, speed_variant.call, Variant.usage) for name in recipes}  # the details need more memory
        say(f"{first}: parts of a step")
        details = ask(first, speed_variant.call, Variant.details, max(MIN_REPEATS, lengths[0]))
    variants, ratios = {}, {}
    for name, recipe in recipes.items():
        batch, times = recipe.train.batch_size, step_seconds[name]
        variants[name] = VariantSpeed(
            images_per_second=batch / median(times),
            ms=1e3 * median(times),
            range_ms=(1e3 * min(times), 1e3 * max(times)),
            input_images_per_second=batch / median(input_seconds[name]),
            **dataclasses.asdict(usage[name]),
        )
        if name != first:
            ratios[name] = median(ours / other for ours, other in zip(step_seconds[first], times, strict=True))
    return SpeedReport(recipes[first], steps, variants, ratios, details)


@contextlib.contextmanager
def _own_process() -> Iterator[ProcessPoolExecutor]:
    """A process for one variant. It ends with the block; after an error it is killed, with its data workers."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=speed_variant.start) as pool:
        try:
            yield pool
            pool.submit(speed_variant.close).result()
        except BaseException:
            for child in multiprocessing.active_children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    variant = psutil.Process(child.pid)
                    for process in (variant, *variant.children(recursive=True)):
                        process.kill()
            raise

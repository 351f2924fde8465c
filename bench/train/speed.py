"""The verb `speed`: images/s of a recipe on this machine, and the time per part of a step."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.cli import DONE, FAILED, STOPPED, add_recipe_options, compose, count, say_error
from bench.config.schema import Recipe, RecipeError
from bench.storage import write_json
from bench.train.main import OUT_OF_MEMORY, out_of_memory
from bench.train.speed_methods import measure_methods, recipes_of_methods
from bench.train.speed_process import Ask, described, headline, say, seconds_per_step, turn_lengths, variant_process
from bench.train.speed_variant import Details, Environment, Usage, Variant

MIN_REPEATS = 3  # of a part of a step
MAX_SIDE_PX = 4096  # of synthetic images


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """The options of `speed`."""
    parser.add_argument("--recipe", required=True, metavar="ID")
    add_recipe_options(parser)
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="per variant (20)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--compare", choices=["plain"], help="measure the plain way too: PIL workers, eager, fp32")
    either.add_argument("--methods", action="store_true", help="every guidance method over the baseline, sorted by cost")
    parser.add_argument("--synthetic", type=int, metavar="PX", help="noise images of this side instead of the dataset")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
    parser.add_argument("--json", metavar="FILE", help="also write the measurements there")


def run_speed(arguments: argparse.Namespace) -> int:
    """Time a recipe, its baseline and, if asked, the plain way; with `--methods`, all guidance methods and the baseline."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: bench speed measures one process: use no launcher")
    if arguments.steps < 1:
        raise RecipeError(f"--steps: got {arguments.steps}, allowed from 1")
    if arguments.synthetic is not None and not 1 <= arguments.synthetic <= MAX_SIDE_PX:
        raise RecipeError(f"--synthetic: got {arguments.synthetic}, allowed from 1 to {MAX_SIDE_PX}")
    asked = threading.Event()

    def stop(number: int, frame: object) -> None:
        asked.set()  # python loses a KeyboardInterrupt that is raised while an object is deleted
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)  # so that the processes of variants are ended
    options = arguments.data_dir, arguments.synthetic, arguments.steps
    try:
        if arguments.methods:
            report = measure_methods(recipes_of_methods(arguments), *options, asked.is_set)
        else:
            report = measure(variants_of(compose(arguments), plain=arguments.compare == "plain"), *options)
    except RuntimeError as error:  # also of a variant's process that was killed
        say_error(OUT_OF_MEMORY if out_of_memory(error) else error)
        return FAILED
    print("\n".join(report.lines()))
    if arguments.json:
        write_json(Path(arguments.json), report.to_dict())
    return STOPPED if asked.is_set() else DONE


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
class VariantSpeed(Usage):
    """The median turn of a variant, and its fastest and slowest one."""

    images_per_second: float
    ms: float  # per step
    range_ms: tuple[float, float]
    input_images_per_second: float


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
    environment: Environment
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
            **described(self.recipe, self.steps),
            "variants": {name: dataclasses.asdict(variant) for name, variant in self.variants.items()},
            "ratios": self.ratios,
            "utilisation": self.utilisation,
            **dataclasses.asdict(self.environment),
            **dataclasses.asdict(self.details),
        }

    def lines(self) -> Iterator[str]:
        """The measurements as text."""
        recipe, details = self.recipe, self.details
        name, first = next(iter(self.variants.items()))
        yield from headline(recipe, first, self.environment, self.steps)
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
        if details.bf16_note is not None:
            yield f"  {details.bf16_note}"
        seconds, imports = details.first_step["seconds"], details.first_step["import_seconds"]
        yield f"  first step {seconds:.1f} s after the start, {imports:.1f} s of it for imports"


def measure(recipes: dict[str, Recipe], data_dir: str, synthetic: int | None, steps: int) -> SpeedReport:
    """Time the variants in turns, so that other load of the machine affects all of them, and the parts of the first one.

    Args:
        recipes: from `variants_of`.
        synthetic: side of noise images in px, which replace the dataset; or None.
        steps: per variant; divided into at most ten turns.

    Raises:
        RecipeError, RuntimeError: see `variant_process`.
    """
    lengths = turn_lengths(steps)
    first = next(iter(recipes))
    step_seconds: dict[str, list[float]] = {name: [] for name in recipes}  # per step, of each turn
    input_seconds: dict[str, list[float]] = {name: [] for name in recipes}  # per batch
    with contextlib.ExitStack() as stack:
        asks: dict[str, Ask] = {}
        for name, recipe in recipes.items():
            asks[name] = stack.enter_context(variant_process(recipe, data_dir, synthetic))
            say(f"{name}: ready")
        for turn, length in enumerate(lengths, 1):
            say(f"turn {turn} of {len(lengths)}, {count(length, 'step')} per variant")
            for name, ask in asks.items():
                step_seconds[name].append(seconds_per_step(ask, Variant.train, length))
                input_seconds[name].append(ask(Variant.timed, Variant.load, length))
        usage = {name: ask(Variant.usage) for name, ask in asks.items()}  # before the details, which need more memory
        environment = asks[first](Variant.environment)
        say(f"{first}: parts of a step")
        details = asks[first](Variant.details, max(MIN_REPEATS, lengths[0]))
    variants, ratios = {}, {}
    for name, recipe in recipes.items():
        batch, times = recipe.train.batch_size, step_seconds[name]
        variants[name] = VariantSpeed(
            images_per_second=batch / median(times),
            ms=1e3 * median(times),
            range_ms=(1e3 * min(times), 1e3 * max(times)),
            input_images_per_second=batch / median(input_seconds[name]),
            **vars(usage[name]),
        )
        if name != first:
            ratios[name] = median(ours / other for ours, other in zip(step_seconds[first], times, strict=True))
    return SpeedReport(recipes[first], steps, variants, ratios, environment, details)

"""The processes of `python -m bench speed`: one for each variant. They are asked in turns, so only one works at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol, TypeVar

import psutil

from bench.config.schema import Recipe
from bench.locks import cache_folder
from bench.train import speed_variant
from bench.train.graph import WARM_UP_STEPS
from bench.train.speed_variant import Environment, Usage, Variant

T = TypeVar("T")
MAX_TURNS = 10


class Ask(Protocol):
    """Calls a function of bench/train/speed_variant.py in the process of a variant, and returns its result."""

    def __call__(self, function: Callable[..., T], *arguments: object) -> T: ...


@contextlib.contextmanager
def variant_process(recipe: Recipe, data_dir: str, synthetic: int | None) -> Iterator[Ask]:
    """A process with a variant that is ready to be timed. It ends with the block; after an error it is killed, with its
    data workers.

    Args:
        synthetic: side of noise images in px, which replace the dataset; or None.

    Raises:
        RecipeError: the variant cannot run.
        RuntimeError: the variant failed, or its process was killed.
    """
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with _scratch(recipe) as scratch, ProcessPoolExecutor(1, context, initializer=speed_variant.start) as pool:

        def ask(function: Callable[..., T], *arguments: object) -> T:
            return pool.submit(function, *arguments).result()

        try:
            ask(speed_variant.prepare, recipe, data_dir, synthetic, scratch)
            ask(speed_variant.timed, Variant.train, WARM_UP_STEPS)
            yield ask
            ask(speed_variant.close)
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                with contextlib.suppress(psutil.NoSuchProcess):
                    variant = psutil.Process(child.pid)
                    for process in (variant, *variant.children(recursive=True)):
                        process.kill()
            raise


@contextlib.contextmanager
def _scratch(recipe: Recipe) -> Iterator[str | None]:
    """A temporary cache for the features of an untrained teacher, which are of no use later; None if there are none."""
    if recipe.teacher is None or not recipe.guidance.teacher.offline:
        yield None
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="speed-", dir=cache_folder()) as folder:
        yield folder


def turn_lengths(steps: int) -> list[int]:
    """The steps of each turn: `steps` divided into at most ten."""
    turns = min(MAX_TURNS, steps)
    return [steps // turns + (turn < steps % turns) for turn in range(turns)]


def seconds_per_step(ask: Ask, function: Callable[[Variant, int], object], count: int, of_cpu: bool = False) -> float:
    """The time of a step in a turn of `count`, after one that is not timed: the other variants have replaced the content
    of the processor's caches. of_cpu: see `Variant.seconds`."""
    ask(speed_variant.timed, function, 1)
    return ask(speed_variant.timed, function, count, of_cpu) / count


def described(recipe: Recipe, steps: int) -> dict[str, object]:
    """What was measured, as JSON content."""
    return {
        "recipe": recipe.id,
        "protocol": recipe.protocol,
        "hash": recipe.hash,
        "batch": recipe.train.batch_size,
        "image_size": recipe.model.image_size,
        "steps": steps,
    }


def headline(recipe: Recipe, usage: Usage, environment: Environment, steps: int) -> Iterator[str]:
    """What was measured and where, and what was compiled if anything was. usage: or what has its fields."""
    yield (
        f"{recipe.id}  batch {recipe.train.batch_size}  {recipe.model.image_size} px  {usage.precision}  compile"
        f" {usage.compile}  on {environment.hardware}, {steps} steps"
    )
    if usage.compilation is not None:
        yield f"  compiled {usage.compilation}"

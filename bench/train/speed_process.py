"""The processes of `python -m bench speed`: one for each variant, since precision and memory belong to a process.

They are asked in turns, so only one works at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import psutil

from bench.config.schema import Recipe
from bench.data.preflight import check_dataset
from bench.data.store import open_dataset
from bench.locks import cache_folder
from bench.train.graph import WARM_UP_STEPS
from bench.train.preflight import check_recipe
from bench.train.speed_variant import Environment, Usage, Variant, random_dataset

P, T = ParamSpec("P"), TypeVar("T")
MAX_TURNS = 10
PR_SET_PDEATHSIG = 1  # of prctl, from linux/prctl.h


class Ask(Protocol):
    """Calls a method of the variant in its process, and returns the result."""

    def __call__(self, method: Callable[Concatenate[Variant, P], T], *arguments: P.args, **named: P.kwargs) -> T: ...


@contextlib.contextmanager
def variant_process(recipe: Recipe, data_dir: str, synthetic: int | None) -> Iterator[Ask]:
    """A process with a variant that is ready to be timed. It ends with the block; after an error it is killed.

    Args:
        synthetic: side of noise images in px, which replace the dataset; or None.

    Raises:
        RecipeError: the variant cannot run.
        RuntimeError: the variant failed, or its process was killed.
    """
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with _scratch(recipe) as scratch, ProcessPoolExecutor(1, context, initializer=_start) as pool:

        def ask(method: Callable[Concatenate[Variant, P], T], *arguments: P.args, **named: P.kwargs) -> T:
            return pool.submit(_call, method, *arguments, **named).result()

        try:
            pool.submit(_prepare, recipe, data_dir, synthetic, scratch).result()
            ask(Variant.timed, Variant.train, WARM_UP_STEPS)
            yield ask
            pool.submit(_close).result()
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
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


_of_this_process: list[Variant] = []


def _start() -> None:
    """Prepare this process: its output goes to stderr, and on Linux it ends with its parent, as its data workers do."""
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    _end_with_parent()
    os.register_at_fork(after_in_child=_end_with_parent)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prepare(recipe: Recipe, data_dir: str, synthetic: int | None, scratch: str | None) -> None:
    """Build the variant of this process and make its first batch. scratch: as of `_scratch`."""
    began = psutil.Process().create_time()
    import_seconds = time.time() - began
    check_recipe(recipe, None)
    dataset = open_dataset(recipe.data, data_dir) if synthetic is None else random_dataset(recipe, synthetic)
    check_dataset(recipe, dataset)
    if scratch is not None:
        os.environ["LOCALITY_BENCH_CACHE"] = scratch
    variant = Variant(recipe, dataset)
    variant.load(1)
    variant.first_step = {"seconds": time.time() - began, "import_seconds": import_seconds}
    _of_this_process.append(variant)


def _call(method: Callable[Concatenate[Variant, P], T], *arguments: P.args, **named: P.kwargs) -> T:
    (variant,) = _of_this_process
    return method(variant, *arguments, **named)


def _close() -> None:
    """End the data workers. They ignore SIGTERM, so this process could not end without it."""
    _of_this_process.clear()


def turn_lengths(steps: int) -> list[int]:
    """The steps of each turn: `steps` divided into at most ten."""
    turns = min(MAX_TURNS, steps)
    return [steps // turns + (turn < steps % turns) for turn in range(turns)]


def seconds_per_step(ask: Ask, method: Callable[[Variant, int], object], count: int, of_cpu: bool = False) -> float:
    """The time of a step in a turn of `count`, after one that is not timed: the other variants have replaced the content
    of the processor's caches. of_cpu: see `Variant.seconds`."""
    ask(Variant.timed, method, 1)
    return ask(Variant.timed, method, count, of_cpu)


def say(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


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
    """Lines that say what was measured, where, and what was compiled, if anything. usage: may be of a subclass."""
    yield (
        f"{recipe.id}  batch {recipe.train.batch_size}  {recipe.model.image_size} px  {usage.precision}  compile"
        f" {usage.compile}  on {environment.hardware}, {steps} steps"
    )
    if usage.compilation is not None:
        yield f"  compiled {usage.compilation}"

"""What all commands share: options, exit codes, log messages, and how an error is said."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.storage import unwritable

# Exit codes. 1 means that a check found problems.
DONE, PROBLEMS, BAD_INPUT, FAILED, STOPPED = 0, 1, 2, 3, 75


TIMESTAMPS = "LOCALITY_BENCH_TIMESTAMPS"  # set by a sweep, whose runs write log files


class _Console(logging.Handler):
    """Information on stdout; warnings and errors on stderr, after their level. With the time if `TIMESTAMPS` is set."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        prefix = time.strftime("%Y-%m-%d %H:%M:%S ") if TIMESTAMPS in os.environ else ""
        if record.levelno >= logging.WARNING:
            prefix += f"{record.levelname.lower()}: "
        print(prefix + record.getMessage(), file=stream, flush=True)


def set_up_logging() -> None:
    """Send the log messages of the suite to the console."""
    log = logging.getLogger("bench")
    log.setLevel(logging.INFO)
    log.handlers = [_Console()]
    log.propagate = False


def add_folders(to: argparse.ArgumentParser, *, data: bool = True) -> None:
    """The options for folders."""
    add_recipes_dir(to)
    to.add_argument("--results-dir", default="results", metavar="DIR", help="results (results)")
    if data:
        to.add_argument("--data-dir", metavar="DIR", help="local datasets, one folder each (data)")


def add_recipes_dir(to: argparse.ArgumentParser) -> None:
    """The option for the user's own recipe files."""
    to.add_argument("--recipes-dir", action="append", default=[], metavar="DIR", help="your own recipes; may repeat")


def add_settings(to: argparse.ArgumentParser) -> None:
    """The options for protocol and single keys."""
    to.add_argument("--protocol", default="paper", metavar="NAME", help="how to train (paper)")
    to.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as train.epochs=2; may repeat")


def add_recipe_options(to: argparse.ArgumentParser) -> None:
    """The options that, with an id, determine a recipe."""
    add_settings(to)
    to.add_argument("--suite", metavar="NAME", help="use the protocol and settings of this suite")
    add_recipes_dir(to)


def compose(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the options of `add_recipe_options` ask for."""
    registry = Registry(*arguments.recipes_dir)
    suite = registry.suite(arguments.suite) if arguments.suite is not None else None
    seed = getattr(arguments, "seed", 0)
    return registry.compose(arguments.recipe, arguments.protocol, arguments.set, seed=seed, suite=suite)


def say_error(sentence: object) -> None:
    """Print an error as every command does."""
    print(f"error: {sentence}", file=sys.stderr)


def input_error(error: Exception) -> str | None:
    """The sentence for an error that the user's input caused; None for other errors."""
    return str(error) if isinstance(error, RecipeError) else unwritable(error)


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2,000 images, 10 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def duration(seconds: float) -> str:
    """A time as people read it: 45 s, 12 min, 3.4 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"

"""What all commands share: options, exit codes, log messages, and how an error is said."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence

from bench.config.names import path_part
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite, SuiteMethod
from bench.storage import unwritable

# Exit codes. 1 means that a check found problems.
DONE, PROBLEMS, BAD_INPUT, FAILED, STOPPED = 0, 1, 2, 3, 75


ADHOC_SEEDS = (0, 1, 2)  # of recipes that are in no suite: the least for a confidence interval
SET_HELP = "for example train.epochs=2; can be given several times"
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
    to.add_argument(
        "--recipes-dir", action="append", default=[], metavar="DIR", help="your own recipes; can be given several times"
    )


def add_settings(to: argparse.ArgumentParser) -> None:
    """The options for protocol, single keys and suite."""
    to.add_argument("--protocol", metavar="NAME", help="how to train (paper); a suite has its own")
    to.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)
    to.add_argument("--suite", metavar="NAME", help="use the protocol and settings of this suite")


def add_selection(to: argparse.ArgumentParser) -> None:
    """Words that name suites or recipes, and the options for them. See `selected_suites`."""
    to.add_argument("what", nargs="*", metavar="SUITE or ID")
    to.add_argument("--protocol", metavar="NAME", help="how to train recipe ids (paper); a suite has its own protocol")
    to.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"{SET_HELP}; overrides a suite")
    to.add_argument("--suite", metavar="NAME", help="use its protocol, settings and seeds for recipe ids")
    to.add_argument("--reference", metavar="NAME", help="for recipe ids: the method that gains are relative to (baseline)")


def selected_suites(arguments: argparse.Namespace, registry: Registry) -> list[Suite]:
    """The suites that the words of `add_selection` name. Ids of students form one more suite, ids of teachers another.

    If `--set` changes recipes of a suite, the suite gets a new name, since its results are different.

    Raises:
        RecipeError: a word names nothing, or an option does not go with it.
    """
    ids = list(dict.fromkeys(word for word in arguments.what if "/" in word))
    names = list(dict.fromkeys(word for word in arguments.what if "/" not in word))
    if not arguments.what:
        raise RecipeError(f"{arguments.verb}: name suites ({', '.join(registry.names('suites'))}) or recipe ids")
    if (setting := next((word for word in arguments.what if "=" in word), None)) is not None:
        raise RecipeError(f"{setting}: write --set before each setting: --set {setting}")
    for option in ("protocol", "suite", "reference"):
        if (value := getattr(arguments, option)) is not None and not ids:
            raise RecipeError(f"--{option} {value}: goes with recipe ids; a suite has its own")
    suites = [_with_settings(registry, registry.suite(name), arguments.set) for name in names]
    base = base_suite(arguments, registry).with_settings(arguments.set)
    parts = [tuple(filter(None, registry.split(one))) for one in ids]
    students, teachers = ([one for one in parts if len(one) == size] for size in (3, 2))
    methods = dict.fromkeys(one[2] for one in students)
    if arguments.reference is not None and arguments.reference not in methods:
        have = f"none of these recipes has this method; they have {', '.join(methods)}" if methods else "goes with students"
        raise RecipeError(f"--reference {arguments.reference}: {have}")
    suites += [suite_of_ids(students, base, arguments.reference)] if students else []
    return suites + ([suite_of_ids(teachers, base)] if teachers else [])


def base_suite(arguments: argparse.Namespace, registry: Registry) -> Suite:
    """The suite of `--suite`, else the protocol of `--protocol` as a suite without recipes. Raises RecipeError for both."""
    if arguments.suite is None:
        return Suite("", arguments.protocol or "paper", (), (), (), ADHOC_SEEDS)
    if arguments.protocol is not None:
        raise RecipeError(f"--protocol {arguments.protocol}: suite {arguments.suite} has its own")
    return registry.suite(arguments.suite)


def suite_of_ids(parts: Sequence[tuple[str, ...]], base: Suite, reference: str | None = None) -> Suite:
    """A suite of recipe ids, with the protocol, settings and seeds of `base`. Its name ends with a hash of all these.

    Args:
        parts: the parts of each id: (model, dataset, guidance) of a student, (model, dataset) of a teacher.
        reference: the method that gains are relative to; None: the reference of `base`.
    """
    models, datasets = (tuple(dict.fromkeys(one[i] for one in parts)) for i in (0, 1))
    rows = tuple(SuiteMethod(name) for name in dict.fromkeys(one[2] for one in parts if len(one) == 3))
    recipes, reference = tuple(dict.fromkeys(map("/".join, parts))), reference or base.reference
    digest = _digest((list(recipes), base.protocol, reference, base.file, base.assignments))
    names = [
        path_part(kind[0]) if len(kind) == 1 else f"{len(kind)}-{word}s"
        for kind, word in ((models, "student"), (datasets, "dataset"))
    ]
    own = {"models": models, "datasets": datasets, "rows": rows, "recipes": recipes, "reference": reference}
    return dataclasses.replace(base, name=f"compare-{'-'.join(names)}-{digest}", **own)


def _with_settings(registry: Registry, suite: Suite, assignments: Sequence[str]) -> Suite:
    changed = suite.with_settings(assignments)
    hashes = ([recipe.hash for _, recipe in registry.suite_recipes(one)] for one in (suite, changed))
    if not assignments or len(set(map(tuple, hashes))) == 1:
        return changed
    return dataclasses.replace(changed, name=f"{suite.name}-{_digest(changed.assignments)}")


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:6]


def matches(text: str, filters: Sequence[str]) -> bool:
    """Whether a text contains one of these texts or matches one of these globs; with no filters every text does."""
    return not filters or any(fnmatch.fnmatchcase(text, f"*{one}*") for one in filters)


def add_recipe_options(to: argparse.ArgumentParser) -> None:
    """The options that, with an id, determine a recipe."""
    add_settings(to)
    add_recipes_dir(to)


def compose(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the options of `add_recipe_options` ask for."""
    registry = Registry(*arguments.recipes_dir)
    seed, suite = getattr(arguments, "seed", 0), base_suite(arguments, registry)
    return registry.compose(arguments.recipe, assignments=arguments.set, seed=seed, suite=suite)


def say_error(sentence: object) -> None:
    """Print an error as every command does."""
    print(f"error: {sentence}", file=sys.stderr)


def input_error(error: Exception) -> str | None:
    """The sentence for invalid input, or for a file or folder that cannot be written; None for other errors."""
    return str(error) if isinstance(error, RecipeError) else unwritable(error)


def duration(seconds: float) -> str:
    """A time as people read it: 45 s, 12 min, 3.4 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 epoch, 2,000 epochs, 10 classes."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"

"""Damage copies of the shipped recipe files in many ways, and check how the suite handles each.

    python -m tests.trials.mutated_recipes --cases 2000 --seed 0

A file is either refused, in one sentence that names the file or a key, or it is a recipe like any other: it keeps its hash
when it is read back from a record, `check_recipe` accepts it or refuses it in one sentence, and its run ends (exit code 0),
is refused in one sentence (2), or fails for a reason of its own (3: the loss diverged, memory ran out). Anything else is
printed with the file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

import bench.train.runner  # noqa: F401 - imported here, once, for all children
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.run import parser
from bench.train.main import main
from bench.train.preflight import check_recipe
from tests.helpers.hostile import sentence_problem
from tests.trials.mutants import Mutant, mutant

# Of the processor, which other programs do not slow down. A user would not wait longer for a sentence.
COMPOSE_SECONDS, BUILD_SECONDS, RUN_SECONDS = 10, 60, 60
MAX_SECONDS = 600  # that pass, whatever they are spent on


@dataclass
class Trials:
    """Trials of damaged files. At most `builds` accepted recipes are built, and `runs` of these are run.

    counts: numbers of files that were refused, accepted, …
    failures: what went wrong, with the file.
    """

    folder: Path
    builds: int
    runs: int
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)  # recipes that differ in nothing relevant are built and run once

    def trial(self, number: int, seed: int) -> None:
        """Make and check one damaged file."""
        own = self.folder / f"{number}"
        case = mutant(own / "recipes", Random(f"{seed} {number}"))
        names = (case.path.name, case.recipe_id or case.name)
        try:
            recipes = limited(COMPOSE_SECONDS, lambda: compose(case))
        except RecipeError as error:
            self.counts["refused"] += 1
            if problem := sentence_problem(str(error), *names):
                self.fail(f"{problem}: {str(error)[:2000]}", case)
        except Exception:  # no other error may occur
            self.fail(traceback.format_exc(), case)
        else:
            self.counts["accepted"] += 1
            for recipe, words in recipes:
                self.check(recipe, words, case, own, names)
        if (own / "ran").exists() or Path("ran").exists():
            self.fail("a file made code run", case)

    def fail(self, problem: str, case: Mutant) -> None:
        """Note a failure."""
        self.failures.append(f"{problem}\n--- {case}")

    def check(self, recipe: Recipe, words: list[str], case: Mutant, own: Path, names: tuple[str, ...]) -> None:
        """Read an accepted recipe back, build it, and run it if it is small."""
        plain = recipe.to_dict()
        again = recipe_from_dict(json.loads(json.dumps(plain)), "a record")
        if again.hash != recipe.hash or again != recipe:
            self.fail("it is another recipe when it is read back", case)
        if recipe.hash in self.known or len(self.known) == self.builds:
            return
        self.known.add(recipe.hash)
        try:
            limited(BUILD_SECONDS, lambda: check_recipe(recipe, None))
        except RecipeError as error:
            self.counts["infeasible"] += 1
            if problem := sentence_problem(str(error), *names, "model "):
                self.fail(f"check_recipe: {problem}: {error}", case)
            return
        except Exception:  # as above
            self.fail(traceback.format_exc(), case)
            return
        if self.counts["run"] == self.runs or not is_small(recipe):
            return
        code, errors = run_short(recipe, words, own)
        self.counts.update(["run", f"exit code {code}"])
        lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
        failed = code == 3 and len(lines) == 1 and ("diverged" in errors or "out of memory" in errors)
        refused = code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
        if code and not failed and not (refused and not sentence_problem(lines[0], *names, "data")):
            self.fail(f"the run {' '.join(words)} ended with {code}: {errors[-3000:]}", case)


def compose(case: Mutant) -> list[tuple[Recipe, list[str]]]:
    """The recipes that a damaged file leads to, each with the command-line options that ask for it.

    Raises:
        RecipeError: it is refused.
    """
    folder = str(case.path.parents[1])
    registry, own = Registry(folder), ["--recipes-dir", folder]
    if case.kind != "suites":
        recipe = registry.compose(case.recipe_id, case.protocol)
        return [(recipe, ["--recipe", recipe.id, "--protocol", case.protocol, *own])]
    suite = registry.suite(case.name)
    ids = suite.ids if len(suite.ids) < 20 else [*suite.ids[:3], *suite.ids[-3:]]
    return [
        (
            registry.compose(recipe_id, suite=suite, seed=suite.seeds[0]),
            ["--recipe", recipe_id, "--suite", suite.name, "--seed", str(suite.seeds[0]), *own],
        )
        for recipe_id in ids
    ]


def is_small(recipe: Recipe) -> bool:
    """Whether a run takes a second or two: the packaged digits, or files that do not exist."""
    if recipe.data.source not in ("packaged", "files"):
        return False
    for model in [part.model for part in (recipe, recipe.teacher) if part is not None]:
        tokens = (model.image_size / (model.patch_size or 16)) ** 2 if model.builder == "vit" else 1
        if model.builder not in ("vit", "resnet_cifar") or tokens > 100:
            return False
        if model.image_size > 40 or (model.width or 192) > 128 or (model.depth or 12) > 14:
            return False
    return True


class TooSlow(Exception):
    """A case took longer than a user would wait for a sentence."""


def limited(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of a call. Raises TooSlow if it computes longer, or waits for MAX_SECONDS."""

    def too_slow(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, MAX_SECONDS)}
    before = {number: signal.signal(number, too_slow) for number in timers}
    for timer, most in timers.values():
        signal.setitimer(timer, most)
    try:
        return call()
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def run_short(recipe: Recipe, words: list[str], folder: Path) -> tuple[int, str]:
    """Run a recipe for one epoch, its teacher first. Returns the exit code and stderr."""
    settings = ["train.epochs=1", "train.checkpoint_seconds=9999", "train.compile=off"]
    if (recipe.data.train_limit or 1000) > 96:
        settings.append("data.train_limit=96")
    if recipe.train.batch_size > 96:
        settings.append("train.batch_size=32")
    if recipe.teacher is not None:
        settings += ["teacher.train.epochs=1", "teacher.train.compile=off"]
        settings += ["teacher.train.batch_size=32"] if recipe.teacher.train.batch_size > 96 else []
        settings += ["teacher.data.train_limit=96"] if (recipe.teacher.data.train_limit or 0) > 96 else []
        settings += ["guidance.schedule.from_epoch=0"] if recipe.guidance.schedule.from_epoch else []
    options = [word for setting in settings for word in ("--set", setting)]
    words = [*words, *options, "--results-dir", str(folder / "results"), "--data-dir", str(folder)]
    if recipe.teacher is not None:  # otherwise a process would train it that has to import everything
        code, errors = run_forked([*words, "--teacher-only"], folder / "stderr")
        if code:
            return code, errors
    return run_forked(words, folder / "stderr")


def run_forked(words: list[str], log: Path) -> tuple[int, str]:
    """`bench/run.py` with these words, in a child of this process. Returns its exit code and stderr."""
    pid = os.fork()
    if not pid:
        for number, path in ((1, os.devnull), (2, log)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        # pytest has replaced them by files of its own
        sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace") for number in (1, 2))
        signal.setitimer(signal.ITIMER_PROF, RUN_SECONDS)
        signal.alarm(MAX_SECONDS)
        code = 70
        try:
            code = main(parser().parse_args(words))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 70
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--runs", type=int, default=10**9, help="of the accepted recipes, at most (all that are small)")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LOCALITY_BENCH_CACHE"] = str(Path(temporary, "cache"))
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        trials = Trials(Path(temporary), 10**9, arguments.runs)
        for number in range(arguments.cases):
            known = len(trials.failures)
            trials.trial(number, arguments.seed)
            for text in trials.failures[known:]:
                print(f"case {number} of seed {arguments.seed}: {text}\n", flush=True)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(trials.counts.items()))
    print(f"{arguments.cases} files: {counts}; {len(trials.failures)} failures")
    sys.exit(bool(trials.failures))

"""`python -m bench speed --methods`: the step time of every guidance method over that of the baseline.

Each method alternates with the baseline, since machines drift. On a CPU the time that the process computes is taken, in
which other load of the machine does not count; with one thread and no data workers it is the step time of an idle machine.
Two processes are alive at a time, so memory is bounded.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from bench.cli import base_suite
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import BASELINE
from bench.train.graph import WARM_UP_STEPS
from bench.train.speed_process import described, headline, say, seconds_per_step, turn_lengths, variant_process
from bench.train.speed_variant import Environment, Usage, Variant


@dataclass(frozen=True)
class MethodSpeed(Usage):
    """The median turn of a method.

    ms: per step; on a CPU, those that the process computes.
    ratio: of its step time to that of the baseline, and its range over turns.
    """

    ms: float
    ratio: float
    ratio_range: tuple[float, float]


@dataclass(frozen=True)
class MethodsReport:
    """All measurements.

    baseline: its recipe.
    methods: by name, the cheapest first; the baseline is among them.
    left_out: why a method is not measured, by name.
    """

    baseline: Recipe
    steps: int
    methods: dict[str, MethodSpeed]
    left_out: dict[str, str]
    environment: Environment

    def to_dict(self) -> dict[str, object]:
        """The measurements as JSON content."""
        methods = {name: dataclasses.asdict(speed) for name, speed in self.methods.items()}
        environment = dataclasses.asdict(self.environment)
        return {**described(self.baseline, self.steps), "methods": methods, "left_out": self.left_out, **environment}

    def lines(self) -> Iterator[str]:
        """The measurements as text."""
        yield from headline(self.baseline, self.methods[BASELINE], self.environment, self.steps)
        width = max(map(len, self.methods))
        ms = "CPU ms per step" if self.environment.hardware.device == "cpu" else "ms per step"
        yield f"  {'method':<{width}}  {ms:>15}  ratio to baseline, and range  peak MiB  parameters"
        for name, speed in self.methods.items():
            low, high = speed.ratio_range
            yield (
                f"  {name:<{width}} {speed.ms:>16,.1f}  {speed.ratio:>6.3f} ({low:.3f} to {high:.3f})"
                f" {speed.peak_memory_mib:>14,.0f} {speed.guidance_parameters:>11,}"
            )
        for name, problem in self.left_out.items():
            yield f"  {name} is left out: {problem}"


def recipes_of_methods(arguments: argparse.Namespace) -> dict[str, Recipe | RecipeError]:
    """The recipe of every guidance file for a student and dataset: the baseline, that of `--recipe`, then the others.

    The value is the error if a recipe is impossible with these settings. Recipes without a teacher ignore teacher keys.
    """
    registry = Registry(*arguments.recipes_dir)
    model, dataset, asked = registry.split(arguments.recipe)
    if asked is None:
        raise RecipeError(f"--methods: {arguments.recipe} is a teacher, which is not guided; name a student")
    if chosen := [text for text in arguments.set if text.startswith("guidance.method=")]:
        raise RecipeError(f"--set {chosen[0]}: goes without --methods, which measures every guidance file")
    suite = base_suite(arguments, registry).with_settings(arguments.set)
    recipes: dict[str, Recipe | RecipeError] = {}
    for name in dict.fromkeys((BASELINE, asked, *registry.names("guidance"))):
        try:
            recipes[name] = registry.compose(f"{model}/{dataset}/{name}", suite=suite)
        except RecipeError as error:
            if name in (BASELINE, asked):
                raise
            recipes[name] = error
    return recipes


def measure_methods(
    recipes: Mapping[str, Recipe | RecipeError],
    data_dir: str,
    synthetic: int | None,
    steps: int,
    asked: Callable[[], bool] = lambda: False,
) -> MethodsReport:
    """Time each method in turns with the baseline, and the steps of the first one in epochs without guidance.

    Args:
        recipes: from `recipes_of_methods`.
        synthetic, steps: as of `bench.train.speed.measure`.
        asked: whether a signal has asked to stop, since Python may lose the KeyboardInterrupt.

    Raises:
        RecipeError, RuntimeError: see `variant_process`. A method that cannot run, or that fails, is left out.
        KeyboardInterrupt: before a method was measured; later, the rest is left out.
    """
    methods = {name: recipe for name, recipe in recipes.items() if name != BASELINE}
    turns: dict[str, list[tuple[float, float]]] = {}  # seconds per step of a method, and of the baseline beside it
    usage: dict[str, Usage] = {}
    left_out: dict[str, str] = {}
    began, interrupted = time.monotonic(), False
    with variant_process(recipes[BASELINE], data_dir, synthetic) as baseline:
        say(f"{BASELINE}: ready")
        for number, (name, recipe) in enumerate(methods.items()):
            try:
                left = (time.monotonic() - began) / number * (len(methods) - number) if usage else None
                say(f"{name}, {number + 1} of {len(methods)}{'' if left is None else f', about {left / 60:.0f} min left'}")
                if isinstance(recipe, RecipeError):
                    raise recipe
                with variant_process(recipe, data_dir, synthetic) as own:
                    rows = {name: Variant.train}
                    if not usage:
                        rows[f"{name}, after its stop"] = Variant.train_unguided
                        own(Variant.timed, Variant.train_unguided, WARM_UP_STEPS)
                    for length in turn_lengths(steps):
                        beside = seconds_per_step(baseline, Variant.train, length, of_cpu=True)
                        for row, function in rows.items():
                            taken = seconds_per_step(own, function, length, of_cpu=True)
                            turns.setdefault(row, []).append((taken, beside))
                    usage |= dict.fromkeys(rows, own(Variant.usage))
            except (RecipeError, RuntimeError) as error:  # also of a process that was killed for want of memory
                left_out[name] = str(error)
            except KeyboardInterrupt:
                interrupted = True
            if interrupted or asked():
                if not usage:
                    raise KeyboardInterrupt
                left_out.pop(name, None)  # the signal may have ended its process too
                rest = (other for other in methods if other not in usage.keys() | left_out.keys())
                left_out |= dict.fromkeys(rest, "stopped before it was measured")
                break
        usage[BASELINE] = baseline(Variant.usage)
        environment = baseline(Variant.environment)
    if not usage.keys() - {BASELINE}:
        raise RuntimeError("no method could be measured: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    turns[BASELINE] = [(beside, beside) for own in turns.values() for _, beside in own]
    speeds = {name: _speed(turns[name], used) for name, used in usage.items()}
    by_cost = dict(sorted(speeds.items(), key=lambda item: item[1].ratio))
    return MethodsReport(recipes[BASELINE], steps, by_cost, left_out, environment)


def _speed(turns: list[tuple[float, float]], usage: Usage) -> MethodSpeed:
    ratios = [own / beside for own, beside in turns]
    ms = 1e3 * median(own for own, _ in turns)
    return MethodSpeed(**vars(usage), ms=ms, ratio=median(ratios), ratio_range=(min(ratios), max(ratios)))

"""Invented runs of whole suites, for the tests of everything that is drawn from records.

Recipes and hashes are real, so that `report --check` accepts the records; all numbers of a training are random. Some runs
diverge. In large suites one method diverges in all its runs, and one method and one cell have no runs. The GPU is called
"Synthetic GPU", so that nobody takes the records for results.

    python -m tests.helpers.synthetic paper 1000 FOLDER        # FOLDER/paper/records.jsonl
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench.config.names import split_id
from bench.config.numerics import numerics_versions
from bench.config.registry import Registry, shipped_recipes
from bench.config.schema import Recipe
from bench.config.suite import BASELINE, Suite, SuiteMethod
from bench.report.records import write_runs
from bench.runs.finished import FinishedRun, History
from bench.runs.folder import RunFolder
from bench.runs.record import (
    HISTORY_COLUMNS,
    Code,
    DatasetSummary,
    Hardware,
    HistoryRow,
    Precision,
    Record,
    TeacherSummary,
)

DIVERGING = 0.02  # share of the runs


def runs_of_suite(registry: Registry, suite: Suite, count: int, seed: int = 0) -> list[FinishedRun]:
    """`count` runs of a suite, in its order and that of the seeds, spread evenly over its recipes; repeatable by `seed`.

    In a suite of more than eight recipes, the last cell has no runs, nor has the last method of the cell before it; the
    baseline of the cell before those diverged with every seed.
    """
    recipes = {(recipe.id, recipe.hash): (one.variant, recipe) for one, recipe in reversed(registry.suite_recipes(suite))}
    entries = list(recipes.values())[::-1]  # of several variants with the same recipe the first
    diverged_id = None
    if len(entries) > 8 and not suite.vary:
        methods = len(suite.guidance)
        diverged_id = "/".join([*split_id(entries[-3 * methods][1].id)[:2], BASELINE])
        entries = entries[: -methods - 1]
    levels: dict[tuple[str, ...], _Level] = {}
    out = []
    for number, (variant, recipe) in enumerate(entries):
        cell = (*split_id(recipe.id)[:2], variant)
        if cell not in levels:
            levels[cell] = _Level(len(levels), np.random.default_rng([seed, len(levels)]))
        for run in range(count // len(entries) + (number < count % len(entries))):
            rng = np.random.default_rng([seed, number, run])
            diverged = recipe.id == diverged_id or rng.random() < DIVERGING
            out.append(_random_run(suite.name, recipe.with_seed(run), levels[cell], diverged, rng))
    return out


def quick_run(method: str, seed: int, accuracies: Sequence[float] = (80.0, 90.0), **changes: object) -> FinishedRun:
    """A run of the suite `quick`; arguments as of `make_run`."""
    registry = Registry()
    recipe = registry.compose(f"deit_micro/digits/{method}", suite=registry.suite("quick"), seed=seed)
    return make_run("quick", recipe, accuracies, **changes)


def three_seeds(**changes: object) -> list[FinishedRun]:
    """Three seeds of baseline and guided with gains of 10, 12 and 8 points; changes: of the records of guided."""
    baseline = [quick_run("baseline", seed, [last + 1, last]) for seed, last in enumerate((80.0, 82.0, 84.0))]
    guided = [quick_run("guided", seed, [last + 1, last], **changes) for seed, last in enumerate((90.0, 94.0, 92.0))]
    return baseline + guided


def varied_suite(folder: Path, text: str = "vary: {data.train_limit: [100, 1000]}") -> tuple[Registry, Suite]:
    """A suite like `quick` with further lines, `vary: …` for example, and the registry that has its file."""
    (folder / "suites").mkdir()
    lines = (shipped_recipes() / "suites" / "quick.yaml").read_text(encoding="utf-8")
    (folder / "suites" / "varied.yaml").write_text(f"{lines}{text}\n")
    registry = Registry(folder)
    return registry, registry.suite("varied")


def registry_with_methods(folder: Path, names: Sequence[str]) -> Registry:
    """The registry with further guidance methods, whose files are written to a folder."""
    (folder / "guidance").mkdir()
    for number, name in enumerate(names, 1):
        text = f"guidance: {{method: kd, params: {{temperature: {number}.0, alpha: 0.25}}}}\n"
        (folder / "guidance" / f"{name}.yaml").write_text(text)
    return Registry(folder)


def methods(*names: str) -> tuple[SuiteMethod, ...]:
    """The rows of a suite without keys of their own."""
    return tuple(map(SuiteMethod, names))


def make_run(
    suite: str,
    recipe: Recipe,
    accuracies: Sequence[float],
    *,
    diverged: bool = False,
    losses: Sequence[float] | None = None,
    **changes: object,
) -> FinishedRun:
    """A run of a recipe with these test accuracies in %, one per epoch, as near as whole numbers of test images allow.

    The last one is that of all later epochs too, unless the run diverged.

    Args:
        losses: of training, one per epoch.
        changes: fields of the record that shall differ.
    """
    dataset = changes.get("dataset") or DatasetSummary(
        _digest(recipe.data.name),
        recipe.data.classes or 10,
        recipe.data.train_images or 5000,
        10**6,  # of which every accuracy here is a whole number
        None,
        "holdout" if recipe.data.holdout else "test",
    )
    images, teacher = dataset.test_images, recipe.teacher
    rest = 0 if diverged else recipe.train.epochs - len(accuracies)
    accuracies = [*accuracies, *[accuracies[-1]] * rest]
    losses = None if losses is None else [*losses, *[losses[-1]] * rest]
    accuracies = [round(100 * round(value * images / 100) / images, 4) for value in accuracies]  # as training rounds them
    train_loss = [round(float(v), 6) for v in (losses if losses is not None else 4.5 * (1 - np.array(accuracies) / 100))]
    every, last = recipe.train.evaluate_every, len(accuracies)
    accuracies = [value if epoch % every == 0 or epoch == last else None for epoch, value in enumerate(accuracies, 1)]
    best = max(value for value in accuracies if value is not None)
    results = {"last_accuracy": accuracies[-1], "best_accuracy": best, "best_epoch": accuracies.index(best) + 1}
    record = Record(
        **{
            "id": recipe.id,
            "protocol": recipe.protocol,
            "seed": recipe.seed,
            "hash": recipe.hash,
            "diverged": diverged,
            **(dict.fromkeys(results) if diverged else results),
            "epochs": len(accuracies),
            "parameters": 304970,
            "flops_per_image": 10570496,
            "teacher": make_teacher(teacher) if teacher is not None else None,
            "dataset": dataset,
            "feature_maps": {},
            "precision": Precision("auto", "bf16"),
            "compile": "graphs",
            "world_size": 1,
            "hardware": Hardware("Synthetic GPU", "Synthetic CPU", 8),
            "seconds": 60.0,
            "images_per_second": 1000.0,
            "peak_memory_mib": 4096,
            "code": Code("0.0.0", _digest("synthetic")[:40], False),
            "numerics": numerics_versions(recipe),
            "libraries": {"python": "3.11.0", "torch": "0.0.0", "torchvision": "0.0.0", "timm": "0.0.0"},
            "recipe": recipe.to_dict(),
            "settings": [],
            "weights": None if diverged else _digest(f"{recipe.hash} {recipe.seed}"),
            **changes,
        }
    )
    epochs = range(record.epochs)
    history: History = {
        "epoch": [e + 1 for e in epochs],
        "lr": [round(recipe.train.lr * (1 + math.cos(math.pi * e / record.epochs)) / 2, 8) for e in epochs],
        "train_loss": [*train_loss[:-1], None] if diverged else train_loss,
        "guidance_loss": [round(0.2 + loss / 3, 6) if teacher is not None else None for loss in train_loss],
        "test_accuracy": accuracies,
        "images_per_second": [record.images_per_second] * record.epochs,
    }
    return FinishedRun(suite, record, history)


def finish(results: Path, run: FinishedRun, recipe: Recipe | None = None) -> RunFolder:
    """Leave a run as a finished one of this machine below a results folder. recipe: if it is not one of suite quick."""
    registry = Registry()
    recipe = recipe or registry.compose(run.record.id, suite=registry.suite("quick"))
    folder = RunFolder(results, recipe.with_seed(run.record.seed))
    folder.write_history(history_rows(run))
    folder.write_record(run.record)
    return folder


def make_teacher(recipe: Recipe, **changes: object) -> TeacherSummary:
    """The summary of a teacher's training; changes: fields that shall differ."""
    summary = TeacherSummary(
        f"{recipe.id.replace('/', '-')}-{recipe.hash[:16]}",
        recipe.id,
        recipe.hash,
        recipe.seed,
        recipe.select,
        last_accuracy=70.0,
        best_accuracy=70.5,
        epochs=recipe.train.epochs,
        seconds=1800.0,
    )
    return TeacherSummary(**{**asdict(summary), **changes})


def history_rows(run: FinishedRun) -> list[HistoryRow]:
    """The history of a run as `RunFolder.write_history` takes it."""
    return [
        dict(zip(HISTORY_COLUMNS, values, strict=True))
        for values in zip(*(run.history[name] for name in HISTORY_COLUMNS), strict=True)
    ]


class _Level:
    """How well the methods of a cell do. Guidance helps in most cells; of eight cells, it changes nothing in one and harms
    in one."""

    def __init__(self, number: int, rng: np.random.Generator) -> None:
        self.baseline = rng.uniform(48, 80)
        self.gain = {5: rng.uniform(-0.1, 0.1), 6: rng.uniform(-2.5, -1)}.get(number % 8, rng.uniform(3, 16))
        self.parameters = int(rng.uniform(3e6, 2.2e7))
        self.flops = rng.uniform(0.6e9, 1.2e10)
        self.images_per_second = rng.uniform(1500, 9000)


def _random_run(suite: str, recipe: Recipe, level: _Level, diverged: bool, rng: np.random.Generator) -> FinishedRun:
    guided = recipe.teacher is not None
    epochs = int(rng.integers(1, recipe.train.epochs)) if diverged else recipe.train.epochs
    final = level.baseline + guided * level.gain + rng.normal(0, 0.4)
    curve = _curve(np.arange(1, epochs + 1) / recipe.train.epochs, final, 0.08 if guided else 0.2, rng)
    rate = level.images_per_second * (0.8 if guided else 1.0) * rng.uniform(0.97, 1.03)
    return make_run(
        suite,
        recipe,
        curve,
        diverged=diverged,
        parameters=level.parameters,
        flops_per_image=level.flops,
        seconds=round(epochs * (recipe.data.train_images or 5000) / rate * 1.15, 1),
        images_per_second=round(rate, 1),
    )


def _curve(done: np.ndarray, final: float, pace: float, rng: np.random.Generator) -> list[float]:
    """Test accuracy in % by the share of the training that is done: it rises, and fluctuates less towards the end."""
    rise = (1 - np.exp(-done / pace)) / (1 - math.exp(-1 / pace))
    noise = rng.normal(0, 1, len(done)) * (0.15 + 1.6 * (1 - done) ** 2)
    return np.clip(1 + (final - 1) * rise + noise, 0, 100).tolist()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    name, count, folder = sys.argv[1:]
    registry = Registry()
    write_runs(runs_of_suite(registry, registry.suite(name), int(count)), folder, name)

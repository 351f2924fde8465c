"""Records of runs that never were: whole suites of them, for the tests of what is drawn from records.

Recipes and hashes are real, so that `gather.mismatches` accepts them; every number of a training is drawn. Some runs
diverge, one arm does in all its runs, one arm and one cell are missing. Their GPU is called "Synthetic GPU", so that nobody
takes them for results.

    python -m tests.synthetic paper 1000 FOLDER        # FOLDER/paper/records.jsonl
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.config.names import split_id
from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.storage import write_text
from bench.report import gather
from bench.config.schema import Recipe

DIVERGING = 0.02  # of the runs


def records(registry: Registry, suite: Suite, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` records of a suite, in its order and that of the seeds, shared out over its arms; the same for the same seed.

    Where the suite has more than eight arms, the last cell and the guided arm of the cell before it have not run, and the
    baseline of the cell before those diverged with every seed.
    """
    ids = suite.ids
    lost: list[str] = []
    if len(ids) > 8:
        lost, ids = ids[-6:-5], [*ids[:-3]]
    cells = dict.fromkeys(map(_cell, ids))
    level = {cell: _Level(number, np.random.default_rng([seed, number])) for number, cell in enumerate(cells)}
    out = []
    for number, recipe_id in enumerate(ids):
        recipe = registry.compose(recipe_id, suite=suite)
        content = recipe.to_dict()
        for run in range(count // len(ids) + (number < count % len(ids))):
            random = np.random.default_rng([seed, number, run])
            diverged = recipe_id in lost or random.random() < DIVERGING
            out.append(_record(recipe, content, run, level[_cell(recipe_id)], diverged, random))
    return out


def write(records: list[dict[str, Any]], results: str | Path, suite: str) -> None:
    """Where a report finds them."""
    write_text(gather.records_path(results, suite), "".join(json.dumps(record) + "\n" for record in records))


class _Level:
    """How well the arms of a cell do. Guidance helps most cells; every eighth it leaves as it is, every eighth it harms."""

    def __init__(self, number: int, random: np.random.Generator) -> None:
        self.baseline = random.uniform(48, 80)
        self.gain = {5: random.uniform(-0.1, 0.1), 6: random.uniform(-2.5, -1)}.get(number % 8, random.uniform(3, 16))
        self.parameters = int(random.uniform(3e6, 2.2e7))
        self.flops = random.uniform(0.6e9, 1.2e10)
        self.rate = random.uniform(1500, 9000)  # images/s


def _cell(recipe_id: str) -> tuple[str, ...]:
    return split_id(recipe_id)[:2]


def _record(
    recipe: Recipe, content: dict[str, Any], seed: int, level: _Level, diverged: bool, random: np.random.Generator
) -> dict[str, Any]:
    guided = recipe.teacher is not None
    epochs = int(random.integers(1, recipe.train.epochs)) if diverged else recipe.train.epochs
    end = level.baseline + guided * level.gain + random.normal(0, 0.4)
    curve = _curve(np.arange(1, epochs + 1) / recipe.train.epochs, end, 0.08 if guided else 0.2, random)
    rate = level.rate * (0.8 if guided else 1.0) * random.uniform(0.97, 1.03)
    images = recipe.data.train_images or 5000
    seconds = epochs * images / rate * 1.15
    accuracies = {"last_accuracy": curve[-1], "best_accuracy": max(curve), "best_epoch": curve.index(max(curve)) + 1}
    loss = 4.5 * (1 - np.array(curve) / 100)
    return {
        "schema": 1,
        "id": recipe.id,
        "protocol": recipe.protocol,
        "seed": seed,
        "hash": recipe.hash,
        "diverged": diverged,
        **(dict.fromkeys(accuracies) if diverged else accuracies),
        "epochs": epochs,
        "parameters": level.parameters,
        "flops_per_image": level.flops,
        "teacher": _teacher(recipe.teacher) if guided else None,
        "dataset": {
            "fingerprint": _digest(recipe.data.name),
            "classes": recipe.data.classes,
            "train_images": images,
            "test_images": recipe.data.test_images,
            "evaluated_on": "test",
        },
        "maps": {},
        "precision": {"asked": "auto", "used": "bf16"},
        "compile": "graphs",
        "world_size": 1,
        "hardware": {"device": "Synthetic GPU", "processor": "Synthetic CPU", "threads": 8},
        "seconds": round(seconds, 1),
        "images_per_second": round(rate, 1),
        "peak_memory_mib": 4096,
        "code": {"version": "0.0.0", "commit": _digest("synthetic")[:40], "dirty": False},
        "libraries": {"python": "3.11.0", "torch": "0.0.0", "torchvision": "0.0.0", "timm": "0.0.0"},
        "recipe": {**content, "seed": seed},
        "set": [],
        "history": {
            "epoch": list(range(1, epochs + 1)),
            "lr": [round(recipe.train.lr * (1 + math.cos(math.pi * e / epochs)) / 2, 8) for e in range(epochs)],
            "train_loss": _rounded(loss, 6)[: epochs - diverged] + [None] * diverged,
            "guidance_loss": _rounded(0.2 + loss / 3, 6) if guided else [None] * epochs,
            "test_accuracy": curve,
            "images_per_second": _rounded(rate * random.uniform(0.98, 1.02, epochs), 1),
        },
    }


def _curve(done: np.ndarray, end: float, pace: float, random: np.random.Generator) -> list[float]:
    """Test accuracy in % by the share of the training that is done: it rises at a pace, wanders, and calms down."""
    rise = (1 - np.exp(-done / pace)) / (1 - math.exp(-1 / pace))
    wander = random.normal(0, 1, len(done)) * (0.15 + 1.6 * (1 - done) ** 2)
    return _rounded(np.clip(1 + (end - 1) * rise + wander, 0, 100), 4)


def _teacher(recipe: Recipe) -> dict[str, Any]:
    summary = {"id": recipe.id, "hash": recipe.hash, "seed": recipe.seed, "select": recipe.select}
    numbers = {"last_accuracy": 70.0, "best_accuracy": 70.5, "epochs": recipe.train.epochs, "seconds": 1800.0}
    return {"key": f"{recipe.id.replace('/', '-')}-{recipe.hash[:16]}", **summary, **numbers}


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    name, count, folder = sys.argv[1:]
    everything = Registry()
    write(records(everything, everything.suite(name), int(count)), folder, name)

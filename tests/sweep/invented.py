"""Invented records of the suite quick, whose images are the real ones."""

from __future__ import annotations

import dataclasses

from bench.config.schema import Recipe
from bench.data.store import current_fingerprint
from bench.locks import cache_folder
from bench.runs.record import Hardware, Record
from bench.storage import write_json
from tests.helpers.synthetic import make_run


def record_of(recipe: Recipe, *, diverged: bool = False, **changes: object) -> Record:
    """The record of a run with one thread that ends at 89.44 %; changes: fields that shall differ."""
    hardware = Hardware("cpu", "Synthetic CPU", 1)
    changes = {"hardware": hardware, "teacher": None, **changes}
    record = make_run("quick", recipe, [89.44] * recipe.train.epochs, diverged=diverged, **changes).record
    dataset = dataclasses.replace(record.dataset, fingerprint=current_fingerprint(recipe.data, "data"))
    return dataclasses.replace(record, dataset=dataset)


def cache_teacher(recipe: Recipe) -> None:
    """Put the record of a trained teacher into the cache."""
    folder = cache_folder() / "teachers" / f"{recipe.model.name}-{recipe.data.name}-0123456789abcdef"
    write_json(folder / "record.json", record_of(recipe).to_dict())

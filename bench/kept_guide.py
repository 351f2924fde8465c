"""Trained guides in the cache: each trained once for its recipe, seed and dataset, then shared by all runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.cache import cache_folder
from bench.records import RunFolder, read_json, replacing, sha256, write_json
from bench.schema import Recipe


class KeptGuide:
    """A trained guide's place in the cache.

    The key is the guide's recipe hash, its seed and the fingerprint of the decoded dataset: two copies of a dataset that
    differ in one pixel never share a guide.
    """

    def __init__(self, recipe: Recipe, fingerprint: str) -> None:
        key = hashlib.sha256(f"{recipe.hash} {recipe.seed} {fingerprint}".encode()).hexdigest()[:16]
        self.recipe = recipe
        self.folder = cache_folder() / "guides" / f"{recipe.model.name}-{recipe.data.name}-{key}"

    @property
    def key(self) -> str:
        """What guided records name their guide by."""
        return self.folder.name

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    def exists(self) -> bool:
        """Whether the guide is trained and whole: its record is written last, and has the checksum of its weights."""
        try:
            return self.record()["weights"] == sha256(self.weights)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def record(self) -> dict[str, Any]:
        """The record of the guide's own training."""
        return json.loads((self.folder / "record.json").read_text(encoding="utf-8"))

    def keep(self, run: RunFolder) -> None:
        """Copy a finished training run of this guide into the cache."""
        with replacing(self.weights) as temporary:
            shutil.copyfile(run.weights, temporary)
        write_json(self.folder / "record.json", run.record(self.recipe))


def kept_record(recipe: Recipe) -> dict[str, Any] | None:
    """The record of a kept guide of this recipe and seed, whichever pixels it was trained on; None where there is none.

    To know whether it is the one that a run will want takes the decoded dataset, which a plan does without.
    """
    for path in (cache_folder() / "guides").glob(f"{recipe.model.name}-{recipe.data.name}-*/record.json"):
        with suppress(OSError, ValueError):
            record = read_json(path)
            if isinstance(record, dict) and (record.get("hash"), record.get("seed")) == (recipe.hash, recipe.seed):
                return record
    return None

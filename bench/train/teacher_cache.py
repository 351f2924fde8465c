"""Trained teachers in the cache. Each is trained once for its recipe, seed and dataset, and all runs share it.

One that is read from a file is copied here, so that its runs can be analysed when the file has gone.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

from bench.config.names import path_part
from bench.config.numerics import numerics_versions
from bench.config.schema import Recipe, RecipeError
from bench.config.teacher_file import WEIGHTS
from bench.locks import cache_folder
from bench.runs.folder import RunFolder
from bench.runs.record import Record, read_record, stale_parts
from bench.storage import replacing, sha256, write_json


def _folder_name(recipe: Recipe) -> str:
    return f"{path_part(recipe.model.name)}-{path_part(recipe.data.name)}"


class TeacherCache:
    """The place of a trained teacher in the cache.

    The key is the teacher's recipe hash, seed and numerics versions and the fingerprint of the dataset. So changed code
    trains a new one, and two copies of a dataset that differ in one pixel never share one.
    """

    def __init__(self, recipe: Recipe, fingerprint: str) -> None:
        identity = f"{recipe.hash} {recipe.seed} {fingerprint} {numerics_versions(recipe)}"
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.recipe = recipe
        self.folder = cache_folder() / "teachers" / f"{_folder_name(recipe)}-{key}"

    @property
    def key(self) -> str:
        """The name of the teacher in records."""
        return self.folder.name

    @property
    def weights(self) -> Path:
        """The teacher's weights, a safetensors file."""
        return self.folder / WEIGHTS

    def exists(self) -> bool:
        """Whether the teacher is here and complete: the record is written last and has the checksum of the weights."""
        try:
            return (self.recipe.sha256 or self.record().weights) == sha256(self.weights)
        except (OSError, RecipeError):
            return False

    def record(self) -> Record:
        """The record of the teacher's own training. There is none of a teacher that is read from a file."""
        return read_record(self.folder / "record.json")

    def add_file(self, path: Path) -> None:
        """Copy the weights of this teacher into the cache."""
        with replacing(self.weights) as temporary:
            shutil.copyfile(path, temporary)

    def add(self, run: RunFolder) -> None:
        """Copy a finished run of this teacher into the cache."""
        self.add_file(run.weights)
        write_json(self.folder / "record.json", run.record(self.recipe).to_dict())


def cached_weights(key: str) -> Path:
    """The place of the weights of the teacher that records call `key`, also of one that other code has trained."""
    return cache_folder() / "teachers" / Path(key).name / WEIGHTS


def cached_teacher_record(recipe: Recipe) -> Record | None:
    """The record of a cached teacher of this recipe, seed and code, for any copy of the dataset; None if there is none.

    Whether it is the one that a run will use depends on the decoded dataset, which planning does not open.
    """
    for path in (cache_folder() / "teachers").glob(f"{_folder_name(recipe)}-*/record.json"):
        with suppress(OSError, RecipeError):
            record = read_record(path)
            is_same = (record.hash, record.seed) == (recipe.hash, recipe.seed) and not stale_parts(record, recipe)
            if is_same and path.with_name(WEIGHTS).is_file():
                return record
    return None

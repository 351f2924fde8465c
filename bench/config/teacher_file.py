"""The file of a trained teacher that a recipe names: `teacher.weights`, checked against `teacher.sha256`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.config.parse import SourcedValue, fail_at, short_repr
from bench.config.schema import TRAINING_KEYS, RecipeError
from bench.storage import sha256

WEIGHTS = "model.safetensors"


def find_teacher_file(weights: str, checksum: str | None) -> Path:
    """The file that `teacher.weights` names: itself or, in a folder (an export, a run), its model.safetensors.

    Args:
        checksum: the SHA-256 that it must have, hex; None accepts any.

    Raises:
        RecipeError: it is not here, cannot be read, or is another file.
    """
    place = os.path.expanduser(weights)
    path = Path(place, WEIGHTS) if os.path.isdir(place) else Path(place)
    if not os.path.isfile(path):  # also answers for names that no file can have
        raise RecipeError(
            f"teacher.weights: {path} is not here: name the file {WEIGHTS} of a trained teacher, or the folder that has it"
        )
    try:
        found = sha256(path)
    except OSError as error:
        raise RecipeError(f"teacher.weights: {path} cannot be read ({error.strerror})") from None
    if checksum not in (None, found):
        raise RecipeError(
            f"teacher.weights: {path} has the SHA-256 {found}, and teacher.sha256 is {checksum}: it is damaged, or another"
            " teacher"
        )
    return path


def check_teacher_keys(keys: Mapping[str, SourcedValue]) -> bool:
    """Whether the keys under `teacher.`, given without that prefix, name a file.

    Raises:
        RecipeError: only one of `weights` and `sha256` is given, or `sha256` is not a SHA-256 in hex.
    """
    weights, checksum = (given.value if (given := keys.get(name)) else None for name in ("weights", "sha256"))
    if weights is None and checksum is None:
        return False
    if weights is None:
        fail_at(keys["sha256"], "needs teacher.weights, the file that has it")
    if checksum is None:
        found = sha256(find_teacher_file(str(weights), None))
        fail_at(keys["weights"], f"needs teacher.sha256; that of this file is {found}")
    if not re.fullmatch("[0-9a-f]{64}", str(checksum)):
        fail_at(keys["sha256"], f"got {short_repr(checksum)}, allowed are 64 digits of 0-9 and a-f")
    return True


def refuse_training_keys(keys: Iterable[SourcedValue]) -> None:
    """Raise RecipeError for keys that would train a teacher which is read from a file."""
    for given in keys:
        if given.path.startswith("teacher.") and given.path.removeprefix("teacher.") in TRAINING_KEYS:
            fail_at(given, "the teacher is read from teacher.weights, so this would change nothing")

"""What a run leaves behind, and where: record.json, history.csv, status.json in a folder named by recipe, hash and seed.

A finished run is one whose folder holds a record. Every file appears whole or not at all.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.recipes import split_id
from bench.schema import Recipe, RecipeError

SCHEMA = 1
HISTORY_COLUMNS = ("epoch", "lr", "train_loss", "guidance_loss", "test_accuracy", "images_per_second")


# A full disk, a full quota, a file larger than the system allows, a disk that cannot be written.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def no_room(error: BaseException) -> bool:
    """Whether an error is that nothing more can be written."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced to disk, when the block ends without an error. An OSError
    names the path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say to which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write a whole file at once; readers see the old or the new content, never a part."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for part in parts:
            file.write(part)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`content` as readable JSON; a number that JSON has no word for (NaN) is refused with ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Of a file's content, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What tables and curves are drawn from, with the types that a record must have there.
_RECORD = {
    **{"id": str, "seed": int, "hash": str, "epochs": int, "world_size": int},
    **{"seconds": float, "images_per_second": float, "hardware": dict, "precision": dict},
}
# What a run that diverged does not have.
_ACCURACIES = {"last_accuracy": float, "best_accuracy": float, "best_epoch": int}


def check_record(record: Any, where: str) -> None:
    """Raise RecipeError, naming `where`, unless `record` has what tables are drawn from."""
    if not isinstance(record, dict):
        raise RecipeError(f"{where}: not a record")
    if not isinstance(record.get("diverged", False), bool):  # records of before there was the word have it not
        raise RecipeError(f"{where}: not a record: diverged is {record['diverged']!r}")
    wanted = _RECORD if record.get("diverged") else _RECORD | _ACCURACIES
    for name, kind in wanted.items():
        value = record.get(name)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise RecipeError(f"{where}: not a record: {name} is {value!r}")


class RunFolder:
    """`<results>/runs/<recipe id>/<first 8 of the hash>-seed<k>/`, with each part of the id percent-encoded so that no id
    reaches outside the results folder."""

    def __init__(self, results: str | Path, recipe: Recipe) -> None:
        parts = split_id(recipe.id, recipe.model.role)
        parts = [urllib.parse.quote(part, safe="").replace(".", "%2E") for part in parts]
        self.path = Path(results, "runs", *parts, f"{recipe.hash[:8]}-seed{recipe.seed}")

    @property
    def weights(self) -> Path:
        """The trained network under its own parameter names."""
        return self.path / "model.safetensors"

    def has_weights_of(self, record: Mapping[str, Any]) -> bool:
        """Whether the weights here are those that a record was written with, by their checksum."""
        return self.weights.is_file() and sha256(self.weights) == record.get("weights")

    @property
    def diverged_weights(self) -> Path:
        """The network as it was when its loss was no finite number any more, under a name that nobody takes for a model."""
        return self.path / "diverged.safetensors"

    @property
    def guidance_weights(self) -> Path:
        """What guidance trained beside the student (the projections), so that a run can be continued or looked into."""
        return self.path / "guidance.safetensors"

    @property
    def predictions(self) -> Path:
        """The class that the kept weights gave each image of the evaluated part, in its order: [images] int64."""
        return self.path / "predictions.npy"

    @property
    def log(self) -> Path:
        """What a sweep's run printed."""
        return self.path / "log.txt"

    def record(self, recipe: Recipe) -> dict[str, Any] | None:
        """The record of a finished run of exactly this recipe and seed, or None. Raises RecipeError for a damaged one."""
        path = self.path / "record.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path}: cannot be read ({type(error).__name__}): set it aside to run again") from None
        check_record(record, str(path))
        return record if record["hash"] == recipe.hash and record["seed"] == recipe.seed else None

    def write_record(self, record: Mapping[str, Any]) -> None:
        """The last thing a run does: from here on it is finished."""
        write_json(self.path / "record.json", record)

    def history(self) -> list[dict[str, float | None]]:
        """The rows of history.csv; an empty cell is None. Raises RecipeError where it is no history."""
        path = self.path / "history.csv"
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [
                    {k: None if row[k] == "" else float(row[k]) for k in HISTORY_COLUMNS} for row in csv.DictReader(file)
                ]
            if not rows:
                raise ValueError
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"{path}: not the history of a run ({type(error).__name__})") from None
        return [{**row, "epoch": int(row["epoch"])} for row in rows]

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """history.csv, a row an epoch; epochs count from 1 and a column without a value stays empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / "history.csv", text.getvalue())

    def status(self) -> dict[str, Any]:
        """How the run stands: state (running, done, diverged, failed, stopped), epoch, epochs, and the error. Empty: not
        begun."""
        try:
            return json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def write_status(self, state: str, **more: Any) -> None:
        """status.json. A launcher garbles exit codes; this file is how a sweep learns what became of a run."""
        write_json(self.path / "status.json", {"state": state, "pid": os.getpid(), "time": round(time.time(), 1), **more})

    @property
    def is_recorded(self) -> bool:
        """Whether a run has finished here, of whichever recipe."""
        return (self.path / "record.json").exists()

    def check_writable(self) -> None:
        """Raise RecipeError at once where a run could not leave its record here hours later."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RecipeError(f"--results-dir: {self.path} cannot be written ({error.strerror})") from error

    def drop_unfinished(self) -> None:
        """Remove what a process that was killed while it wrote has left. Only who alone runs here may call this."""
        for temporary in self.path.glob(".*.tmp"):
            temporary.unlink()

    def archive(self) -> None:
        """Set a finished run aside, never overwritten: its folder gets the next free number."""
        if self.path.exists():
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.old{number}")).exists():
                number += 1
            os.rename(self.path, aside)

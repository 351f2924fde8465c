"""What a run leaves behind, and where: record.json, history.csv, status.json in a folder named by recipe, hash and seed.

A finished run is one whose folder holds a record. Every file appears whole or not at all.
"""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import socket
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.reading import shown
from bench.recipes import split_id
from bench.schema import Recipe, RecipeError

SCHEMA = 1
HISTORY_COLUMNS = ("epoch", "lr", "train_loss", "guidance_loss", "test_accuracy", "images_per_second")


# A full disk, a full quota, a file larger than the system allows, a disk that cannot be written.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def no_room(error: BaseException) -> bool:
    """Whether an error is that nothing more can be written."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def unwritable(error: BaseException) -> str | None:
    """The sentence to say where an error is that a folder or a file cannot be written; None for other errors."""
    if isinstance(error, PermissionError) or no_room(error):
        return f"{error.filename} cannot be written: {error.strerror}"
    return None


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced to disk, when the block ends without an error. An OSError
    names the path. sync: False for what is quickly made again, and many files."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say to which file
        raise
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, *parts: bytes | memoryview, sync: bool = True) -> None:
    """Write a whole file at once; readers see the old or the new content, never a part. sync: see `replacing`."""
    with replacing(path, sync) as temporary, open(temporary, "wb") as file:
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


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
# Where there is none of these, all is well: numbers with large exponents or of hundreds of digits, escaped characters.
_SUSPECT = re.compile(r"\d[eE]\+?\d{3,}(?:[\s,\]}]|$)|\d{200}|\\u")


def from_json(text: str) -> Any:
    """What a JSON text holds; raises ValueError for what is none, and for what could not be written again: NaN, numbers
    beyond those of floats, halves of characters."""
    try:
        content = _DECODER.decode(text)
        if _SUSPECT.search(text):
            json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        return content
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises OSError or ValueError."""
    return from_json(path.read_text(encoding="utf-8"))


# What tables and curves are drawn from, with the types that a record must have there.
_RECORD = {
    **{"id": str, "seed": int, "hash": str, "epochs": int, "world_size": int},
    **{"seconds": float, "images_per_second": float},
    **{"hardware": {"device": str}, "precision": {"used": str}},
}
# What records of earlier versions of the suite may lack.
_OPTIONAL = {
    "parameters": int,
    "flops_per_image": float,
    "peak_memory_mib": float,
    "code": dict,
    "libraries": dict,
    "set": list,
}
# What a run that diverged does not have.
_ACCURACIES = {"last_accuracy": float, "best_accuracy": float, "best_epoch": int}
_CPU = {"processor": str, "threads": int}
_GUIDE = {"key": str, "id": str, "seed": int, "select": str, "epochs": int, "seconds": float}


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def check_record(record: Any, where: str) -> None:
    """Raise RecipeError, naming `where`, unless `record` has what tables are drawn from."""
    _check(record, _RECORD, where)
    _check(record, {name: kind for name, kind in {"diverged": bool, **_OPTIONAL}.items() if name in record}, where)
    if record.get("diverged"):
        if any(record.get(name) is not None for name in _ACCURACIES):
            raise RecipeError(f"{where}: not a record: it diverged and has accuracies")
    else:
        _check(record, _ACCURACIES, where)
        for name in ("last_accuracy", "best_accuracy"):
            if not 0 <= record[name] <= 100:
                raise RecipeError(f"{where}: not a record: {name} is {shown(record[name])}")
    for name in ("epochs", "world_size"):
        if record[name] < 1:
            raise RecipeError(f"{where}: not a record: {name} is {shown(record[name])}")
    if record["hardware"]["device"] == "cpu":
        _check(record["hardware"], _CPU, where, "hardware.")
    if (guide := record.get("guide")) is not None:
        _check(guide, _GUIDE, where, "guide.")
        _check(guide, {f"{guide['select']}_accuracy": float}, where, "guide.")
    if "dataset" in record:
        said = record["dataset"] if isinstance(record["dataset"], dict) else {"fingerprint": None}
        _check(said, {name: str for name in ("fingerprint", "evaluated_on") if name in said}, where, "dataset.")


def _check(content: Any, types: Mapping[str, Any], where: str, prefix: str = "") -> None:
    if not isinstance(content, dict):
        raise RecipeError(f"{where}: not a record{f': {prefix[:-1]} is {shown(content)}' if prefix else ''}")
    for name, kind in types.items():
        value = content.get(name)
        if isinstance(kind, dict):
            _check(value, kind, where, f"{prefix}{name}.")
        elif not (is_number(value) if kind is float else type(value) is kind):
            raise RecipeError(f"{where}: not a record: {prefix}{name} is {shown(value)}")


@functools.lru_cache(4096)  # all seeds of a recipe have the same
def _folder_names(recipe_id: str, role: str) -> list[str]:
    parts = [urllib.parse.quote(part, safe="").replace(".", "%2E") for part in split_id(recipe_id, role)]
    if max(map(len, parts)) > 200:  # a file's name has 255 bytes, and locks and temporary files add to it
        raise RecipeError(f"recipe {recipe_id!r}: its names are too long for a folder's")
    return parts


class RunFolder:
    """`<results>/runs/<recipe id>/<first 8 of the hash>-seed<k>/`, with each part of the id percent-encoded so that no id
    reaches outside the results folder."""

    def __init__(self, results: str | Path, recipe: Recipe) -> None:
        parts = _folder_names(recipe.id, recipe.model.role)
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
    def trackers(self) -> Path:
        """What local trackers write, TensorBoard's events among them."""
        return self.path / "trackers"

    @property
    def log(self) -> Path:
        """What a sweep's run printed."""
        return self.path / "log.txt"

    def record(self, recipe: Recipe) -> dict[str, Any] | None:
        """The record of a finished run of exactly this recipe and seed, or None. Raises RecipeError for a damaged one."""
        path = self.path / "record.json"
        try:
            record = read_json(path)
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
            if not rows or not all(math.isfinite(value) for row in rows for value in row.values() if value is not None):
                raise ValueError
            return [{**row, "epoch": int(row["epoch"]), "test_accuracy": float(row["test_accuracy"])} for row in rows]
        except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
            raise RecipeError(f"{path}: not the history of a run ({type(error).__name__})") from None

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """history.csv, a row an epoch; epochs count from 1 and a column without a value stays empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / "history.csv", text.getvalue())

    def status(self) -> dict[str, Any]:
        """How the run stands: state (running, done, diverged, failed, stopped), epoch, epochs, accuracy and speed of the
        last epoch, the error, and the process that said so. Empty: not begun, or damaged."""
        try:
            status = read_json(self.path / "status.json")
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, state: str, **more: Any) -> None:
        """status.json. A launcher garbles exit codes; this file is how a sweep learns what became of a run."""
        told = {"state": state, "host": socket.gethostname(), "pid": os.getpid(), "time": round(time.time(), 1), **more}
        write_json(self.path / "status.json", told)

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

    def drop_checkpoints(self) -> None:
        """Remove those that a run left which was killed between its record and their removal. Only of a recorded run."""
        with suppress(OSError):  # they do no harm
            for path in self.path.glob("checkpoint-*.pt"):
                path.unlink(missing_ok=True)

    def archive(self) -> None:
        """Set a finished run aside, never overwritten: its folder gets the next free number."""
        if self.path.exists():
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}.old{number}")).exists():
                number += 1
            os.rename(self.path, aside)

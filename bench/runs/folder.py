"""The folder of a run: its record, history, status, weights and log.

A run is finished when its folder has a record. Every file appears whole or not at all.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import os
import re
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict, Unpack

from bench.config.names import path_part, split_id
from bench.config.parse import short_repr
from bench.config.schema import Recipe, RecipeError
from bench.runs.record import HistoryRow, Record, history_columns, read_record
from bench.storage import read_json, sha256, write_json, write_text

LOCAL = "local"  # below the results folder: what this machine's runs and reports write; git ignores it
MAX_PART_CHARS = 200  # file names have 255 bytes, and locks and temporary files add to them


class StatusDetails(TypedDict, total=False):
    """How far a run is, and its error."""

    epoch: int  # the last finished one, counted from 1
    epochs: int  # of the run
    test_accuracy: float | None  # of that epoch, as images_per_second; None if it was not evaluated
    images_per_second: float
    error: str


class Status(StatusDetails, total=False):
    """The content of status.json."""

    state: str  # running, done, diverged, failed or stopped
    host: str  # of the process that wrote it
    pid: int
    time: float


def runs_dir(results: str | Path) -> Path:
    """Where the runs of this machine are, below the results folder."""
    return Path(results, LOCAL, "runs")


def finished_runs(results: str | Path) -> list[Path]:
    """The folders of this machine's finished runs of students, without those that `--force` has renamed."""
    folders = (path.parent for path in runs_dir(results).glob("*/*/*/*/record.json"))
    return sorted(folder for folder in folders if re.fullmatch(r"[0-9a-f]{8}-seed\d+", folder.name))


@functools.lru_cache(4096)  # all seeds of a recipe share it
def _folder_names(recipe_id: str, role: str) -> list[str]:
    parts = [path_part(part) for part in split_id(recipe_id, role)]
    if not all(re.fullmatch(r"[A-Za-z0-9][\w.+-]*", part, re.ASCII) for part in parts):
        # from a record, for example: it may name any path
        raise RecipeError(f"recipe {short_repr(recipe_id)}: is not an id")
    if max(map(len, parts)) > MAX_PART_CHARS:
        raise RecipeError(f"recipe {recipe_id!r}: its names are too long for a folder")
    return parts


class RunFolder:
    """`<results>/local/runs/<recipe id>/<first 8 digits of the hash>-seed<k>/`."""

    def __init__(self, results: str | Path, recipe: Recipe) -> None:
        parts = _folder_names(recipe.id, recipe.model.role)
        self.path = path = runs_dir(results).joinpath(*parts, f"{recipe.hash[:8]}-seed{recipe.seed}")
        self.weights = path / "model.safetensors"  # the trained network under its own parameter names
        self.diverged_weights = path / "diverged.safetensors"  # the network when its loss stopped being finite
        self.guidance_weights = path / "guidance.safetensors"  # what guidance trained with the student (projections)
        self.predictions = path / "predictions.npy"  # of the stored weights for each evaluated image: [images] int64
        self.trackers = path / "trackers"  # files of local trackers, such as TensorBoard's events
        self.log = path / "log.txt"  # the output of a run that a sweep started

    def has_weights_of(self, record: Record) -> bool:
        """Whether the weights here are those of a record, by their checksum."""
        return self.weights.is_file() and sha256(self.weights) == record.weights

    def record(self, recipe: Recipe) -> Record | None:
        """The record of a finished run of exactly this recipe and seed, or None. Raises RecipeError for a damaged one."""
        try:
            record = read_record(self.path / "record.json")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return record if record.hash == recipe.hash and record.seed == recipe.seed else None

    def write_record(self, record: Record) -> None:
        """Write the record. The run is finished from here on."""
        write_json(self.path / "record.json", record.to_dict())

    def write_history(self, rows: Sequence[HistoryRow]) -> None:
        """Write history.csv, one row per epoch. Epochs count from 1; a column without a value stays empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, history_columns(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / "history.csv", text.getvalue())

    def status(self) -> Status:
        """The status of the run. Empty if the run has not begun or the file is damaged."""
        try:
            status = read_json(self.path / "status.json")
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, state: str, **details: Unpack[StatusDetails]) -> None:
        """Write status.json, from which a sweep learns how a run ended, since launchers change exit codes."""
        process = {"host": socket.gethostname(), "pid": os.getpid(), "time": round(time.time(), 1)}
        write_json(self.path / "status.json", {"state": state, **process, **details})

    @property
    def is_recorded(self) -> bool:
        """Whether a run has finished here, of any recipe."""
        return (self.path / "record.json").exists()

    def check_writable(self) -> None:
        """Raise RecipeError if the record could not be written here at the end."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RecipeError(f"--results-dir: {self.path} cannot be written ({error.strerror})") from error

    def drop_unfinished(self) -> None:
        """Remove temporary files of a killed process. Only the one process that runs here may call this."""
        for temporary in self.path.glob(".*.tmp"):
            temporary.unlink()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of a finished run that was killed before it could remove them."""
        with suppress(OSError):  # they are harmless
            for path in self.path.glob("checkpoint-*.pt"):
                path.unlink(missing_ok=True)

    def archive(self) -> None:
        """Rename the folder of a finished run to the next free number, so that it is never overwritten."""
        names = (f"{self.path.name}.old{number}" for number in itertools.count(1))
        old = next(path for path in map(self.path.with_name, names) if not path.exists())
        os.rename(self.path, old)
        with suppress(OSError):
            if os.path.samestat(os.fstat(1), os.stat(old / self.log.name)):  # a sweep's log, which this process writes
                self.path.mkdir()
                os.rename(old / self.log.name, self.log)

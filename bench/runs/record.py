"""The record of a finished run: a typed object, and JSON on disk.

`Record` is made in one place, bench/train/runner.py, and read here.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bench.config.numerics import differences, numerics_versions
from bench.config.parse import field_types, inner_type, short_repr
from bench.config.schema import Recipe, RecipeError
from bench.storage import is_number, read_json

RECORD_SCHEMA = 3
RunKey = tuple[str, str, int]  # recipe id, hash, seed
EMA_COLUMNS = ("raw_accuracy",)  # further columns of runs with `train.ema`
HISTORY_COLUMNS = ("epoch", "lr", "train_loss", "guidance_loss", "test_accuracy", "images_per_second")


class HistoryRow(TypedDict):
    """One epoch of a run, a row of history.csv.

    Losses are None if they were not finite or there was no guidance; accuracies are None if it was not evaluated
    (`train.evaluate_every`).
    """

    epoch: int
    lr: float
    train_loss: float | None
    guidance_loss: float | None
    test_accuracy: float | None
    images_per_second: float
    raw_accuracy: NotRequired[float | None]  # with `train.ema`: of the weights; test_accuracy is of their average


def history_columns(names: Iterable[str]) -> list[str]:
    """The columns of the history of a run, from the names that its rows have."""
    return [*HISTORY_COLUMNS, *(name for name in EMA_COLUMNS if name in names)]


@dataclass(frozen=True)
class TeacherSummary:
    """The teacher of a guided run."""

    key: str  # its name in the cache
    id: str
    hash: str
    seed: int | None  # None, as epochs and seconds: unknown, since its weights were read from a file
    select: str  # the epoch whose weights guide, "last" or "best"; "given": those of the file
    last_accuracy: float
    best_accuracy: float
    epochs: int | None
    seconds: float | None  # of its own training
    weights: str | None = None  # SHA-256 of its model.safetensors; None in records that do not have it

    @property
    def accuracy(self) -> float:
        """Test accuracy of the weights that guide, in %."""
        return self.best_accuracy if self.select == "best" else self.last_accuracy


@dataclass(frozen=True)
class DatasetSummary:
    """The images of a run."""

    fingerprint: str  # SHA-256 over pixels and labels, hex
    classes: int
    train_images: int
    test_images: int
    image_size: tuple[int, int] | None  # (height, width) in px, or None if sizes differ
    evaluated_on: str  # "test", "holdout" (held-out training images) or "share" (a part of a dataset without a test set)
    class_names: tuple[str, ...] | None = None  # in the order of the labels; None if the dataset does not name them
    largest_class: float | None = None  # share of the evaluated images; None in records that do not have it


@dataclass(frozen=True)
class GuidanceStop:
    """Where an adaptive schedule ended guidance."""

    epoch: int  # the last one with guidance, counted from 1
    slope: float  # smoothed change of the guidance loss per epoch
    relative_slope: float  # the same, divided by the loss of that epoch


@dataclass(frozen=True)
class Precision:
    """The precision that was asked for, "auto" for example, and the one that was used: fp32, bf16 or fp16."""

    asked: str
    used: str


@dataclass(frozen=True)
class Hardware:
    """What a run was computed on."""

    device: str  # the GPU's name, or "cpu"
    processor: str
    threads: int  # of the process, on a CPU

    def __str__(self) -> str:
        return f"{self.device}, {self.processor}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def per_process(self) -> tuple[int, str]:
        """What a process computes on: (1, "GPU"), or its threads and "core"."""
        return (self.threads, "core") if self.device == "cpu" else (1, "GPU")


@dataclass(frozen=True)
class Compilation:
    """What torch.compile and CUDA graphs made of the training steps, since the run was last started or resumed."""

    expected: int  # graphs of torch.compile: of the teacher, and of student and loss for each kind of step, guided or not
    found: int  # graphs of the step that were compiled; more than expected if graphs were split
    breaks: int  # places where torch.compile split a graph
    captured: int  # CUDA graphs
    fell_back: tuple[str, ...]  # what runs uncompiled, or without a CUDA graph, and why
    attention: str  # the kernel of scaled_dot_product_attention: cudnn, flash, efficient or math
    seconds: float  # that torch.compile took, of the augmentation too

    def __str__(self) -> str:
        out = f"{self.found} of {self.expected} graphs in {self.seconds:.0f} s, {self.breaks} breaks"
        out += f", {self.captured} CUDA graphs, attention by {self.attention}"
        return out + (f"; fell back: {'; '.join(self.fell_back)}" if self.fell_back else "")


@dataclass(frozen=True)
class Code:
    """The version of the suite; in a checkout also the commit, and whether files differed from it (results aside)."""

    version: str
    commit: str | None
    dirty: bool | None


@dataclass(frozen=True)
class Record:
    """A finished run."""

    id: str
    protocol: str
    seed: int
    hash: str
    diverged: bool
    last_accuracy: float | None  # of the test set, in %; None if the run diverged, as the next two
    best_accuracy: float | None
    best_epoch: int | None
    epochs: int  # that were trained
    parameters: int  # trainable ones of the network
    flops_per_image: float  # of a forward pass
    teacher: TeacherSummary | None
    dataset: DatasetSummary
    feature_maps: dict[str, object]  # (channels, height, width) by feature layer, for guided students
    precision: Precision
    compile: str  # "off", "default", "graphs" or "fell back"
    world_size: int  # number of processes
    hardware: Hardware
    seconds: float  # of training and evaluation, without interruptions
    images_per_second: float
    peak_memory_mib: float
    code: Code
    numerics: dict[str, object]  # versions of the components that were used, from `numerics_versions`
    libraries: dict[str, object]
    recipe: dict[str, Any]  # as `Recipe.to_dict` writes it
    settings: list[object]  # the `--set` options of the command
    weights: str | None = None  # SHA-256 of model.safetensors; None if the run diverged
    guidance_stop: GuidanceStop | None = None  # None: guidance was not adaptive, or it did not stop
    # With `train.ema`, all other accuracies and the weights are of the average; this is the last epoch's without it.
    raw_accuracy: float | None = None
    compilation: Compilation | None = None  # None on a CPU without compilation, and in records that do not have it

    @property
    def accuracy(self) -> float | None:
        """Test accuracy of the weights, in %: of the last epoch, or of the best one if the recipe, a teacher's, says so."""
        return self.best_accuracy if self.recipe.get("select") == "best" else self.last_accuracy

    @property
    def fell_back(self) -> bool:
        """Whether a part of it ran uncompiled, or without a CUDA graph, where it should not."""
        return self.compile == "fell back" or (self.compilation is not None and bool(self.compilation.fell_back))

    @property
    def environment(self) -> tuple[object, ...]:
        """What the numbers may depend on beside recipe, seed and code: hardware, threads, libraries and the like."""
        libraries = tuple(sorted((name, str(version)) for name, version in self.libraries.items()))
        return self.hardware, libraries, self.world_size, self.precision.used, self.compile

    def to_dict(self) -> dict[str, object]:
        """The record as JSON content."""
        return {"schema": RECORD_SCHEMA, **dataclasses.asdict(self)}


def run_key(run: Record | Recipe) -> RunKey:
    """What identifies the run of a record or recipe: two runs with one key should have one result."""
    return run.id, run.hash, run.seed


def accuracy_text(record: Record) -> str:
    """The accuracy of the weights as people read it, or "diverged"."""
    return "diverged" if record.diverged else f"{record.accuracy:.2f} %"


def read_record(path: Path) -> Record:
    """The record in a JSON file.

    Where history.csv lies beside it, as in the folder of a run, its accuracies must be those of the history.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        RecipeError: it cannot be read, or it is damaged, changed or of another version.
    """
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or type(error).__name__
        raise RecipeError(f"{path}: cannot be read ({problem}): move it away to run again") from None
    record, history = record_from_dict(content, str(path)), path.with_name("history.csv")
    if not record.diverged and history.exists():
        rows = read_history(history)
        if (record.last_accuracy, record.best_accuracy) != (rows[-1]["test_accuracy"], best_row(rows)["test_accuracy"]):
            raise RecipeError(
                f"{path}: changed: its last or best accuracy is not that of history.csv: move it away to run again"
            )
    return record


def best_row(history: list[HistoryRow]) -> HistoryRow:
    """The first epoch with the highest accuracy, of a history with one evaluated epoch at least."""
    return max((row for row in history if row["test_accuracy"] is not None), key=lambda row: row["test_accuracy"])


def read_history(path: Path) -> list[HistoryRow]:
    """The rows of a history.csv; an empty cell is None. Raises RecipeError if it is not a history."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = history_columns(reader.fieldnames or ())
            rows = [{k: None if row[k] == "" else float(row[k]) for k in columns} for row in reader]
        finite = all(math.isfinite(value) for row in rows for value in row.values() if value is not None)
        if not rows or rows[-1]["test_accuracy"] is None or not finite:
            raise ValueError
        return [{**row, "epoch": int(row["epoch"])} for row in rows]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise RecipeError(f"{path}: not the history of a run ({type(error).__name__})") from None


def record_from_dict(content: object, where: str) -> Record:
    """The record that `Record.to_dict` wrote, with all types checked.

    Args:
        where: the file, for errors.

    Raises:
        RecipeError: it is damaged, contradicts itself, or is of another version of the suite.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is int and schema != RECORD_SCHEMA:
        age, advice = "a later", "update the suite"
        if schema < RECORD_SCHEMA:
            age, advice = "an earlier", "move it away and run again; published records are then published anew"
        raise RecipeError(
            f"{where}: written by {age} version of the suite (schema {schema}, this one reads {RECORD_SCHEMA}): {advice}"
        )
    record = _read(Record, content, where)
    for name, low, high in (("last_accuracy", 0, 100), ("best_accuracy", 0, 100), ("best_epoch", 1, record.epochs)):
        value = getattr(record, name)
        if record.diverged and value is not None:
            raise RecipeError(f"{where}: not a record: it diverged and has accuracies")
        if not record.diverged and (value is None or not low <= value <= high):
            raise RecipeError(f"{where}: not a record: {name} is {short_repr(value)}")
    names, classes = record.dataset.class_names, record.dataset.classes
    if names is not None and len(names) != classes:
        raise RecipeError(f"{where}: not a record: dataset.class_names has {len(names)} names for {classes} classes")
    counts = {"epochs": record.epochs, "world_size": record.world_size, "dataset.test_images": record.dataset.test_images}
    for name, value in counts.items():
        if value < 1:
            raise RecipeError(f"{where}: not a record: {name} is {short_repr(value)}")
    return record


def _read(cls: type, content: object, where: str, prefix: str = "") -> Any:
    """A dataclass from JSON content; unknown keys are left aside, since later versions may add some."""
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: not a record{f': {prefix[:-1]} is {short_repr(content)}' if prefix else ''}")
    hints = field_types(cls)
    return cls(**{f.name: _value(hints[f.name], content.get(f.name), where, prefix + f.name) for f in fields(cls)})


def _value(hint: Any, value: object, where: str, path: str) -> Any:
    if (optional := inner_type(hint)) is not None:
        return None if value is None else _value(optional, value, where, path)
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, where, f"{path}.")
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        inner, fits = typing.get_args(hint), isinstance(value, list)
        if fits and inner[-1] is Ellipsis:
            inner = (inner[0],) * len(value)
        fits = fits and len(value) == len(inner) and all(type(v) is kind for v, kind in zip(value, inner, strict=True))
    else:
        fits = is_number(value) if kind is float else type(value) is kind
        fits = fits and (kind is not int or abs(value) < 2**63)  # larger ones do not fit a column of a frame
    if not fits:
        raise RecipeError(f"{where}: not a record: {path} is {short_repr(value)}")
    return tuple(value) if kind is tuple else value


def check_same_images(record: Record, fingerprint: str | None) -> None:
    """Raise RecipeError if a record is of other images than its dataset has now, which the recipe's hash does not cover.

    Args:
        fingerprint: of the dataset now; None if it is not here, and the record is accepted.
    """
    then = record.dataset.fingerprint
    if fingerprint is not None and fingerprint != then:
        raise RecipeError(
            f"{record.id} seed {record.seed} is recorded for other images (fingerprint {then[:8]}, now {fingerprint[:8]}):"
            " bench/run.py --force keeps the old run under another name and runs again"
        )


def stale_parts(record: Record, recipe: Recipe) -> list[str]:
    """The components whose numerics version has changed since a record was made, as "guidance.kd 1, now 2".

    A user's own file that is not here is left out.

    Args:
        recipe: the record's, as it is composed now.
    """
    return differences(record.numerics, numerics_versions(recipe))

"""Tidy frames of finished runs: one row per run, and one row per epoch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.cli import count
from bench.config.names import split_id
from bench.config.suite import SuiteEntry
from bench.runs.finished import FinishedRun
from bench.runs.record import HISTORY_COLUMNS, Record

CELL = ["model", "dataset", "variant"]  # name a cell: a student on a dataset, with the suite's varied values
METHOD = [*CELL, "method"]  # those that name a recipe of a suite
RUN = [*METHOD, "seed"]  # those that name a run

_MAY_BE_MISSING = {  # columns of `runs_frame` whose type would depend on the runs
    **dict.fromkeys(("last_accuracy", "best_accuracy", "raw_accuracy", "teacher_accuracy", "teacher_seconds"), "float64"),
    "largest_class": "float64",
    **dict.fromkeys(("best_epoch", "teacher_seed", "teacher_epochs", "guidance_stop_epoch"), "Int64"),
    **dict.fromkeys(("teacher_key", "teacher_id", "teacher_select", "commit"), "str"),
    "dirty": "boolean",
}
_NO_COLUMNS = [  # fields of a record
    *("recipe", "feature_maps", "teacher", "hardware", "code", "image_size"),
    *("weights", "class_names", "guidance_stop", "compilation"),
]


def runs_frame(placed: Sequence[tuple[FinishedRun, SuiteEntry]]) -> pd.DataFrame:
    """One row per run, in their order. placed: runs, at least one, each with its entry of the suite.

    The columns are the fields of `Record`, its hardware, code and dataset (see bench/runs/record.py) but _NO_COLUMNS, and:

    suite, model, dataset, method: the names in the id; method is the label of the entry.
    variant: the varied keys with their values, "" in a suite that varies nothing.
    precision: the one that was used.
    machine: the hardware and precision in words. device_hours: of the run, in device_unit, "GPU-hours" or "core-hours".
    fell_back: whether a part ran uncompiled where it should not, see `Compilation`.
    guidance_stop_epoch: the last epoch with guidance, missing unless an adaptive schedule ended it.
    teacher_*: fields of `TeacherSummary`, missing without a teacher. teacher_accuracy: of the weights that guide, in %.
    """
    return pd.DataFrame([_run_row(run, entry) for run, entry in placed]).drop(columns=_NO_COLUMNS).astype(_MAY_BE_MISSING)


def curves_frame(frame: pd.DataFrame, runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Some columns of `runs_frame` with one row per run and epoch, and HISTORY_COLUMNS. runs: those of the frame's rows."""
    history = {name: [run.history[name] for run in runs] for name in HISTORY_COLUMNS}
    curves = frame.assign(**history).explode(list(HISTORY_COLUMNS), ignore_index=True)
    return curves.astype({**dict.fromkeys(HISTORY_COLUMNS, "float64"), "epoch": "int64"})


def guidance_of(method: str) -> str:
    """The name of the guidance in the label of a method: "kd" of "kd alpha=0.5"."""
    return method.partition(" ")[0]


def machine(record: Record) -> str:
    """The hardware of a run and its precision, in words."""
    name = record.hardware.device
    if name == "cpu":
        name = f"{record.hardware.processor}, {count(record.hardware.threads, 'thread')}"
    return f"{record.world_size} x {name}, {record.precision.used}"


def _run_row(run: FinishedRun, entry: SuiteEntry) -> dict[str, object]:
    record = run.record
    model, dataset, _ = split_id(record.id)
    devices, unit = record.hardware.per_process
    of_teacher = ("key", "id", "accuracy", "seconds", "seed", "epochs", "select")
    return {
        **vars(record),
        **vars(record.hardware),
        **vars(record.code),
        **vars(record.dataset),
        **{f"teacher_{name}": getattr(record.teacher, name, None) for name in of_teacher},
        "guidance_stop_epoch": getattr(record.guidance_stop, "epoch", None),
        "suite": run.suite,
        "model": model,
        "dataset": dataset,
        "variant": entry.variant,
        "method": entry.method,
        "precision": record.precision.used,
        "machine": machine(record),
        "fell_back": record.fell_back,
        "device_hours": record.seconds * record.world_size * devices / 3600,
        "device_unit": f"{unit}-hours",
    }

"""Tidy frames of the published runs: one row per run, and one row per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.config.names import split_id
from bench.report.records import PublishedRun
from bench.runs.record import HISTORY_COLUMNS, Record

BASELINE = "baseline"
CELL = ["model", "dataset"]  # the columns that name a cell: a student on a dataset
METHOD = [*CELL, "method"]  # those that name a recipe of a suite
RUN = [*METHOD, "seed"]  # those that name a run

RUN_COLUMNS = {  # column of `runs_frame`: its type
    "suite": "str",
    "id": "str",
    "protocol": "str",
    "model": "str",
    "dataset": "str",
    "method": "str",
    "seed": "int64",
    "hash": "str",
    "diverged": "bool",
    "last_accuracy": "float64",
    "best_accuracy": "float64",
    "best_epoch": "Int64",
    "epochs": "int64",
    "parameters": "int64",
    "flops_per_image": "float64",
    "seconds": "float64",
    "images_per_second": "float64",
    "peak_memory_mib": "float64",
    "device": "str",
    "processor": "str",
    "threads": "int64",
    "precision": "str",
    "world_size": "int64",
    "compile": "str",
    "machine": "str",
    "device_hours": "float64",
    "device_unit": "str",
    "teacher_key": "str",
    "teacher_id": "str",
    "teacher_accuracy": "float64",
    "teacher_seconds": "float64",
    "teacher_seed": "Int64",
    "teacher_epochs": "Int64",
    "teacher_select": "str",
    "fingerprint": "str",
    "evaluated_on": "str",
    "train_images": "int64",
    "test_images": "int64",
    "classes": "int64",
    "version": "str",
    "commit": "str",
    "dirty": "boolean",
    "settings": "object",
    "libraries": "object",
}
CURVE_COLUMNS = ["suite", *RUN, "diverged", *HISTORY_COLUMNS]


def runs_frame(runs: Sequence[PublishedRun]) -> pd.DataFrame:
    """One row per run, in the order of `runs`; the columns are RUN_COLUMNS.

    id: of the recipe, `<model>/<dataset>/<method>`; method: the name of its guidance, "baseline" for none.
    last_accuracy, best_accuracy, best_epoch: missing if the run diverged. Accuracies are in %.
    parameters: trainable ones. flops_per_image: of the student's forward pass. seconds: training and evaluation.
    device: the GPU's name, or "cpu". precision: the one that was used. world_size: number of processes.
    machine: the hardware and precision in words. device_hours: of the run, in device_unit, "GPU-hours" or "core-hours".
    teacher_*: missing without a teacher. teacher_accuracy: of the weights that guide.
    fingerprint: of pixels and labels. evaluated_on: "test", "holdout" or "share", see `DatasetSummary`.
    version, commit, dirty: of the code; commit and dirty may be missing.
    settings: list of the command's --set options. libraries: {name: version}.
    """
    return pd.DataFrame([_run_row(run) for run in runs], columns=list(RUN_COLUMNS)).astype(RUN_COLUMNS)


def curves_frame(runs: Sequence[PublishedRun]) -> pd.DataFrame:
    """One row per run and epoch, in the order of `runs`; the columns are CURVE_COLUMNS.

    epoch: from 1. test_accuracy: in %. train_loss, guidance_loss: missing if not finite or without guidance.
    diverged: of the whole run.
    """
    lengths = [run.record.epochs for run in runs]
    names = pd.DataFrame(
        [(run.suite, *split_id(run.record.id), run.record.seed, run.record.diverged) for run in runs],
        columns=["suite", *RUN, "diverged"],
    ).astype({"seed": "int64", "diverged": "bool"})
    out = names.loc[names.index.repeat(lengths)].reset_index(drop=True)
    for name in HISTORY_COLUMNS:
        values = [value for run in runs for value in run.history[name]]
        out[name] = pd.Series(values, dtype="int64" if name == "epoch" else "float64")
    return out


def machine(record: Record) -> str:
    """The hardware of a run and its precision, in words."""
    name = record.hardware.device
    if name == "cpu":
        threads = record.hardware.threads
        name = f"{record.hardware.processor}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{record.world_size} x {name}, {record.precision.used}"


def _run_row(run: PublishedRun) -> dict[str, Any]:
    record = run.record
    model, dataset, method = split_id(record.id)
    teacher, on_cpu = record.teacher, record.hardware.device == "cpu"
    devices = record.world_size * (record.hardware.threads if on_cpu else 1)
    row = {name: getattr(record, name) for name in RUN_COLUMNS if hasattr(record, name)}
    row |= {name: getattr(record.dataset, name) for name in RUN_COLUMNS if hasattr(record.dataset, name)}
    row |= {name: getattr(record.code, name) for name in RUN_COLUMNS if hasattr(record.code, name)}
    if teacher is not None:
        names = ("key", "id", "accuracy", "seconds", "seed", "epochs", "select")
        row |= {f"teacher_{name}": getattr(teacher, name) for name in names}
    return row | {
        "suite": run.suite,
        "model": model,
        "dataset": dataset,
        "method": method,
        "device": record.hardware.device,
        "processor": record.hardware.processor,
        "threads": record.hardware.threads,
        "precision": record.precision.used,
        "machine": machine(record),
        "device_hours": record.seconds * devices / 3600,
        "device_unit": "core-hours" if on_cpu else "GPU-hours",
    }

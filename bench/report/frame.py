"""Tidy frames of the published runs: one row per run, and one row per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from bench.config.names import split_id
from bench.report.records import PublishedRun
from bench.runs.record import HISTORY_COLUMNS, Record

BASELINE = "baseline"
CELL = ["model", "dataset"]  # the columns that name a cell: a student on a dataset
METHOD = [*CELL, "method"]  # those that name a recipe of a suite
RUN = [*METHOD, "seed"]  # those that name a run

CURVE_COLUMNS = ["suite", *RUN, "diverged", *HISTORY_COLUMNS]
_MAY_BE_MISSING = {  # columns of `runs_frame` whose type would depend on the runs
    **dict.fromkeys(("last_accuracy", "best_accuracy", "teacher_accuracy", "teacher_seconds"), "float64"),
    **dict.fromkeys(("best_epoch", "teacher_seed", "teacher_epochs"), "Int64"),
    **dict.fromkeys(("teacher_key", "teacher_id", "teacher_select", "commit"), "str"),
    "dirty": "boolean",
}
_OF_TEACHER = ("key", "id", "accuracy", "seconds", "seed", "epochs", "select")


def runs_frame(runs: Sequence[PublishedRun]) -> pd.DataFrame:
    """One row per run, in the order of `runs`, which may not be empty. The columns are the keys of `_run_row`.

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
    return pd.DataFrame([_run_row(run) for run in runs]).astype(_MAY_BE_MISSING)


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
    record, dataset, hardware, teacher = run.record, run.record.dataset, run.record.hardware, run.record.teacher
    model, dataset_name, method = split_id(record.id)
    on_cpu = hardware.device == "cpu"
    devices = record.world_size * (hardware.threads if on_cpu else 1)
    return {
        "suite": run.suite,
        "id": record.id,
        "protocol": record.protocol,
        "model": model,
        "dataset": dataset_name,
        "method": method,
        "seed": record.seed,
        "hash": record.hash,
        "diverged": record.diverged,
        "last_accuracy": record.last_accuracy,
        "best_accuracy": record.best_accuracy,
        "best_epoch": record.best_epoch,
        "epochs": record.epochs,
        "parameters": record.parameters,
        "flops_per_image": record.flops_per_image,
        "seconds": record.seconds,
        "images_per_second": record.images_per_second,
        "peak_memory_mib": record.peak_memory_mib,
        **asdict(hardware),
        "precision": record.precision.used,
        "world_size": record.world_size,
        "compile": record.compile,
        "machine": machine(record),
        "device_hours": record.seconds * devices / 3600,
        "device_unit": "core-hours" if on_cpu else "GPU-hours",
        **{f"teacher_{name}": getattr(teacher, name, None) for name in _OF_TEACHER},
        "fingerprint": dataset.fingerprint,
        "evaluated_on": dataset.evaluated_on,
        "train_images": dataset.train_images,
        "test_images": dataset.test_images,
        "classes": dataset.classes,
        **asdict(record.code),
        "settings": record.settings,
        "libraries": record.libraries,
    }

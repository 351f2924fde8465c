"""The numbers of a suite for other programs: one row an arm as CSV, everything as JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from bench.report.analysis import Analysis, Arm
from bench.report.convergence import PARTS
from bench.report.spread import PairedDifference, SeedStats

DIGITS = 6  # libraries differ in the last bits, and these files are compared byte for byte


def to_csv(analysis: Analysis) -> str:
    """`table.csv`: a row for each student, dataset and guidance; a quantity over seeds is two columns, `_mean` and `_std`.
    Accuracies and gains in %, times in s, memory in MiB."""
    rows = [_rounded(_row(arm)) for cell in analysis.cells for arm in cell.arms]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(analysis: Analysis) -> str:
    """`table.json`: the whole analysis, with the values of every seed."""
    return json.dumps(_rounded(analysis.to_dict()), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _row(arm: Arm) -> dict[str, Any]:
    cost, reach, first = arm.cost, arm.reach or {}, arm.published[0] if arm.published else None
    return {
        **{name: getattr(arm, name) for name in ("model", "dataset", "guidance", "hash", "state")},
        "seeds": len(arm.seeds),
        "diverged": len(arm.diverged),
        **_columns("last", arm.last),
        **_columns("best", arm.best),
        **_columns("gain", arm.gain),
        "gain_low": arm.gain.low if arm.gain else None,
        "gain_high": arm.gain.high if arm.gain else None,
        "gain_verdict": arm.gain.verdict if arm.gain else None,
        **_columns("gain_best", arm.gain_best),
        "published": first.top1 if first else None,
        "published_difference": arm.difference,
        "published_work": first.work if first else None,
        "published_provenance": first.provenance if first else None,
        **_columns("area", arm.progress["area"]),
        **{k: v for part in PARTS for k, v in _columns(f"epochs_to_{part}", arm.progress["epochs_to"][str(part)]).items()},
        "reached": reach.get("reached"),
        "pairs": reach.get("pairs"),
        **_columns("epochs_to_baseline", reach.get("epochs")),
        **{
            k: v
            for of in ("epochs", "time", "time_with_teacher")
            for k, v in _columns(f"speedup_{of}", reach.get(f"speedup_{of}")).items()
        },
        "parameters": cost.parameters if cost else None,
        "flops_per_image": cost.flops if cost else None,
        **_columns("images_per_second", cost.images_per_second if cost else None),
        **_columns("seconds", cost.seconds if cost else None),
        "device_hours": cost.device_hours if cost else None,
        "device_unit": cost.device_unit if cost else None,
        **_columns("peak_memory_mib", cost.peak_memory_mib if cost else None),
        "hardware": "; ".join(cost.hardware) if cost else None,
    }


def _columns(name: str, spread: SeedStats | PairedDifference | None) -> dict[str, float | None]:
    return {f"{name}_mean": spread.mean if spread else None, f"{name}_std": spread.std if spread else None}


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(name): _rounded(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_rounded(value) for value in content]
    return round(content, DIGITS) if isinstance(content, float) else content

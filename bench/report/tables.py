"""The tables of a suite as frames of text: one row per method, those of many sorted by gain. Missing values are empty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from bench.cli import count, duration
from bench.report.frame import RUN
from bench.report.papers import MARKS
from bench.report.stats import CONFIDENCE, MIN_SEEDS, half_width_in_std
from bench.report.suite_report import SuiteReport

Row = Mapping[str, Any]  # of a cells or runs frame, by column
NAMES = {"model": "student", "dataset": "dataset", "variant": "variant", "method": "method"}


def accuracy_table(report: SuiteReport) -> pd.DataFrame:
    """The headline: last epochs, with gains over the reference."""
    columns = {
        "last epoch": lambda row: _mean_std(row, "last") or row["status"],
        "gain": lambda row: "no pair" if row["status"] == "no pair" else _mean_std(row, "gain", "+.2f"),
        f"{100 * CONFIDENCE:.0f} % interval": _interval,
        "verdict": _value("verdict"),
        "Holm": _holm,
        "seeds": _seeds,
        "not paired": _value("unpaired"),
    }
    return _table(report.ranked_cells, columns)


def short_accuracy_note(report: SuiteReport) -> str:
    """What the numbers of the accuracy table are."""
    note = f"{report.measure.capitalize()} in %, mean ± standard deviation over seeds."
    if report.cells["gain_mean"].isna().all():
        return note
    interval = f"{100 * CONFIDENCE:.0f} % confidence interval"
    return f"{note} Gain: over {report.reference}, in points, paired over seeds, with its {interval}."


def accuracy_note(report: SuiteReport) -> str:
    """The same, and what the other columns of the accuracy table mean."""
    note = short_accuracy_note(report)
    if report.cells["gain_mean"].isna().all():
        return note
    return (
        f"{note} The runs of a row share their images and, if they have one, their teacher: the interval covers the seeds"
        " of training alone. Better, worse: the interval excludes zero; unclear: it includes zero; too few seeds: fewer"
        f" than {MIN_SEEDS}. Each comparison is by itself, not corrected for the number of"
        f" comparisons{holm_note(report.cells)}."
    )


def holm_note(cells: pd.DataFrame) -> str:
    """What the column Holm means, and how much a gain needs, as the rest of a sentence; "" if there is no such column."""
    several = cells[cells["comparisons"] > 1]
    if several.empty:
        return ""
    fewest, most = int(several["comparisons"].min()), int(several["comparisons"].max())
    seeds = int(several.loc[several["comparisons"] == most, "gain_seeds"].min())
    alone, corrected = (half_width_in_std(seeds, 1 - (1 - CONFIDENCE) / tests) for tests in (1, most))
    return (
        f"; Holm: corrected for the {fewest if fewest == most else f'{fewest} to {most}'} comparisons in a cell, so that"
        f" a method without effect is called better or worse in at most {100 * (1 - CONFIDENCE):.0f} % of cells. With"
        f" {count(seeds, 'seed')} and {most} comparisons this test is strict: no method passes unless a gain is over"
        f" {corrected:.1f} times its standard deviation (by itself: {alone:.1f} times). Unclear does not mean equal"
    )


def best_table(report: SuiteReport) -> pd.DataFrame:
    """Best epochs, and published numbers beside those of the published recipes."""
    columns = {
        "best epoch": lambda row: _mean_std(row, "best"),
        "gain": lambda row: _mean_std(row, "best_gain", "+.2f"),
        "seeds": _seeds,
        "published": lambda row: _number(row["published_value"], ".2f") + MARKS.get(row["published_provenance"], ""),
        "difference": _value("published_difference", "+.2f"),
        "published gain": _value("published_gain", "+.2f"),
        "work": _value("published_work"),
    }
    return _table(_with_results(report), columns)


def convergence_table(report: SuiteReport) -> pd.DataFrame:
    """How soon each method reaches the reference's final accuracy."""
    columns = {
        f"epochs to {report.suite.reference}'s final": lambda row: _epochs_to_reach(row, report.suite.reference),
        "speed-up, epochs": lambda row: _times(row, "speedup_epochs"),
        "speed-up, time": lambda row: _times(row, "speedup_seconds"),
        "with the teacher's training": lambda row: _times(row, "speedup_seconds_with_teacher"),
        "adaptive guidance": _value("guidance_stop"),
    }
    return _table(_with_results(report), columns)


def cost_table(report: SuiteReport) -> pd.DataFrame:
    """Size, speed, time and memory."""
    columns = {
        "10⁶ parameters": lambda row: f"{row['parameters'] / 1e6:.2f}",
        "GFLOPs per image": lambda row: f"{row['flops_per_image'] / 1e9:.3g}",
        "images/s": lambda row: _mean_std(row, "images_per_second", ".0f"),
        "time per run": lambda row: duration(row["seconds_mean"]),
        "all seeds": lambda row: f"{row['device_hours']:.2f} {row['device_unit']}",
        "peak memory, MiB": _value("peak_memory_mib_mean", ",.0f"),
        "hardware": _value("machines"),
    }
    return _table(_with_results(report), columns)


def runs_table(report: SuiteReport) -> pd.DataFrame:
    """Every run, seed by seed, so that none is hidden by a mean."""
    pairs = report.pairs.assign(gain=report.pairs["gain"].where(report.pairs["method"] != report.suite.reference))
    columns = {
        "seed": _value("seed"),
        "hash": lambda row: row["hash"][:8],
        "last": lambda row: f"diverged in epoch {row['epochs']}" if row["diverged"] else f"{row['last_accuracy']:.2f}",
        "gain": _value("gain", "+.2f"),
        "best": _value("best_accuracy", ".2f"),
        "best epoch": lambda row: "" if row["diverged"] else f"{row['best_epoch']} of {row['epochs']}",
        f"epochs to {report.suite.reference}'s final": lambda row: _epoch_of_run(row, report.suite.reference),
        "time": lambda row: duration(row["seconds"]),
        "images/s": _value("images_per_second", ",.0f"),
        "hardware": lambda row: row["machine"] + (", fell back from compilation" if row["fell_back"] else ""),
    }
    return _table(report.runs.merge(pairs, on=[*RUN, "hash"], how="left"), columns)


def reproduction_tables(report: SuiteReport) -> dict[str, pd.DataFrame]:
    """{other machine in words: the accuracies and gains of its runs beside those of the same seeds here}."""
    columns = {
        "seeds": _seeds,
        "mean there": _value("there", ".2f"),
        "mean here": _value("here", ".2f"),
        "mean difference": _value("difference", "+.2f"),
        "gain there": _value("gain_there", "+.2f"),
        "gain here": _value("gain_here", "+.2f"),
    }
    return {str(where): _table(own, columns) for where, own in report.reproductions.groupby("where", sort=False)}


def teacher_sentences(runs: pd.DataFrame) -> list[str]:
    """A sentence on each teacher of these runs; of several, with the varied values that only its runs have."""
    runs = runs.dropna(subset="teacher_key")
    variants = runs.groupby("teacher_key", sort=False)["variant"].unique()
    own = {key: found[0] for key, found in variants.items() if len(variants) > 1 and len(found) == 1}
    teachers = runs.drop_duplicates("teacher_key").to_dict("records")
    return [_teacher_sentence(row, own.get(row["teacher_key"], "")) for row in teachers]


def _teacher_sentence(row: Row, variant: str) -> str:
    begin = " of ".join(filter(None, (f"Teacher {row['teacher_id']}", variant)))
    same, percent = "the same for all seeds of the students", row["teacher_accuracy"]
    if pd.isna(row["teacher_epochs"]):
        return f"{begin} (read from a file, {same}): {percent:.2f} %; how it was trained is not recorded."
    return (
        f"{begin} (seed {row['teacher_seed']}, {same}, weights of the {row['teacher_select']} epoch): {percent:.2f} % after"
        f" {count(row['teacher_epochs'], 'epoch')}, trained in {duration(row['teacher_seconds'])}."
    )


def _with_results(report: SuiteReport) -> pd.DataFrame:
    return report.ranked_cells[report.ranked_cells["seeds"] > 0]


def _table(frame: pd.DataFrame, columns: Mapping[str, Callable[[Row], str]]) -> pd.DataFrame:
    """The names of each row of a frame and the texts made from it, without columns that are empty in all rows."""
    rows = frame.to_dict("records")
    out = pd.DataFrame({word: [row[name] for row in rows] for name, word in NAMES.items()}, dtype="str")
    if not out[NAMES["variant"]].any():
        out = out.drop(columns=NAMES["variant"])
    for title, text in columns.items():
        if any(values := [text(row) for row in rows]):
            out[title] = values
    return out


def _number(value: object, spec: str) -> str:
    return "" if pd.isna(value) else f"{value:{spec}}"


def _value(name: str, spec: str = "") -> Callable[[Row], str]:
    return lambda row: _number(row[name], spec)


def _mean_std(row: Row, name: str, spec: str = ".2f") -> str:
    """`mean ± standard deviation`; the mean alone for one seed; empty if missing."""
    std = _number(row[f"{name}_std"], spec.removeprefix("+"))
    return _number(row[f"{name}_mean"], spec) + (f" ± {std}" if std else "")


def _times(row: Row, name: str) -> str:
    return f"{text} ×" if (text := _mean_std(row, name, ".1f")) else ""


def _interval(row: Row, end: str = "") -> str:
    low, high = row[f"gain_low{end}"], row[f"gain_high{end}"]
    return "" if pd.isna(low) else f"{low:+.2f} to {high:+.2f}"


def _holm(row: Row) -> str:
    return f"{row['verdict_holm']}: {_interval(row, '_holm')}" if row["comparisons"] > 1 else ""


def _seeds(row: Row) -> str:
    return f"{row['seeds']}{f', {diverged} diverged' if (diverged := row['diverged_seeds']) else ''}"


def _epochs_to_reach(row: Row, reference: str) -> str:
    if row["chance_seeds"]:
        return f"{reference} at chance in {row['chance_seeds']} of {count(row['gain_seeds'], 'seed')}"
    if row["reached_seeds"] < row["gain_seeds"]:
        return f"reached by {row['reached_seeds']} of {count(row['gain_seeds'], 'seed')}"
    return _mean_std(row, "epochs_to_reach", ".1f")


def _epoch_of_run(row: Row, reference: str) -> str:
    if pd.isna(row["reference_at_chance"]):  # no pair
        return ""
    if row["reference_at_chance"]:
        return f"{reference} at chance"
    missing = "not reached" if pd.notna(row["gain"]) else ""
    return _number(row["epochs_to_reach"], ".0f") or missing

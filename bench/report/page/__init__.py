"""The results of all suites as one HTML file that works without a network and without any other file.

template.html makes all of the page but the curves; the scripts sort, filter, open cells and draw. Text in records may come
from strangers: the template escapes it, and a content security policy allows nothing to run but the two scripts whose
digests it names, and nothing to be loaded from anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from bench.cli import count, duration
from bench.config.names import EVALUATED_ON, split_id
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import BASELINE, Suite
from bench.report import reproductions, tables, teacher_seeds
from bench.report.figures.base import DARK, LIGHT, method_colour
from bench.report.figures.gains import gain_limits
from bench.report.frame import CELL, METHOD, RUN, guidance_of
from bench.report.overall import overall_gains
from bench.report.papers import MARKS
from bench.report.stats import MIN_SEEDS, paired_interval
from bench.report.suite_report import FEW_METHODS, SuiteReport

PARTS = Path(__file__).parent
# In this order they are one script, so that each may use what those before it define.
SCRIPTS = ("state.js", "table.js", "curves.js", "cell.js", "start.js")
_ENVIRONMENT = ["machine", "device", "processor", "threads", "world_size", "precision", "compile", "version", "libraries"]
_SPEEDUPS = ["speedup_epochs_mean", "speedup_seconds_mean", "speedup_seconds_with_teacher_mean"]

Row = dict[str, Any]


def render_page(suites: Sequence[SuiteReport], *, in_folder: bool = False) -> str:
    """Returns the page of these suites as HTML; the same text each time.

    in_folder: the page lies beside the tables of its only suite, which has no records.jsonl, and not above their folder.
    """
    scripts = [_read("uPlot.iife.min.js"), '"use strict";\n{\n' + "".join(map(_read, SCRIPTS)) + "}\n"]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"duration": duration, "count": count}
    contexts = [_suite(report) for report in suites]
    return environment.from_string(_read("template.html")).render(
        file=lambda name: Markup(_read(name)),
        digests=Markup(" ".join(f"'sha256-{digest}'" for digest in digests)),
        scripts=[Markup(script) for script in scripts],
        in_folder=in_folder,
        evaluated_on=EVALUATED_ON,
        suites=contexts,
        figures={context["report"].suite.name: context["figures"] for context in contexts},
        colours={name: f"light-dark({light}, {DARK[name]})" for name, light in LIGHT.items()},
        marks=MARKS,
        teacher_seeds=teacher_seeds,
        reproductions=reproductions,
    )


def _command(recipe_id: str, seed: int, options: Sequence[object]) -> str:
    """The command of a run; options: those of its recipe."""
    words = ["accelerate", "launch", "bench/run.py", "--recipe", recipe_id, *map(str, options), "--seed", str(seed)]
    return shlex.join(words)


def _suite(report: SuiteReport) -> dict[str, Any]:
    """What template.html shows of a suite. rows: one per method of a cell, with its runs and the row of its reference."""
    suite, cells = report.suite, _grouped(report.ranked_cells, CELL)
    colours = {name: int(method_colour(suite.methods, name, suite.reference).removeprefix("C")) for name in suite.methods}
    many = len(suite.methods) > FEW_METHODS
    recipes = {(*split_id(one.id)[:2], one.variant, one.method): (one, recipe) for one, recipe in report.recipes}
    runs = _grouped(report.runs.assign(texts=_rows(tables.runs_table(report)), curve=_curves(report)), METHOD)
    folder = _recipes_dir(suite)
    for run in itertools.chain.from_iterable(runs.values()):
        run["facts"] = {name: run[name] for name in _ENVIRONMENT if run[name] is not None}
        run["facts"] |= {"compilation": "fell back, all or in part"} if run["fell_back"] else {}
        run["environment"] = json.dumps(run["facts"], sort_keys=True)
    for cell, rows in cells.items():
        for place, row in enumerate(rows):
            method = tuple(row[name] for name in METHOD)
            entry, recipe = recipes[method]
            row["key"] = f"{_key(cell)}/{row['method']}"
            row["runs"] = runs.get(method, [])
            row["guidance"] = guidance_of(row["method"])
            row["listed"] = row["method"] != suite.reference or len(rows) == 1  # in the table of results
            row["reference"] = rows[0] if rows[0]["method"] == suite.reference else None
            row["colour"] = colours[row["method"]] if row is row["reference"] or not many else None
            options = [*suite.run_options(entry, recipe), *folder]
            for run in row["runs"]:
                further = [word for text in run["settings"] or () if text not in options for word in ("--set", text)]
                run["command"] = _command(run["id"], run["seed"], [*options, *further])
            row["command"] = row["runs"][0]["command"] if row["runs"] else _command(row["id"], suite.seeds[0], options)
            row["sections"] = _sections(recipe)
            row["like"] = max(
                rows[:place], key=lambda one: len(one["sections"].items() & row["sections"].items()), default=None
            )
    others = report.cells[report.cells["method"] != suite.reference]
    low, high = gain_limits(others, many)
    overall = overall_gains(suite, report.pairs)
    return {
        "report": report,
        "cells": cells,
        "tables": {
            "Last epoch": _by_cell(tables.accuracy_table(report)),
            "Best epoch": _by_cell(tables.best_table(report)),
            "Convergence": _by_cell(tables.convergence_table(report)),
            "Cost": _by_cell(tables.cost_table(report)),
        },
        "teacher_seeds": [(one.title, _rows(one.texts), one.sentence) for one in teacher_seeds.seed_tables(report)],
        "others": {where: _rows(table) for where, table in tables.reproduction_tables(report).items()},
        "published": _grouped(report.published, ["model", "dataset"]),
        "teachers": {cell: tables.teacher_sentences(own) for cell, own in report.runs.groupby(CELL)},
        "variants": list(dict.fromkeys(filter(None, (variant for _, _, variant in cells)))),
        "command": _suite_command(suite, folder),
        "many": many,
        "corrected": report.cells["comparisons"].max() > 1,
        "accuracy_note": tables.accuracy_note(report),
        "colours": colours,
        "figures": {_key(cell): list(map(_figure, rows)) for cell, rows in cells.items()},
        "cell_keys": {cell: _key(cell) for cell in cells},
        "ticks": MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, max(high, low + 1)).tolist(),
        "complete": sum(all(row["status"] == "complete" for row in rows) for rows in cells.values()),
        "gains": _gains(others),
        "overall": (overall.mean(), *paired_interval(overall), len(overall)) if len(overall) >= MIN_SEEDS else None,
        "missing": len({(one.id, recipe.hash) for one, recipe in report.recipes}) * len(suite.seeds)
        - int(report.distinct_runs["seed"].isin(suite.seeds).sum()),
        "hours": report.distinct_runs.groupby("device_unit")["device_hours"].sum().to_dict(),
    }


def _gains(cells: pd.DataFrame) -> list[Row]:
    """The mean gain of each method, the largest first, with the rows of its cells and the medians of its speed-ups."""
    groups = cells.dropna(subset="gain_mean").groupby("method", sort=False)
    out = groups[_SPEEDUPS].median().assign(mean=groups["gain_mean"].mean(), reaching=groups["speedup_epochs_mean"].count())
    out = _rows(out.sort_values("mean", ascending=False, kind="stable").reset_index())
    return [{**row, "rows": _rows(groups.get_group(row["method"]))} for row in out]


def _key(cell: tuple[str, ...]) -> str:
    """A cell in addresses and scripts: "student/dataset", and the varied values if there are any."""
    return "/".join(filter(None, cell))


def _recipes_dir(suite: Suite) -> list[str]:
    """The option for a suite that needs recipes which this package does not have; its reader knows the folder."""
    shipped = Registry()
    try:
        is_shipped = suite.file in shipped.names("suites") if suite.file is not None else bool(shipped.suite_recipes(suite))
    except RecipeError:
        is_shipped = False
    return [] if is_shipped else ["--recipes-dir", "DIR"]


def _suite_command(suite: Suite, folder: Sequence[str]) -> str:
    """The command that runs a suite; folder: see `_recipes_dir`."""
    settings = [*(word for text in suite.assignments for word in ("--set", text)), *folder]
    if not suite.recipes:
        return shlex.join(["./run_all.sh", str(suite.file), *settings])
    where = ["--protocol", suite.protocol] if suite.file is None else ["--suite", suite.file]
    reference = ["--reference", suite.reference] if suite.reference != BASELINE else []
    return shlex.join(["python", "-m", "bench", "compare", *suite.ids, *where, *settings, *reference])


def _by_cell(table: pd.DataFrame) -> dict[tuple[str, ...], list[Row]]:
    """The rows of a table by cell."""
    names = list(tables.NAMES.values())[:-1]
    return _grouped(table if names[-1] in table else table.assign(**{names[-1]: ""}), names)


def _rows(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame; missing values are None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _grouped(frame: pd.DataFrame, names: list[str]) -> dict[tuple[str, ...], list[Row]]:
    """The rows of a frame by their values of some columns, in order."""
    return {values: _rows(own) for values, own in frame.groupby(names, sort=False)}


def _curves(report: SuiteReport) -> list[list[int | None]]:
    """The accuracies of each run in hundredths of a per cent, as differences to the one before: a third less room.

    None: the epoch was not evaluated.
    """
    evaluated = report.curves.dropna(subset="test_accuracy")
    values = evaluated[[*RUN, "epoch"]].assign(value=(100 * evaluated["test_accuracy"]).round().astype("int64"))

    def steps(own: pd.DataFrame) -> list[int | None]:
        out = [None] * own["epoch"].iloc[-1]
        for epoch, step in zip(own["epoch"], np.diff(own["value"], prepend=0).tolist(), strict=True):
            out[epoch - 1] = step
        return out

    curves = {key: steps(own) for key, own in values.groupby(RUN)}
    return [curves[key] for key in report.runs[RUN].itertuples(index=False, name=None)]


def _figure(row: Row) -> Row:
    """What curves.js draws of a method. colour: the number of its CSS variable; None: the page picks one that is free."""
    runs = [{name: run[name] for name in ("diverged", "epochs", "seconds", "curve")} for run in row["runs"]]
    for one, run in zip(runs, row["runs"], strict=True):
        if run["guidance_stop_epoch"] is not None:
            one["stop"] = run["guidance_stop_epoch"]
    shown = {name: row[name] for name in ("method", "last_mean", "epochs_to_reach_mean", "colour")}
    return shown | {"runs": runs, "reference": row is row["reference"]}


def _sections(recipe: Recipe) -> dict[str, str]:
    """The sections of a recipe as YAML, without the seed, since each run has its own."""
    return {key: _yaml(json.dumps({key: value})) for key, value in recipe.to_dict().items() if key != "seed"}


@functools.cache
def _yaml(section: str) -> str:
    """A section as YAML; cached, since the recipes of a suite share most sections, and PyYAML is slow."""
    return yaml.safe_dump(json.loads(section), sort_keys=False, allow_unicode=True, width=100)


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8").rstrip() + "\n"

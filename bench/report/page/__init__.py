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

from bench.cli import duration
from bench.config.registry import Registry
from bench.config.schema import Recipe
from bench.report import tables
from bench.report.figures.base import DARK, LIGHT, method_style
from bench.report.frame import BASELINE, CELL, RUN
from bench.report.published import MARKS
from bench.report.suite_report import SuiteReport, count

PARTS = Path(__file__).parent
# In this order they are one script, so that each may use what those before it define.
SCRIPTS = ("state.js", "table.js", "curves.js", "cell.js", "start.js")
_ENVIRONMENT = ["machine", "device", "processor", "threads", "world_size", "precision", "compile", "version", "libraries"]
_SPEEDUPS = ["speedup_epochs_mean", "speedup_seconds_mean", "speedup_seconds_with_teacher_mean"]
_MARKERS = {"o": "round", "s": "square", "^": "triangle"}  # of matplotlib: the class in page.css

Row = dict[str, Any]


def render_page(suites: Sequence[SuiteReport]) -> str:
    """Returns the page of these suites as HTML; the same text each time."""
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
        suites=contexts,
        figures={context["report"].suite.name: context["figures"] for context in contexts},
        colours={name: f"light-dark({light}, {DARK[name]})" for name, light in LIGHT.items()},
        baseline=BASELINE,
        marks=MARKS,
    )


@functools.cache
def _recipes_dir(suite: str) -> list[str]:
    """The option for a suite that this package does not have: its reader knows the folder."""
    return [] if suite in Registry().names("suites") else ["--recipes-dir", "DIR"]


def _command(suite: str, recipe_id: str, seed: int, settings: Sequence[object] = ()) -> str:
    """The command of a run; settings: its --set options."""
    words = ["accelerate", "launch", "bench/run.py", "--recipe", recipe_id, "--suite", suite, *_recipes_dir(suite)]
    return shlex.join([*words, *(word for text in settings for word in ("--set", str(text))), "--seed", str(seed)])


def _suite(report: SuiteReport) -> dict[str, Any]:
    """What template.html shows of a suite. rows: one per method of a cell, with its runs and the row of its baseline."""
    suite, styles, cells = report.suite, _styles(report), _grouped(report.cells, CELL)
    runs = _grouped(report.runs.assign(texts=_rows(tables.runs_table(report)), curve=_curves(report)), ["id"])
    for run in itertools.chain.from_iterable(runs.values()):
        run["command"] = _command(suite.name, run["id"], run["seed"], run["settings"] or ())
        run["facts"] = {name: run[name] for name in _ENVIRONMENT if run[name] is not None}
        run["environment"] = json.dumps(run["facts"], sort_keys=True)
    for rows in cells.values():
        for row in rows:
            row["runs"] = runs.get((row["id"],), [])
            row["baseline"] = rows[0] if rows[0]["method"] == BASELINE else None
            row["command"] = row["runs"][0]["command"] if row["runs"] else _command(suite.name, row["id"], suite.seeds[0])
            row["recipe"] = _yaml_of(report.recipes[row["id"]])
    others = report.cells[report.cells["method"] != BASELINE]
    gains = [
        {"method": method, "rows": _rows(own.dropna(subset="gain_mean")), "mean": own["gain_mean"].mean()}
        | own[_SPEEDUPS].median().to_dict()
        for method, own in others.groupby("method", sort=False)
        if own["gain_mean"].notna().any()
    ]
    bounds = [0.0, *report.cells[["gain_mean", "gain_low", "gain_high"]].to_numpy().flat]
    low, high, names = np.nanmin(bounds), np.nanmax(bounds), ["student", "dataset"]
    return {
        "report": report,
        "run_all": shlex.join(["./run_all.sh", suite.name, *_recipes_dir(suite.name)]),
        "cells": cells,
        "tables": {
            "Last epoch": _grouped(tables.accuracy_table(report), names),
            "Best epoch": _grouped(tables.best_table(report), names),
            "Convergence": _grouped(tables.convergence_table(report), names),
            "Cost": _grouped(tables.cost_table(report), names),
        },
        "published": _grouped(report.published, CELL),
        "teachers": {dataset: tables.teacher_sentences(own) for dataset, own in report.runs.groupby("dataset")},
        "styles": styles,
        "figures": {"/".join(cell): [_figure(row, styles[row["method"]]) for row in rows] for cell, rows in cells.items()},
        "ticks": MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, max(high, low + 1)).tolist(),
        "complete": sum(all(row["status"] == "complete" for row in rows) for rows in cells.values()),
        "gains": sorted(gains, key=lambda gain: -gain["mean"]),
        "hours": report.runs.groupby("device_unit")["device_hours"].sum().to_dict(),
    }


def _rows(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame; missing values are None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _grouped(frame: pd.DataFrame, names: list[str]) -> dict[tuple[str, ...], list[Row]]:
    """The rows of a frame by their values of some columns, in order."""
    return {values: _rows(own) for values, own in frame.groupby(names, sort=False)}


def _curves(report: SuiteReport) -> list[list[int]]:
    """The accuracies of each run in hundredths of a per cent, as differences to the epoch before: a third less room."""
    values = report.curves[RUN].assign(value=(100 * report.curves["test_accuracy"]).round().astype("int64"))
    curves = values.groupby(RUN)["value"].agg(lambda own: np.diff(own, prepend=0).tolist())
    return [curves[key] for key in report.runs[RUN].itertuples(index=False, name=None)]


def _figure(row: Row, style: Row) -> Row:
    """What curves.js draws of a method."""
    runs = [{name: run[name] for name in ("diverged", "epochs", "seconds", "curve")} for run in row["runs"]]
    return {name: row[name] for name in ("method", "last_mean", "epochs_to_reach_mean")} | style | {"runs": runs}


def _styles(report: SuiteReport) -> dict[str, Row]:
    """How each method is drawn, as in the figures. colour: the number of its CSS variable; marker: a class in page.css."""
    out = {}
    for name in report.suite.guidance:
        style = method_style(report.suite.guidance, name)
        dash = [] if style["linestyle"] == "-" else style["linestyle"][1]
        out[name] = {"colour": int(style["color"].removeprefix("C")), "marker": _MARKERS[style["marker"]], "dash": dash}
    return out


def _yaml_of(recipe: Recipe) -> str:
    """A recipe as YAML, without the seed, since each run has its own."""
    return "".join(_yaml(json.dumps({key: value})) for key, value in recipe.to_dict().items() if key != "seed")


@functools.cache
def _yaml(section: str) -> str:
    """A section as YAML; cached, since the recipes of a suite share most sections, and PyYAML is slow."""
    return yaml.safe_dump(json.loads(section), sort_keys=False, allow_unicode=True, width=100)


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8").rstrip() + "\n"

"""The results of all suites as one HTML file that works without a network and without any other file.

template.html joins the style sheet, the scripts and the data. Text in records may come from strangers: it goes in as JSON
without a character of markup, and the scripts show it as text alone. A content security policy allows nothing to run but
the two scripts whose digests it names, and nothing to be loaded from anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
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

from bench.config.schema import Recipe
from bench.report.figures.style import DARK, LIGHT
from bench.report.frame import METHOD, RUN
from bench.report.suite_report import SuiteReport

PARTS = Path(__file__).parent
# In this order they are one script, so that each may use what those before it define.
SCRIPTS = ("format.js", "state.js", "filters.js", "summary.js", "curves.js", "cell.js", "table.js", "start.js")
DECIMALS = 4
_RUN_COLUMNS = [
    *("id", "diverged", "last_accuracy", "best_accuracy", "best_epoch", "epochs", "seconds", "images_per_second"),
    *("machine", "commit", "dirty"),
]
_ENVIRONMENT_COLUMNS = ["machine", "device", "processor", "threads", "world_size", "precision", "compile", "libraries"]
_TEACHER_COLUMNS = [f"teacher_{name}" for name in ("id", "seed", "select", "accuracy", "epochs", "seconds")]
_IMAGE_COLUMNS = ["dataset", "train_images", "test_images", "classes", "evaluated_on"]


def render_page(suites: Sequence[SuiteReport]) -> str:
    """Returns the page of these suites as HTML; the same text each time."""
    scripts = [_read("uPlot.iife.min.js"), '"use strict";\n{\n' + "".join(map(_read, SCRIPTS)) + "}\n"]
    policy = {
        "default-src": "'none'",
        "connect-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    names = ("surface", "text", "muted", "grid", "hairline", *(f"method-{i}" for i in range(len(LIGHT.methods))))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(_read("template.html")).render(
        file=lambda name: Markup(_read(name)),
        policy=Markup("; ".join(f"{name} {value}" for name, value in policy.items())),
        colours=list(zip(names, LIGHT.colours, DARK.colours, strict=True)),
        scripts=[Markup(script) for script in scripts],
        data=[_suite(report) for report in suites],
    )


def command(suite: str, recipe_id: str, settings: Sequence[str]) -> str:
    """Returns the command that repeats a run, without its seed; `settings`: the --set options of the run."""
    words = ["accelerate", "launch", "bench/run.py", "--recipe", recipe_id, "--suite", suite]
    return shlex.join([*words, *(word for text in settings for word in ("--set", text))])


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8").rstrip() + "\n"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _suite(report: SuiteReport) -> dict[str, Any]:
    """A suite as state.js reads it. Values that many rows share are in a list of their own, and rows hold the index."""
    suite, name = report.suite, report.suite.name
    runs = report.runs[_RUN_COLUMNS].copy()
    runs["seed"] = report.runs["seed"].astype(str)  # it may be larger than the integers that JavaScript can hold
    runs["curve"] = _packed_curves(report)
    settings = [list(map(str, given or [])) for given in report.runs["settings"]]
    runs["command"], commands = pd.factorize(np.array([command(name, *run) for run in zip(runs["id"], settings)], object))
    environments = _as_json(report.runs[_ENVIRONMENT_COLUMNS].assign(version=report.runs["version"]))
    runs["environment"], environments = pd.factorize(environments)
    runs["teacher"], teachers = pd.factorize(_as_json(report.runs[_TEACHER_COLUMNS]))
    texts: dict[str, int] = {}  # sections of recipes, which recipes share
    recipes = {recipe_id: _sections(recipe, texts) for recipe_id, recipe in report.recipes.items()}
    return {
        "name": name,
        "protocol": suite.protocol,
        "protocol_note": report.protocol_note,
        "notes": report.notes,
        "deviations": report.deviations,
        "models": suite.models,
        "datasets": suite.datasets,
        "methods": list(report.cells["method"].unique()),
        "hours": report.runs.groupby("device_unit")["device_hours"].sum().round(DECIMALS).to_dict(),
        "images": _table(report.runs[_IMAGE_COLUMNS].drop_duplicates("dataset")),
        "rows": _table(report.cells.drop(columns="suite")),
        "runs": _table(runs),
        "published": _table(report.published),
        "environments": [json.loads(text) for text in environments],
        "teachers": [json.loads(text) for text in teachers],
        "commands": list(commands),
        "new_commands": {recipe_id: command(name, recipe_id, []) for recipe_id in recipes},
        "recipes": recipes,
        "texts": list(texts),
    }


def _packed_curves(report: SuiteReport) -> pd.Series:
    """The test accuracy per epoch of each run, in hundredths of a per cent, each as the difference to the epoch before:
    that needs a third less room."""
    curves = report.curves[RUN].assign(value=(100 * report.curves["test_accuracy"]).round().astype("int64"))
    packed = curves.groupby(RUN)["value"].agg(lambda values: np.diff(values, prepend=0).tolist()).rename("curve")
    return report.runs[RUN].join(packed, on=RUN)["curve"]


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    """A frame as JSON content: `columns` and `data`; missing values are null."""
    content = json.loads(frame.to_json(orient="split", index=False, double_precision=DECIMALS))
    return {"columns": content["columns"], "data": content["data"]}


def _as_json(frame: pd.DataFrame) -> np.ndarray:
    """Each row as the text of a JSON object."""
    rows = json.loads(frame.to_json(orient="records", double_precision=DECIMALS))
    return np.array([json.dumps(row, sort_keys=True) for row in rows], dtype=object)


def _sections(recipe: Recipe, texts: dict[str, int]) -> list[int]:
    """The sections of a recipe as indices into `texts`. The seed is left out, since each run has its own."""
    parts = [_yaml(json.dumps({name: value})) for name, value in recipe.to_dict().items() if name != "seed"]
    return [texts.setdefault(part, len(texts)) for part in parts]


@functools.cache
def _yaml(content: str) -> str:
    """A section as YAML; cached, since the recipes of a suite share most sections, and PyYAML is slow."""
    return yaml.safe_dump(json.loads(content), sort_keys=False, allow_unicode=True, width=100)

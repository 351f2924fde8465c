"""The results of all suites as one HTML file that works without a network, and without any other file.

The parts of the file lie in `page/`. What records say, which others may have written, goes in as JSON that holds no
character of markup, and page.js writes it as text alone; a content security policy lets nothing run but the two scripts
whose digests it names, and nothing be loaded from anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import shlex
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml

from bench.report import palette
from bench.report.analysis import BASELINE, Analysis, Arm, machine
from bench.report.gather import Record

PARTS = Path(__file__).with_name("page")
# Of HTML and of scripts: what could end the element that holds the JSON, begin another, or break a line of a script.
_MARKUP = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def html(suites: list[tuple[Analysis, list[Record]]]) -> str:
    """The page of these suites and the records that they were analysed from: the same text each time."""
    parts = {name: (PARTS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "uPlot.LICENSE")}
    parts |= {name: (PARTS / name).read_text(encoding="utf-8").strip() for name in ("uPlot.min.css", "uPlot.iife.min.js")}
    parts["colours"] = _colours()
    parts["policy"] = "; ".join(
        (
            "default-src 'none'",
            "connect-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            "script-src " + " ".join(_digest(parts[name]) for name in ("uPlot.iife.min.js", "page.js")),
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts["data"] = _json([_suite(analysis, records) for analysis, records in suites])
    template = (PARTS / "template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (.+?) \}\}", lambda found: parts[found[1]], template)


def command(suite: str, recipe_id: str, settings: list[str]) -> str:
    """What runs a cell of a suite again, up to the seed; `settings`: what --set said over the suite's own."""
    words = ["accelerate", "launch", "bench/run.py", "--recipe", recipe_id, "--suite", suite]
    return shlex.join([*words, *(word for text in settings for word in ("--set", text))])


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(content: Any) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).translate(_MARKUP)


def _colours() -> str:
    """The palettes as CSS variables, each with its light and its dark value."""
    names = ("surface", "text", "muted", "grid", "hairline", *(f"arm-{i}" for i in range(len(palette.LIGHT.arms))))
    pairs = zip(names, palette.LIGHT.colours, palette.DARK.colours, strict=True)
    return "\n".join(f"  --{name}: light-dark({light}, {dark});" for name, light, dark in pairs)


def _suite(analysis: Analysis, records: list[Record]) -> dict[str, Any]:
    """A suite as page.js reads it: the analysis under its own names, and the runs below their arms.

    Adds: summary; environments, and commands, which runs name by their index; and for each arm its runs, the text of its
    recipe and the command for a seed that has not run.
    """
    runs = defaultdict(list)
    for record in records:
        runs[record["id"]].append(record)
    environments: dict[str, int] = {}
    commands: dict[str, int] = {}
    out = _plain(analysis.to_dict())
    for cell in out["cells"]:
        for arm in cell["arms"]:
            own = runs[arm["id"]]
            arm["runs"] = [_run(analysis.suite, record, environments, commands) for record in own]
            arm["recipe"] = _recipe(own[0]) if own else None
            arm["command"] = command(analysis.suite, arm["id"], [])
        cell["data"] = next((_data(run) for arm in cell["arms"] for run in runs[arm["id"]]), None)
    out["summary"] = _summary(analysis, records)
    out["environments"] = [json.loads(text) for text in environments]
    out["commands"] = list(commands)
    return out


def _run(suite: str, record: Record, environments: dict[str, int], commands: dict[str, int]) -> dict[str, Any]:
    """A run. Its curve is test accuracy by epoch in hundredths of a per cent, each but the first as its difference to the
    one before, which takes a third less room."""
    code, settings = _mapping(record.get("code")), record.get("set")
    again = command(suite, record["id"], [str(text) for text in settings] if isinstance(settings, list) else [])
    ran_on = {
        "on": machine(record),
        "processes": record["world_size"],
        **{name: record[name] for name in ("hardware", "precision", "compile", "libraries") if record.get(name)},
        "suite version": code.get("version"),
    }
    hundredths = [round(100 * value) for value in record["history"]["test_accuracy"]]
    return {
        "seed": str(record["seed"]),  # which may be larger than the numbers of JavaScript are exact
        "diverged": bool(record.get("diverged")),
        **{name: record.get(name) for name in ("last_accuracy", "best_accuracy", "best_epoch")},
        **{name: record[name] for name in ("epochs", "seconds", "images_per_second")},
        "on": environments.setdefault(json.dumps(ran_on, sort_keys=True), len(environments)),
        "command": commands.setdefault(again, len(commands)),
        **{name: code.get(name) for name in ("commit", "dirty")},
        "curve": [b - a for a, b in zip([0, *hundredths], hundredths, strict=False)],
    }


def _data(record: Record) -> dict[str, Any] | None:
    """How many images a run saw, where its record says so."""
    said = _mapping(record.get("dataset"))
    types = {"train_images": int, "test_images": int, "classes": int, "evaluated_on": str}
    return {n: said[n] for n in types} if all(type(said.get(n)) is kind for n, kind in types.items()) else None


def _recipe(record: Record) -> str:
    """The recipe of an arm's runs as YAML, without the seed, which is theirs. What runs under one hash may differ in (where
    the pixels lay, as an example) changes no number; this is the first run's."""
    return "".join(_section(_json({k: v})) for k, v in _mapping(record.get("recipe")).items() if k != "seed")


@functools.cache
def _section(content: str) -> str:
    """A part of a recipe as YAML; kept, since the recipes of a suite share most of their parts, and PyYAML is slow."""
    return yaml.safe_dump(json.loads(content), sort_keys=False, allow_unicode=True, width=100)


def _summary(analysis: Analysis, records: list[Record]) -> dict[str, Any]:
    """What the tiles say: means over cells, of each guidance."""
    arms = [arm for cell in analysis.cells for arm in cell.arms]
    hours: Counter[str] = Counter()
    for arm in arms:
        if arm.cost:
            hours[arm.cost.device_unit] += arm.cost.device_hours
    return {
        "runs": len(records),
        "diverged": sum(bool(record.get("diverged")) for record in records),
        "hours": {unit: round(value, 3) for unit, value in hours.items()},
        "seconds": round(sum(record["seconds"] for record in records)),
        "machines": sorted({name for arm in arms if arm.cost for name in arm.cost.hardware}),
        "guided": {
            name: _of_guidance([arm for arm in arms if arm.guidance == name])
            for name in analysis.guidance
            if name != BASELINE
        },
    }


def _of_guidance(arms: list[Arm]) -> dict[str, Any]:
    reach = [arm.reach for arm in arms if arm.reach and arm.reach["pairs"]]
    out: dict[str, Any] = {"compared": len(reach)}
    for name in ("epochs", "time", "time_with_teacher"):
        means = [found[f"speedup_{name}"].mean for found in reach if found[f"speedup_{name}"]]
        out |= {f"speedup_{name}": median(means) if means else None, f"reach_{name}": len(means)}
    for which, gains in (("last", [arm.gain for arm in arms]), ("best", [arm.gain_best for arm in arms])):
        there = [gain for gain in gains if gain]
        verdicts = Counter(gain.verdict for gain in there)
        out[which] = {"gain": fmean(gain.mean for gain in there) if there else None, "cells": len(there), **verdicts}
    return _plain(out)


def _plain(value: Any) -> Any:
    """Numbers with the decimals that can be seen, and the number of values in place of them, which the runs have."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: _plain(v) if k != "values" else len(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _mapping(value: Any) -> dict[str, Any]:
    """A part of a record that nothing has checked."""
    return value if isinstance(value, dict) else {}

"""Recipe ids and the names in them.

An id is `<model>/<dataset>/<guidance>` for a student and `<model>/<dataset>` for a teacher. Each part names a file in
`recipes/`, or something without a file: `timm:<name>`, any model of timm; `folder:<name>`, class folders in the data
folder; `hub:<name>`, a dataset on the hub, whose name may contain a slash.
"""

from __future__ import annotations

import re
from typing import Any

from bench.config.parse import short_repr
from bench.config.schema import RecipeError

MAX_NAME_CHARS = 96  # as on the hub; names become parts of file names
NAME = f"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME_CHARS - 1}}}"
NAME_RULE = f"letters, digits, _, . and -, at most {MAX_NAME_CHARS}, a letter or digit first"
# What a run is evaluated on: {text in records, from `DecodedDataset.evaluated_on`: text for people}.
EVALUATED_ON = {"test": "test", "holdout": "held-out training", "share": "set-aside training"}
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")  # of datasets
TIMM = "timm:"  # prefix of timm's models, which need no file: a student in an id, a teacher in teacher.model.name
MODEL = rf"({TIMM})?{NAME}"
DATASET = rf"({NAME}|folder:{NAME}|hub:{NAME}(/{NAME})?)"


def split_id(recipe_id: str, role: str = "student") -> tuple[str, ...]:
    """(model, dataset, guidance) of a student's id, (model, dataset) of a teacher's. Dataset names may contain slashes."""
    model, _, rest = recipe_id.partition("/")
    return (model, rest) if role == "teacher" else (model, *rest.rsplit("/", 1))


def path_part(name: str) -> str:
    """A part of an id as a folder or file name that file systems, shells and LaTeX accept. No two names share it."""
    return name.replace(":", "+").replace("/", "+")


def external_content(kind: str, name: str, needed_by: str) -> dict[str, Any] | None:
    """The recipe keys of a model or dataset without a file: `timm:`, `folder:` and `hub:`. None for other names.

    Args:
        kind: "models", "datasets", …
        needed_by: start of the error's sentence.
    """
    source, colon, inner = name.partition(":")
    if not colon or kind not in ("models", "datasets"):
        return None
    if not re.fullmatch(DATASET if kind == "datasets" else f"timm:{NAME}", name):
        forms = "timm:NAME" if kind == "models" else "folder:NAME, hub:NAME and hub:OWNER/NAME"
        raise RecipeError(f"{needed_by}{kind[:-1]} {short_repr(name)}: allowed are names of {kind}, and {forms}")
    if kind == "models":
        # the drop path rate of the paper's students; feature layers are chosen from the network itself
        return {"model": {"builder": "any_timm", "timm": inner, "drop_path_rate": 0.1}}
    data: dict[str, Any] = {"short_side": 512}
    if source == "folder":
        archives = (f"{inner}{suffix}" for suffix in ARCHIVE_SUFFIXES)
        data |= {"source": "files", "layout": "class_folders", "places": [inner, *archives]}
    else:
        data |= {"source": "hub", "layout": "parquet", "places": [inner], "hub": inner, "licence": "the source's own"}
    return {"data": data, "teacher": {"model": {"name": "resnet56"}}}

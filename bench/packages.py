"""What to do where a required package is not installed. This module imports nothing that may be missing."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]  # of a checkout
VENV = ROOT / ".venv"  # made by bench/setup.sh
INSTALL = "pip install -c constraints.txt -e ."
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}


@contextmanager
def required_packages() -> Iterator[None]:
    """End the program with one sentence and exit code 2 if an import fails since a required package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _required():
            raise
        remedy = INSTALL if _is_used() or not VENV.is_dir() else _activate()
        print(f"error: {name} is not installed for this Python ({sys.executable}): {remedy}", file=sys.stderr)
        sys.exit(2)


def activation_note() -> str | None:
    """How to use this Python in further commands, if it is that of .venv and a shell does not find it; else None."""
    if not _is_used() or os.environ.get("VIRTUAL_ENV") == str(VENV):
        return None
    return f"before further commands, as python -m bench or python bench/run.py: {_activate()}"


def _required() -> set[str]:
    """The packages that pyproject.toml requires, as they are imported. Without that file, pip has installed them."""
    project = ROOT / "pyproject.toml"
    texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"] if project.is_file() else ()
    names = (re.match(r"[\w-]+", text)[0] for text in texts)
    return {IMPORTED_AS.get(name, name) for name in names}


def _is_used() -> bool:
    return Path(sys.prefix) == VENV


def _activate() -> str:
    return f"source {os.path.relpath(VENV)}/bin/activate"

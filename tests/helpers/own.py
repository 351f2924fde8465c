"""A user's own folder of recipes with Python files: the examples of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers.process import ROOT

PAGES = ("docs/guidance.md", "docs/recipes.md")


def documented_files() -> dict[str, str]:
    """{path below DIR: text} of the examples that begin with their path, one file each."""
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    blocks = re.findall(r"^```(?:python|yaml)\n# DIR/(\S+)\n(.*?)^```", text, re.M | re.S)
    return {path: content for path, content in blocks if "# DIR/" not in content}


def write_own(folder: Path) -> Path:
    """Write the examples into a folder, and return it."""
    for name, content in documented_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder

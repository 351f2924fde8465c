"""The headline tables in README files: between two markers, where the rest is people's own.

<!-- tables: python -m bench report -->             of every suite
<!-- table of quick: python -m bench report -->     of one
<!-- end of tables -->
"""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Iterator

from bench.report import markdown
from bench.report.analysis import Analysis
from bench.report.pictures import file_name

_PLACE = re.compile(r"(<!-- tables?(?: of (\S+))?: python -m bench report -->).*?(<!-- end of tables -->)", re.DOTALL)
NEW = """# Results

<!-- tables: python -m bench report -->
<!-- end of tables -->
"""


def with_tables(text: str, analyses: list[Analysis], folder: str = "") -> str:
    """A README's text with the tables between its markers; without markers, and of a suite that is not there, as it is.

    Args:
        folder: where the results lie, as seen from the README, with a slash at its end.
    """

    def fill(place: re.Match[str]) -> str:
        if place[2] is None:
            parts = [part for analysis in analyses for part in (f"## `{analysis.suite}`", *_section(analysis, folder))]
        elif chosen := [analysis for analysis in analyses if analysis.suite == place[2]]:
            parts = list(_section(chosen[0], folder))
        else:
            return place[0]
        return "\n\n".join([place[1], *parts, place[3]])

    return _PLACE.sub(fill, text)


def _section(analysis: Analysis, folder: str) -> Iterator[str]:
    yield from markdown.accuracies(analysis)
    name, shows = "overview", "baseline and guided accuracy of every student"
    if len(analysis.cells) == 1:
        (cell,) = analysis.cells
        name = f"curves/{file_name(cell.model, cell.dataset)}"
        shows = f"{cell.model} on {cell.dataset}: test accuracy by epoch, baseline and guided"
    path = urllib.parse.quote(f"{folder}{analysis.suite}/{name}")
    yield (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path}.dark.png">'
        f'<img src="{path}.png" alt="{html.escape(shows)}" width="520"></picture>'
    )
    files = {"All tables": "table.md", "CSV": "table.csv", "LaTeX": "table.tex", "JSON": "table.json"}
    files["records"] = "records.jsonl"
    yield ", ".join(f"[{name}]({folder}{analysis.suite}/{file})" for name, file in files.items()) + "."

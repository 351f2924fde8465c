"""The suites in `results/README.md`: the headline table of each, between two markers, where the rest is people's own."""

from __future__ import annotations

import html
import urllib.parse

from bench.report import markdown
from bench.report.analysis import Analysis
from bench.report.pictures import file_name

BEGIN, END = "<!-- tables: python -m bench report -->", "<!-- end of tables -->"
NEW = f"""# Results

{BEGIN}
{END}
"""


def with_tables(text: str | None, analyses: list[Analysis]) -> str | None:
    """A README's text with the tables between its markers; None where it has no markers.

    Args:
        text: as it is; None where there is no file yet.
    """
    before, begin, rest = (NEW if text is None else text).partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return None
    tables = "\n\n".join(_section(analysis) for analysis in analyses)
    return f"{before}{begin}\n\n{tables}\n\n{end}{after}"


def _section(analysis: Analysis) -> str:
    files = {"All tables": "table.md", "CSV": "table.csv", "LaTeX": "table.tex", "JSON": "table.json"}
    files["records"] = "records.jsonl"
    more = ", ".join(f"[{name}](<{analysis.suite}/{file}>)" for name, file in files.items())
    (name, shows) = ("overview", "baseline and guided accuracy of every student")
    if len(analysis.cells) == 1:
        (cell,) = analysis.cells
        name = f"curves/{file_name(cell.model, cell.dataset)}"
        shows = f"{cell.model} on {cell.dataset}: test accuracy by epoch, baseline and guided"
    path = urllib.parse.quote(f"{analysis.suite}/{name}")
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path}.dark.png">'
        f'<img src="{path}.png" alt="{html.escape(shows)}" width="520"></picture>'
    )
    return "\n\n".join([f"## `{analysis.suite}`", *markdown.accuracies(analysis), picture, f"{more}."])

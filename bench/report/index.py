"""The suites in `results/README.md`: the headline table of each, between two markers, where the rest is people's own."""

from __future__ import annotations

from bench.report import markdown
from bench.report.analysis import Analysis

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
    picture = f"![{analysis.suite}: baseline and guided accuracy](<{analysis.suite}/overview.png>)"
    return "\n\n".join([f"## `{analysis.suite}`", *markdown.accuracies(analysis), picture, more])

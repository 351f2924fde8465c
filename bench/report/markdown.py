"""The tables of a suite as Markdown: `table.md`, and the marked parts of README files."""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Iterator

import pandas as pd

from bench.report import tables
from bench.report.figures import figure_name
from bench.report.suite_report import SuiteReport

# A README's marked parts: of every suite, or of one. The rest of the file is left as it is.
#     <!-- tables: python -m bench report -->  or  <!-- table of quick: python -m bench report -->
#     <!-- end of tables -->
_MARKED = re.compile(r"(<!-- tables?(?: of (\S+))?: python -m bench report -->).*?(<!-- end of tables -->)", re.DOTALL)
NEW_README = """# Results

<!-- tables: python -m bench report -->
<!-- end of tables -->
"""
BEST_NOTE = (
    "The best epoch is chosen on the test set, so it flatters. Published numbers are of this kind. They are compared with"
    " it alone, and only if the recipe's hash is that of the published recipe. † second-hand; ‡ an independent rerun."
)
CONVERGENCE_NOTE = (
    "Epochs to baseline's final: the first epoch with the final test accuracy of the baseline with the same seed; for the"
    " baseline, with its own. Speed-up: the baseline's epochs (or seconds, on the same hardware) until then over the"
    " method's, mean over seeds, if all seeds reach it; without and with the teacher's own training, which all seeds share."
    " Mean over epochs: of the test accuracy in %. To 50, 90, 95 %: epochs until that part of the own final accuracy."
)
COST_NOTE = (
    "GFLOPs: of the student's forward pass; a multiplication and an addition are two. Images/s: of training. Time: with"
    " evaluation, without the teacher's own training."
)


def document(report: SuiteReport) -> str:
    """`table.md`: all tables of a suite."""
    name = report.suite.name
    parts = [
        f"# Suite `{name}`",
        f"Written by `python -m bench report --suite {name}` from `records.jsonl`, as [CSV](table.csv), [LaTeX](table.tex)"
        " and [JSON](table.json).",
        "## Last epoch",
        *headline(report),
        "## Best epoch and published numbers",
        *_section(report, tables.best_table(report), BEST_NOTE, *_sources(report)),
        "## Convergence",
        *_section(report, tables.convergence_table(report), CONVERGENCE_NOTE),
        "## Costs",
        *_section(report, tables.cost_table(report), COST_NOTE, *tables.teacher_sentences(report)),
        "## Runs",
        *_section(report, tables.runs_table(report)),
    ]
    return "\n\n".join(parts) + "\n"


def headline(report: SuiteReport) -> Iterator[str]:
    """The accuracies, one table per dataset, and what a reader must know before comparing."""
    every = tables.accuracy_table(report)
    for dataset, table in every.groupby("dataset", sort=False):
        yield f"Dataset {_code(dataset)}"
        yield _markdown(tables.without_repeated_students(table.drop(columns="dataset")))
    yield tables.accuracy_note(every)
    yield "\n".join(f"- {_text(sentence)}" for sentence in report.remarks)


def fill_readme(text: str, reports: list[SuiteReport], folder: str = "") -> str:
    """A README's text with headline tables between its markers. A marked suite without records is left as it is.

    Args:
        folder: of the results, relative to the README, with a slash at its end.
    """

    def fill(place: re.Match[str]) -> str:
        if place[2] is None:
            parts = [part for report in reports for part in (f"## `{report.suite.name}`", *_summary(report, folder))]
        elif named := [report for report in reports if report.suite.name == place[2]]:
            parts = list(_summary(named[0], folder))
        else:
            return place[0]
        return "\n\n".join([place[1], *parts, place[3]])

    return _MARKED.sub(fill, text)


def _summary(report: SuiteReport, folder: str) -> Iterator[str]:
    yield from headline(report)
    name, shows = "overview", f"gains of the methods of suite {report.suite.name}"
    if len(report.suite.models) == len(report.suite.datasets) == 1:
        (model,), (dataset,) = report.suite.models, report.suite.datasets
        name, shows = f"curves/{figure_name(model, dataset)}", f"{model} on {dataset}: test accuracy per epoch"
    path = urllib.parse.quote(f"{folder}{report.suite.name}/{name}")
    yield (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path}.dark.png">'
        f'<img src="{path}.png" alt="{html.escape(shows)}" width="520"></picture>'
    )
    files = {"All tables": "table.md", "CSV": "table.csv", "LaTeX": "table.tex", "JSON": "table.json"}
    files["records"] = "records.jsonl"
    yield ", ".join(f"[{name}]({folder}{report.suite.name}/{file})" for name, file in files.items()) + "."


def _section(report: SuiteReport, table: pd.DataFrame, *sentences: str) -> Iterator[str]:
    if table.empty:
        yield "No run has finished."
        return
    yield _markdown(table)
    yield from (_text(" ".join(part)) for part in (sentences, report.remarks) if part)


def _sources(report: SuiteReport) -> list[str]:
    """Where the published numbers in the table are from."""
    cells = report.cells.dropna(subset="published_value").drop_duplicates(["published_work", "published_source"])
    return [f"{row['published_work']}: {row['published_source']}." for row in cells.to_dict("records")]


def _markdown(table: pd.DataFrame) -> str:
    names = table.columns.intersection(list(tables.NAMES.values()))
    out = table.map(_text)
    out[names] = table[names].map(_code)
    return out.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def _code(text: str) -> str:
    """A name, as Markdown shows it and nothing else."""
    return f"`{text.replace('`', '').replace('|', '')}`" if text else ""


def _text(text: str) -> str:
    """Words, some of them from records, without anything that Markdown or HTML takes for markup."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"([\\`*_\[\]~])", r"\\\1", html.escape(line, quote=False)).replace("|", "&#124;")

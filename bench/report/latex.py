r"""The headline as LaTeX, `table.tex`: one table per dataset, to `\input` with the packages booktabs and longtable."""

from __future__ import annotations

import re

import pandas as pd

from bench.report import tables
from bench.report.suite_report import SuiteReport

PAGE_ROWS = 45  # longer tables are broken over pages
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "…": r"\ldots{}"},
}


def document(report: SuiteReport) -> str:
    """`table.tex`: the last epochs and gains of a suite."""
    parts = [f"% python -m bench report --suite {report.suite.name}; needs \\usepackage{{booktabs,longtable}}"]
    for dataset, table in tables.accuracy_table(report).groupby("dataset", sort=False):
        parts.append(_table(table.drop(columns="dataset"), str(dataset), report))
    return "\n".join(parts)


def _table(table: pd.DataFrame, dataset: str, report: SuiteReport) -> str:
    name = report.suite.name
    sentences = [f"Last epoch on {dataset}, suite {name}.", tables.accuracy_note(table), *report.remarks]
    shown = tables.without_repeated_students(table).map(_latex).rename(columns=_latex)
    return shown.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="ll" + "r" * (len(shown.columns) - 2),
        caption=_latex(" ".join(sentences)),
        label=f"tab:{name}-{re.sub(r'[^A-Za-z0-9]+', '-', dataset)}",
        **{"environment": "longtable"}
        if len(table) > PAGE_ROWS
        else {"environment": "table*", "position_float": "centering"},
    )


def _latex(text: str) -> str:
    """Text that LaTeX shows as it is; a minus before a number is a minus sign."""
    escaped = "".join(_SPECIAL.get(sign, sign if sign.isprintable() else " ") for sign in text)
    return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", escaped)

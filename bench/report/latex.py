r"""The headline as LaTeX, `table.tex`: one table per dataset, to `\input` with the packages booktabs and longtable."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
    every = tables.accuracy_table(report)
    parts = [f"% python -m bench report --suite {report.suite.name}; needs \\usepackage{{booktabs,longtable}}"]
    for dataset, table in every.groupby("dataset", sort=False):
        parts.append(_tabular(table.drop(columns="dataset"), str(dataset), report))
    return "\n".join(parts)


def _tabular(table: pd.DataFrame, dataset: str, report: SuiteReport) -> str:
    indexed = table.map(_latex).set_index(["student", "method"])
    indexed.columns = [_latex(name) for name in indexed.columns]
    return indexed.style.to_latex(
        hrules=True,
        sparse_index=True,
        multirow_align="naive",
        column_format="ll" + "r" * len(indexed.columns),
        caption=" ".join(map(_latex, _caption(dataset, report))),
        label=f"tab:{report.suite.name}-{re.sub(r'[^A-Za-z0-9]+', '-', dataset)}",
        **({"environment": "longtable"} if len(table) > PAGE_ROWS else {"position_float": "centering"}),
    )


def _caption(dataset: str, report: SuiteReport) -> Iterator[str]:
    yield f"Last epoch on {dataset}, suite {report.suite.name}."
    yield tables.ACCURACY_NOTE
    yield from report.remarks


def _latex(text: str) -> str:
    """Text that LaTeX shows as it is; a minus before a number is a minus sign."""
    escaped = "".join(_SPECIAL.get(sign, sign if sign.isprintable() else " ") for sign in text)
    return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", escaped)

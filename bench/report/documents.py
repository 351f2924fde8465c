"""The tables of a suite as Markdown (`table.md`, and the marked parts of README files) and as LaTeX (`table.tex`)."""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Iterator, Sequence

import pandas as pd

from bench.report import tables, teacher_seeds
from bench.report.figures import figure_name, plots_of_suite
from bench.report.figures.varied import name_of
from bench.report.frame import CELL
from bench.report.reproductions import NOTE, TITLE, reproduction_notes
from bench.report.suite_report import FEW_METHODS, SuiteReport

# A README's marked parts: of every suite, or of the first of those named that has records. The rest is left as it is.
#     <!-- tables: python -m bench publish -->  or  <!-- table of small or quick: python -m bench publish -->
#     <!-- end of tables -->
_MARKED = re.compile(
    r"(<!-- tables?(?: of (\S+(?: or \S+)*))?: python -m bench publish -->).*?(<!-- end of tables -->)", re.DOTALL
)
NEW_README = """# Results

<!-- tables: python -m bench publish -->
<!-- end of tables -->
"""
BEST_NOTE = (
    "The best epoch is the one with the highest {measure}, so its number is too high. Published numbers are of this kind."
    " They are compared with it alone, and only if the recipe's hash is that of the published recipe. † second-hand;"
    " ‡ an independent rerun."
)
CONVERGENCE_NOTE = (
    "Epochs to {name}'s final: the first epoch with the final {measure} of {reference} with the same seed; for"
    " {reference}, with its own. Speed-up: the epochs of {reference} (or seconds, on the same hardware) until then over the"
    " method's, mean over seeds, if all seeds reach it; without and with the teacher's own training, which all seeds share."
    " Epochs are the safer measure: wall times of equal computations differ where a machine does other work too."
)
CHANCE_NOTE = (
    "At chance: the final accuracy is not above that of guessing by three standard errors. Reaching it says nothing, so"
    " there is no speed-up."
)
COST_NOTE = (
    "GFLOPs: of the student's forward pass; a multiplication and an addition are two. Images/s: of training. Time: with"
    " evaluation, without the teacher's own training."
)
PAGE_ROWS = 45  # longer LaTeX tables are broken over pages
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "…": r"\ldots{}"},
}


def markdown(report: SuiteReport) -> str:
    """`table.md`: all tables of a suite."""
    name, cells = report.suite.name, report.cells.dropna(subset="published_value")
    sources = cells[["published_work", "published_source"]].drop_duplicates().itertuples(index=False)
    published = [f"{work}: {source}." for work, source in sources]
    convergence = CONVERGENCE_NOTE.format(name=report.suite.reference, reference=report.reference, measure=report.measure)
    best = BEST_NOTE.format(measure=report.measure)
    chance = [CHANCE_NOTE] if report.cells["chance_seeds"].any() else []
    sections = {
        "Best epoch and published numbers": (
            tables.best_table(report),
            [best, *published],
        ),
        "Convergence": (tables.convergence_table(report), [convergence, *chance]),
        "Costs": (tables.cost_table(report), [COST_NOTE, *tables.teacher_sentences(report.runs)]),
        "Runs": (tables.runs_table(report), []),
    }
    parts = [
        f"# Suite `{name}`",
        "Computed from `records.jsonl`, also as [CSV](table.csv), [LaTeX](table.tex) and [JSON](table.json).",
        "## Last epoch",
        *headline(report),
    ]
    for title, (table, sentences) in sections.items():
        parts.append(f"## {title}")
        if table.empty:
            parts.append("No run has finished.")
        else:
            parts += [_markdown_table(table), *([_text(" ".join(sentences))] if sentences else [])]
    if by_seed := teacher_seeds.seed_tables(report):
        parts += [f"## {teacher_seeds.TITLE}", teacher_seeds.NOTE]
        for one in by_seed:
            parts += [_text(f"{one.title}:"), _markdown_table(one.texts), _text(one.sentence)]
    if others := tables.reproduction_tables(report):
        parts += [f"## {TITLE}", NOTE.format(reference=report.reference)]
        parts += [part for where, table in others.items() for part in (_text(f"{where}:"), _markdown_table(table))]
    return "\n\n".join(parts) + "\n"


def headline(report: SuiteReport) -> Iterator[str]:
    """The accuracies in Markdown, one table per dataset, and what a reader must know before comparing."""
    yield from _headline(report, tables.accuracy_note(report), report.remarks)


def _headline(report: SuiteReport, note: str, remarks: Sequence[str]) -> Iterator[str]:
    for dataset, table in _accuracy_tables(report):
        yield f"Dataset {_code(dataset)}{_text(_colon(report.images_note(dataset)))}"
        yield _markdown_table(table)
    yield note
    yield "\n".join(f"- {_text(sentence)}" for sentence in [*remarks, *_not_run_note(report)])


def fill_readme(text: str, reports: Sequence[SuiteReport], folder: str = "") -> str:
    """A README's text with headline tables between its markers. A part whose suites have no records is left as it is.

    Args:
        folder: of the results, relative to the README, with a slash at its end.
    """

    by_name = {report.suite.name: report for report in reports}

    def fill(place: re.Match[str]) -> str:
        if place[2] is None:
            parts = [part for report in reports for part in (f"## `{report.suite.name}`", *_summary(report, folder))]
        elif named := [by_name[name] for name in place[2].split(" or ") if name in by_name]:
            parts = list(_summary(named[0], folder))
        else:
            return place[0]
        return "\n\n".join([place[1], *parts, place[3]])

    return _MARKED.sub(fill, text)


def latex(report: SuiteReport) -> str:
    r"""`table.tex`: the headline, one table per dataset, to `\input` with the packages that its first line names."""
    name, per_dataset = report.suite.name, list(_accuracy_tables(report))
    packages = "booktabs" + ",longtable" * any(len(table) > PAGE_ROWS for _, table in per_dataset)
    parts = [f"% suite {name}; needs \\usepackage{{{packages}}}"]
    for dataset, table in per_dataset:
        sentences = [f"Suite {name}, last epoch on {dataset}{_colon(report.images_note(dataset))}"]
        sentences += [tables.accuracy_note(report), report.protocol_note]
        sentences += [*reproduction_notes(report.reproductions), "Before comparing, see the notes in table.md."]
        long, names = len(table) > PAGE_ROWS, len(table.columns.intersection(list(tables.NAMES.values())))
        text = (
            table.map(_latex)
            .rename(columns=_latex)
            .style.hide(axis="index")
            .to_latex(
                hrules=True,
                column_format="l" * names + "r" * (len(table.columns) - names),
                caption=_latex(" ".join(sentences)),
                label=f"tab:{name}-{re.sub(r'[^A-Za-z0-9]+', '-', dataset)}",
                environment="longtable" if long else "table*",
                position_float=None if long else "centering",
            )
        )
        parts.append(text)
    return "\n".join(parts)


def _colon(text: str) -> str:
    return f": {text}" if text else "."


def _not_run_note(report: SuiteReport) -> list[str]:
    """A sentence on the cells without runs, which the tables of accuracies leave out."""
    cells = report.ranked_cells[_not_run(report)].drop_duplicates(CELL)
    cells["name"] = [" ".join(filter(None, (row.model, row.variant))) for row in cells.itertuples()]
    names = [f"{', '.join(own['name'])} on {dataset}" for dataset, own in cells.groupby("dataset", sort=False)]
    return [f"Not run yet: {'; '.join(names)}."] if names else []


def _not_run(report: SuiteReport) -> pd.Series:
    """Whether the cell of each of the ranked rows has no run at all."""
    rows = report.ranked_cells
    return (rows["status"] == "not run").groupby([rows[name] for name in CELL]).transform("all")


def _accuracy_tables(report: SuiteReport) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each dataset and its accuracies, with the student's name and the varied values in the first of their rows only."""
    rows = tables.accuracy_table(report)
    for dataset, table in rows[~_not_run(report).to_numpy()].groupby("dataset", sort=False):
        table = table.drop(columns="dataset")
        names, repeated = table.columns[: table.columns.get_loc("method")], True
        for name in names:  # a value counts as repeated where those before it are
            repeated &= table[name] == table[name].shift()
            table[name] = table[name].mask(repeated, "")
        yield str(dataset), table


def _summary(report: SuiteReport, folder: str) -> Iterator[str]:
    """The part of a suite in a README, in Markdown: a shorter headline, a figure, and links to the suite's files."""
    yield from _headline(report, tables.short_accuracy_note(report), [report.protocol_note, *report.notes])
    suite, name, shows = report.suite, "overview", f"gains of the methods of suite {report.suite.name}"
    if key := suite.varied_number:
        name, shows = "varied", f"gains and accuracies of suite {suite.name} against {name_of(key)}"
    if len(suite.models) == len(suite.datasets) == 1 and not suite.vary and len(suite.methods) <= FEW_METHODS:
        name = f"curves/{figure_name(suite.models[0], suite.datasets[0])}"
        shows = f"{suite.models[0]} on {suite.datasets[0]}: {report.measure} per epoch"
    if name in plots_of_suite(report):  # without pairs there are no gains
        path = urllib.parse.quote(f"{folder}{suite.name}/{name}")
        yield (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path}.dark.png">'
            f'<img src="{path}.png" alt="{html.escape(shows)}" width="520"></picture>'
        )
    files = {
        "All tables, settings and what the columns mean": "table.md",
        "CSV": "table.csv",
        "LaTeX": "table.tex",
        "JSON": "table.json",
    }
    files["records"] = "records.jsonl"
    yield ", ".join(f"[{name}]({folder}{suite.name}/{file})" for name, file in files.items()) + "."


def _markdown_table(table: pd.DataFrame) -> str:
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


def _latex(text: str) -> str:
    """Text that LaTeX shows as it is; a minus before a number is a minus sign."""
    escaped = "".join(_LATEX.get(sign, sign if sign.isprintable() else " ") for sign in text)
    return re.sub(r"(?<![\w.])([+-])(?=\d)", r"$\1$", escaped)

"""The headline table for a paper: booktabs, rows students, columns datasets, each with its arms and gains."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report.analysis import BASELINE, Analysis, Arm
from bench.report.spread import CONFIDENCE, ENOUGH_SEEDS, SeedStats

_MARKS = {"higher": r"\textsuperscript{$\uparrow$}", "lower": r"\textsuperscript{$\downarrow$}"}
COLUMNS = 6  # of numbers that fit the width of a page
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


def document(analysis: Analysis) -> str:
    r"""`table.tex`: a table environment to `\input`; it needs \usepackage{booktabs} and nothing else. Datasets
    that would not fit the width of a page follow below."""
    guided = [guidance for guidance in analysis.guidance if guidance != BASELINE]
    gains = guided if BASELINE in analysis.guidance else []
    width = len(analysis.guidance) + len(gains)
    beside = max(1, COLUMNS // width)
    panels = [analysis.datasets[first : first + beside] for first in range(0, len(analysis.datasets), beside)]
    usual = _usual_seeds(analysis)
    return "\n".join(
        [
            f"% python -m bench report --suite {analysis.suite}; needs \\usepackage{{booktabs}}",
            r"\begin{table*}",
            r"\centering\small",
            rf"\caption{{{' '.join(_caption(analysis, usual, bool(gains)))}}}",
            rf"\label{{tab:{analysis.suite}}}",
            rf"\begin{{tabular}}{{l{'r' * (width * len(panels[0]))}}}",
            r"\toprule",
            "\\midrule\n".join("\n".join([*_panel(analysis, datasets, gains, usual), ""]) for datasets in panels)
            + r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _panel(analysis: Analysis, datasets: list[str], gains: list[str], usual: int) -> Iterator[str]:
    """The lines of some datasets side by side, with their heading."""
    width = len(analysis.guidance) + len(gains)
    starts = range(2, 2 + width * len(datasets), width)
    yield " & " + " & ".join(rf"\multicolumn{{{width}}}{{c}}{{{_text(dataset)}}}" for dataset in datasets) + r" \\"
    yield " ".join(rf"\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts)
    names = [*map(_text, analysis.guidance), *("gain" if len(gains) == 1 else f"gain of {_text(g)}" for g in gains)]
    yield " & ".join(["student", *names * len(datasets)]) + r" \\"
    yield r"\midrule"
    for model in analysis.models:
        row = [_text(model)]
        for cell in (analysis.cell(model, dataset) for dataset in datasets):
            row += [_accuracy(arm, usual) for arm in cell.arms]
            row += [_gain(cell.arm(guidance)) for guidance in gains]
        yield " & ".join(row) + r" \\"


def _usual_seeds(analysis: Analysis) -> int:
    """The number of seeds that most arms have, said once; other numbers stand beside their cells."""
    counts = [len(arm.seeds) for cell in analysis.cells for arm in cell.arms if arm.seeds]
    return max(counts, key=lambda count: (counts.count(count), count), default=0)


def _caption(analysis: Analysis, usual: int, gains: bool) -> Iterator[str]:
    arms = [arm for cell in analysis.cells for arm in cell.arms]
    yield (
        r"Test accuracy of the last epoch in \%, mean $\pm$ standard deviation over"
        f" {usual} seed{'s' if usual > 1 else ''}; protocol {_text(analysis.protocol)}."
    )
    if any(arm.seeds and len(arm.seeds) != usual for arm in arms):
        yield "Superscripts: other numbers of seeds."
    if gone := sum(len(arm.diverged) for arm in arms):
        yield f"{gone} run{'s' if gone > 1 else ''} diverged and {'are' if gone > 1 else 'is'} left out."
    if gains:
        yield (
            rf"$\uparrow$, $\downarrow$: the {CONFIDENCE * 100:.0f}\,\% confidence interval of the gain, paired over seeds,"
            f" excludes zero (at least {ENOUGH_SEEDS} seeds)."
        )
    yield from map(_text, [*analysis.deviations, *analysis.notes])


def _accuracy(arm: Arm, usual: int) -> str:
    if arm.last is None:
        return arm.state
    return _pm(arm.last) + (rf"\textsuperscript{{{len(arm.seeds)}}}" if len(arm.seeds) != usual else "")


def _gain(arm: Arm) -> str:
    if arm.gain is None:
        return "no pair" if arm.last else arm.state
    return f"{_pm(arm.gain, '+')}{_MARKS.get(arm.gain.verdict, '')}"


def _pm(spread: SeedStats, sign: str = "") -> str:
    deviation = "" if spread.std is None else rf"{{\tiny$\,\pm${spread.std:.2f}}}"
    return f"${spread.mean:{sign}.2f}${deviation}"


def _text(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign if sign.isprintable() else " ") for sign in text)

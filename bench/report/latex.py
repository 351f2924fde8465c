"""The headline table for a paper: booktabs, rows students, columns datasets, each with its arms and gains."""

from __future__ import annotations

from bench.report.analysis import BASELINE, Analysis, Arm
from bench.report.spread import CONFIDENCE, ENOUGH_SEEDS, Spread

_MARKS = {"higher": r"\textsuperscript{$\uparrow$}", "lower": r"\textsuperscript{$\downarrow$}"}
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


def document(analysis: Analysis) -> str:
    r"""`table.tex`: a table environment to `\input`; it needs \usepackage{booktabs} and nothing else."""
    guided = [guidance for guidance in analysis.guidance if guidance != BASELINE]
    gains = guided if BASELINE in analysis.guidance else []
    width = len(analysis.guidance) + len(gains)
    heads, rules, columns = [], [], []
    for number, dataset in enumerate(analysis.datasets):
        first = 2 + number * width
        heads.append(rf"\multicolumn{{{width}}}{{c}}{{{_text(dataset)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        columns += [*map(_text, analysis.guidance), *("gain" if len(gains) == 1 else f"gain of {_text(g)}" for g in gains)]
    body = []
    for model in analysis.models:
        row = [_text(model)]
        for dataset in analysis.datasets:
            cell = analysis.cell(model, dataset)
            row += [_accuracy(arm) for arm in cell.arms]
            row += [_gain(cell.arm(guidance)) for guidance in gains]
        body.append(" & ".join(row) + r" \\")
    caption = (
        "Test accuracy of the last epoch in \\%, mean $\\pm$ standard deviation over seeds (their number); protocol"
        f" {_text(analysis.protocol)}."
    )
    if gains:
        caption += (
            f" $\\uparrow$, $\\downarrow$: the {CONFIDENCE * 100:.0f}\\,\\% confidence interval of the gain, paired over"
            f" seeds, excludes zero (at least {ENOUGH_SEEDS} seeds)."
        )
    caption += "".join(f" {_text(sentence)}" for sentence in [*analysis.deviations, *analysis.notes])
    return "\n".join(
        [
            f"% python -m bench report --suite {analysis.suite}; needs \\usepackage{{booktabs}}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{analysis.suite}}}",
            rf"\begin{{tabular}}{{l{'r' * (width * len(analysis.datasets))}}}",
            r"\toprule",
            " & " + " & ".join(heads) + r" \\",
            " ".join(rules),
            "student & " + " & ".join(columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _accuracy(arm: Arm) -> str:
    if arm.last is None:
        return arm.state
    gone = f", {len(arm.diverged)} diverged" if arm.diverged else ""
    return f"{_pm(arm.last)} ({len(arm.last.values)}{gone})"


def _gain(arm: Arm) -> str:
    if arm.gain is None:
        return "no pair" if arm.last else arm.state
    return f"{_pm(arm.gain, '+')}{_MARKS.get(arm.gain.verdict, '')}"


def _pm(spread: Spread, sign: str = "") -> str:
    deviation = "" if spread.std is None else rf" \pm {spread.std:.2f}"
    return f"${spread.mean:{sign}.2f}{deviation}$"


def _text(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign if sign.isprintable() else " ") for sign in text)

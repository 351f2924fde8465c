"""The tables of a suite as Markdown: accuracies, gains, published numbers, convergence, costs, and every run."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tabulate import tabulate

from bench.report.analysis import BASELINE, Analysis, Arm, machine
from bench.report.convergence import PARTS
from bench.report.gather import Record
from bench.report.spread import CONFIDENCE, ENOUGH_SEEDS, PairedDifference, SeedStats

MARKS = {"higher": " ▲", "lower": " ▼", "unclear": " ≈", "too few seeds": ""}
LEGEND = (
    f"▲ ▼: the {CONFIDENCE:.0%} confidence interval of the gain, paired over seeds, excludes zero; ≈: it holds zero; no"
    f" mark: fewer than {ENOUGH_SEEDS} seeds, too few to say. Each cell by itself, not corrected for the number of cells."
)


def document(analysis: Analysis, records: list[Record]) -> str:
    """`table.md`: everything, headings included."""
    sections = {
        "Last epoch": accuracies(analysis),
        "PairedDifference": _gains(analysis),
        "Best epoch, and published numbers": _best(analysis),
        "Convergence": _convergence(analysis),
        "Costs": _costs(analysis),
        "Runs": _runs(records),
    }
    parts = [f"# Suite `{analysis.suite}`", *_introduction(analysis)]
    for heading, section in sections.items():
        parts += [f"## {heading}", *section]
    return "\n\n".join(parts) + "\n"


def accuracies(analysis: Analysis) -> Iterator[str]:
    """The headline: rows students, columns datasets, each with its arms and gains; then what to know before comparing."""
    guided = [guidance for guidance in analysis.guidance if guidance != BASELINE]
    with_baseline = BASELINE in analysis.guidance
    headers, rows = ["student"], [[_code(model)] for model in analysis.models]
    for dataset in analysis.datasets:
        headers += [f"{_code(dataset)}<br>{_code(guidance)}" for guidance in analysis.guidance]
        if with_baseline:
            headers += [f"{_code(dataset)}<br>gain{f' of {_code(g)}' if len(guided) > 1 else ''}" for g in guided]
        for row, model in zip(rows, analysis.models, strict=True):
            cell = analysis.cell(model, dataset)
            row += [accuracy(arm) for arm in cell.arms]
            row += [gain(cell.arm(g)) for g in guided] if with_baseline else []
    yield _table(headers, rows)
    yield "Test accuracy in %, mean ± standard deviation over seeds (their number)." + (f" {LEGEND}" if guided else "")
    yield from _remarks(analysis)


def plain(analysis: Analysis) -> str:
    """The headline for a terminal: a row for each student and dataset."""
    guided = [guidance for guidance in analysis.guidance if guidance != BASELINE and BASELINE in analysis.guidance]
    headers = ["student", "dataset", *analysis.guidance, *("gain" if len(guided) == 1 else f"gain of {g}" for g in guided)]
    rows = [
        [cell.model, cell.dataset, *map(accuracy, cell.arms), *(gain(cell.arm(guidance)) for guidance in guided)]
        for cell in analysis.cells
    ]
    table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True)
    legend = f"\n{LEGEND}" if guided else ""
    return f"{table}\nTest accuracy of the last epoch in %, mean ± standard deviation over seeds (their number).{legend}"


def accuracy(arm: Arm, which: str = "last") -> str:
    """An arm's accuracy with the number of its seeds; those that diverged are said."""
    spread: SeedStats | None = getattr(arm, which)
    if spread is None:
        return arm.state
    gone = len(arm.diverged)
    return f"{pm(spread)} ({len(spread.values)}{f', {gone} diverged' if gone else ''})"


def gain(arm: Arm) -> str:
    """The gain of a guided arm with its mark."""
    return f"{pm(arm.gain, sign='+')}{MARKS[arm.gain.verdict]}" if arm.gain else "no pair" if arm.last else arm.state


def pm(spread: SeedStats | None, digits: int = 2, sign: str = "") -> str:
    """`mean ± deviation`; the mean alone where there is a single value."""
    if spread is None:
        return ""
    deviation = "" if spread.std is None else f" ± {spread.std:.{digits}f}"
    return f"{spread.mean:{sign}.{digits}f}{deviation}"


def words(gain: PairedDifference) -> str:
    """What a gain says, for readers who want no interval."""
    count = len(gain.values)
    seeds = f"{count} seed" + ("s" if count > 1 else "")
    return {
        "higher": f"higher than the baseline in the mean, beyond the spread of {seeds}",
        "lower": f"lower than the baseline in the mean, beyond the spread of {seeds}",
        "unclear": f"no difference that {seeds} could show",
        "too few seeds": f"{seeds}: too few to say",
    }[gain.verdict]


def duration(seconds: float) -> str:
    """Seconds as people read them: 49 s, 12.3 min, 2.6 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _introduction(analysis: Analysis) -> Iterator[str]:
    yield (
        f"Protocol `{analysis.protocol}`. Generated by `python -m bench report --suite {analysis.suite}` from"
        " `records.jsonl`; the same as [CSV](table.csv), [LaTeX](table.tex) and [JSON](table.json)."
    )
    if analysis.settings:
        settings = ", ".join(_code(f"{path}={value}") for path, value in analysis.settings.items())
        yield f"Settings of this suite, over the protocol's: {settings}."


def _remarks(analysis: Analysis) -> Iterator[str]:
    if analysis.deviations:
        listed = "\n".join(f"- {sentence}" for sentence in analysis.deviations)
        yield f"Deviations from the published protocol (docs/protocol.md has them all, with reasons):\n\n{listed}"
    else:
        yield f"The protocol `{analysis.protocol}` is not the published one: no published number is held against these."
    yield from (f"**{_text(note)}**" for note in analysis.notes)


def _gains(analysis: Analysis) -> Iterator[str]:
    rows = []
    for arm in _arms(analysis):
        if arm.gain:
            low, high = arm.gain.low, arm.gain.high
            interval = "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
            seeds = ", ".join(f"{value:+.2f}" for value in arm.gain.values.values())
            rows.append([*_names(arm), pm(arm.gain, sign="+"), interval, seeds, words(arm.gain)])
    if not rows:
        yield "No seed has both a baseline and a guided run."
        return
    yield _table(["student", "dataset", "guidance", "gain", f"{CONFIDENCE:.0%} interval", "seed by seed", "in words"], rows)
    yield (
        "Guided minus baseline, last epoch, in points of %. Both arms of a seed start from the same weights and see the"
        " same images in the same order, so the interval is of the mean of the differences (Student's t). All seeds share"
        " one teacher: the spread over teachers is not in it."
    )


def _best(analysis: Analysis) -> Iterator[str]:
    rows, used = [], {}
    for arm in _arms(analysis):
        first = arm.published[0] if arm.published else None
        if first:
            used[first.work, first.source, first.mark] = first
        difference = f"{arm.difference:+.2f}" if arm.difference is not None else ""
        told = [f"{first.top1:.2f}{first.mark}", difference, _text(first.work)] if first else ["", "", ""]
        rows.append([*_names(arm), accuracy(arm, "best"), pm(arm.gain_best, sign="+"), *told])
    yield _table(["student", "dataset", "guidance", "best epoch", "gain", "published", "difference", "of"], rows)
    yield (
        "The best epoch is chosen on the test set, so it flatters; published numbers are of this kind, and are compared"
        " with it alone, and only with runs of the published recipe, unchanged. † second-hand; ‡ an independent rerun."
    )
    for row in used.values():
        yield f"{_text(row.work)}{row.mark}: {_text(row.source)}"
    yield from _remarks(analysis)


def _convergence(analysis: Analysis) -> Iterator[str]:
    rows = []
    for arm in _arms(analysis):
        if not arm.last:
            continue
        told = ["", "", "", ""]
        if arm.reach:
            told = [
                f"{pm(arm.reach['epochs'], 1)} ({arm.reach['reached']} of {arm.reach['pairs']})",
                *(_times(arm.reach[f"speedup_{of}"]) for of in ("epochs", "time", "time_with_teacher")),
            ]
        to = [pm(arm.progress["epochs_to"][str(part)], 1) for part in PARTS]
        rows.append([*_names(arm), *told, pm(arm.progress["area"]), *to])
    reach = ["epochs to baseline's final", "sooner, epochs", "sooner, time", "with the teacher's training"]
    yield _table(["student", "dataset", "guidance", *reach, "area", *(f"to {part} %" for part in PARTS)], rows)
    yield (
        "Seed by seed, mean ± standard deviation. *Epochs to baseline's final*: the first epoch with the test accuracy that"
        " the baseline of the same seed ends with (how many seeds ever get there); *sooner*: the baseline's whole training"
        " over that, in epochs and, on the same hardware, in wall time, without and with the teacher's own training, which"
        " all seeds share. *Area*: under the curve, the mean test accuracy over the epochs in %. *To 50, 90, 95 %*: epochs"
        " until that part of the own final accuracy."
    )


def _costs(analysis: Analysis) -> Iterator[str]:
    rows = []
    for arm in _arms(analysis):
        if (cost := arm.cost) is None:
            continue
        rows.append(
            [
                *_names(arm),
                f"{cost.parameters / 1e6:.2f}" if cost.parameters else "",
                f"{cost.flops / 1e9:.3g}" if cost.flops else "not recorded",
                pm(cost.images_per_second, 0),
                duration(cost.seconds.mean),
                f"{cost.device_hours:.2f} {cost.device_unit}",
                f"{cost.peak_memory_mib.mean:,.0f}" if cost.peak_memory_mib else "",
                "; ".join(map(_text, cost.hardware)),
            ]
        )
    measured = ["10⁶ parameters", "GFLOPs an image", "images/s", "wall time a run", "all seeds", "peak memory, MiB", "on"]
    yield _table(["student", "dataset", "guidance", *measured], rows)
    yield (
        "GFLOPs: of the student's forward pass, a multiplication and an addition counted as two. Images/s: of training."
        " Wall time: evaluation after every epoch included, the teacher's own training not."
    )
    for teacher in analysis.teachers:
        yield (
            f"Teacher {_code(teacher['id'])} (seed {teacher['seed']}, one for all seeds of the students,"
            f" {_text(teacher['select'])} epoch kept): {teacher[teacher['select'] + '_accuracy']:.2f} % after"
            f" {teacher['epochs']} epochs, {duration(teacher['seconds'])}."
        )


def _runs(records: list[Record]) -> Iterator[str]:
    """Every run by itself, so that no seed hides behind a mean."""
    rows = []
    for record in records:
        if record.get("diverged"):
            last, best = f"diverged in epoch {record['epochs']}", ""
        else:
            last = f"{record['last_accuracy']:.2f}"
            best = f"{record['best_accuracy']:.2f} (epoch {record['best_epoch']} of {record['epochs']})"
        rate = f"{record['images_per_second']:,.0f}"
        name = [_code(record["id"]), record["seed"], _code(record["hash"][:8])]
        rows.append([*name, last, best, duration(record["seconds"]), rate, _text(machine(record))])
    yield _table(["recipe", "seed", "hash", "last", "best", "wall time", "images/s", "on"], rows)


def _arms(analysis: Analysis) -> Iterator[Arm]:
    for cell in analysis.cells:
        yield from cell.arms


def _names(arm: Arm) -> list[str]:
    return [_code(arm.model), _code(arm.dataset), _code(arm.guidance)]


def _times(spread: SeedStats | None) -> str:
    return f"{pm(spread, 1)} ×" if spread and math.isfinite(spread.mean) else ""


def _table(headers: list[str], rows: Iterable[list[Any]]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _code(text: str) -> str:
    """A name from a record or a recipe, as Markdown shows it and nothing else."""
    return f"`{text.replace('`', '').replace('|', '')}`"


def _text(text: str) -> str:
    """Words from a record, without what Markdown or HTML would take for markup."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"([\\`*_\[\]~])", r"\\\1", html.escape(line, quote=False)).replace("|", "&#124;")

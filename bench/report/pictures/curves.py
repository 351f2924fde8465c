"""Accuracy by epoch of a student on a dataset: how far each arm gets, and when a guided one is where the baseline
ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.report.analysis import BASELINE
from bench.report.pictures import words as measure
from bench.report.pictures.content import Curve, Curves, Number, Reach
from bench.report.pictures.layout import EDGE, TEXT, Scale, footnotes, header, number, runs_width, span, spread
from bench.report.pictures.sheet import WIDTH, Run, Sheet

TIMES = "\N{MULTIPLICATION SIGN}"
HEIGHT = 235  # px of the field of the curves
LINE = TEXT * 1.25


def sample_augment_params(picture: Curves) -> Sheet:
    """One field; the arms are named at the ends of their curves."""
    arms = [arm for arm in picture.arms if arm.mean]
    title = f"{picture.model} on {picture.dataset}"
    sheet = Sheet(f"{title}: {picture.measure} by epoch; {'; '.join(f'{a.guidance} {in_percent(a.last)}' for a in arms)}")
    top = header(sheet, title, _seeds(arms), *_left_out(picture.arms))
    if not arms:
        footnotes(sheet, top, [])
        return sheet
    sheet.text(EDGE, top + TEXT + 6, f"{picture.measure} (%)", "muted", TEXT)
    top += TEXT + 16
    bottom = top + HEIGHT
    labels = [_label(arm) for arm in arms]
    room = max(runs_width([run], TEXT) for label in labels for run in label)
    reaching = [arm for arm in arms if arm.reach]
    low, high = extent(arms)
    y = Scale(low, high, bottom - len(reaching) * LINE - (8 if reaching else 4), top + 4)
    ticks = y.ticks(5)
    left = EDGE + measure.widest(map(number, ticks), TEXT) + 8
    x = epochs_scale(arms, left, WIDTH - EDGE - min(room, WIDTH * 0.42) - 14)
    for tick in ticks:
        sheet.line([left, x.end], [y(tick)] * 2, "grid")
        sheet.text(left - 8, y(tick) + TEXT * 0.36, number(tick), "muted", TEXT, anchor="end")
    _epochs(sheet, x, bottom)
    for arm in arms:
        draw_curve(sheet, arm, x, y)
    _label_ends(sheet, arms, labels, x, y, top, bottom)
    baseline = next((arm for arm in arms if arm.guidance == BASELINE), None)
    if baseline is not None and reaching:
        _crossings(sheet, reaching, baseline, x, y, bottom)
    footnotes(sheet, bottom + TEXT * 2.8, [])
    return sheet


def extent(arms: Sequence[Curve]) -> tuple[float, float]:
    """The range of accuracies that bands and single seeds take."""
    stds = [np.array(arm.std) if arm.std else 0.0 for arm in arms]
    lows = [np.min(np.array(arm.mean) - std) for arm, std in zip(arms, stds, strict=True)]
    highs = [np.max(np.array(arm.mean) + std) for arm, std in zip(arms, stds, strict=True)]
    return span(float(min(lows)), float(max(highs)), least=1.0)


def epochs_scale(arms: Sequence[Curve], left: float, right: float) -> Scale:
    """From the first epoch to the last of the longest arm; a single epoch lies at the right, beside the names."""
    last = max(len(arm.mean) for arm in arms)
    return Scale(min(1, last - 1), last, left, right)


def draw_curve(sheet: Sheet, arm: Curve, x: Scale, y: Scale, width: float = 2.5, most: int = 2000) -> None:
    """Band, single seeds and mean of an arm; a curve of one epoch is a dot with its deviation. most: epochs that are drawn,
    evenly spaced, where there are more."""
    epochs = np.unique(np.linspace(1, len(arm.mean), min(most, len(arm.mean))).round().astype(int))
    mean = np.array(arm.mean)[epochs - 1]
    xs = x(epochs)
    if arm.std is not None:
        std = np.array(arm.std)[epochs - 1]
        low, high = y(mean - std), y(mean + std)
        if len(mean) > 1:
            sheet.area(xs, low, high, arm.colour)
        else:
            sheet.line([xs[0], xs[0]], [low[0], high[0]], arm.colour, 1.5)
    for own in arm.single:
        sheet.line(x(np.arange(1, len(own) + 1)), y(own), arm.colour, 0.8, opacity=0.45)
    if len(mean) > 1:
        sheet.line(xs, y(mean), arm.colour, width)
    else:
        sheet.dot(xs[0], float(y(mean[0])), arm.colour, width + 2)


def in_percent(value: Number | None) -> str:
    """As 71.20 ± 0.31 %."""
    if value is None:
        return "none"
    return f"{value.mean:.2f} %" if value.std is None else f"{value.mean:.2f} ± {value.std:.2f} %"


def sooner(reach: Reach) -> str:
    """As 6.3: 3.2× sooner."""
    factor = f"{reach.speedup:.1f}"
    said = "as soon" if factor == "1.0" else f"{factor}{TIMES} {'sooner' if reach.speedup > 1 else 'as soon'}"
    return f"{number(round(reach.epochs, 1))}: {said}"


def _seeds(arms: Sequence[Curve]) -> str:
    counts = sorted({arm.seeds for arm in arms})
    if not counts:
        return "No run came to an end."
    if counts == [1]:
        return "One seed."
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    thin = " Thin lines: single seeds." if any(arm.single for arm in arms) and len(arms[0].mean) > 1 else ""
    shape = "Band" if max(len(arm.mean) for arm in arms) > 1 else "Bar"
    return f"Mean of {many} seeds. {shape}: ± 1 standard deviation.{thin}"


def _left_out(arms: Sequence[Curve]) -> list[str]:
    lost = [f"{arm.diverged} of {arm.seeds + arm.diverged} of {arm.guidance}" for arm in arms if arm.diverged]
    return [f"Left out, since their loss diverged: {', '.join(lost)}."] if lost else []


def _label(arm: Curve) -> list[Run]:
    """Two lines: an arm's name and where it ends."""
    name = measure.fit(arm.guidance, TEXT, WIDTH * 0.4, bold=True)
    return [(name, arm.colour, True), (in_percent(arm.last), "text", False)]


def _epochs(sheet: Sheet, x: Scale, bottom: float) -> None:
    sheet.line([x.start, x.end], [bottom, bottom], "hairline")
    ticks = [1.0, *(tick for tick in x.ticks(5, integer=True) if tick > 1)] if x.low == 1 else [1.0]
    if len(ticks) > 2 and x(ticks[1]) - x(1) < 30:
        del ticks[0]
    for tick in ticks:
        sheet.line([x(tick)] * 2, [bottom, bottom + 4], "hairline")
        sheet.text(x(tick), bottom + 5 + TEXT, number(tick), "muted", TEXT, anchor="middle")
    sheet.text((x.start + x.end) / 2, bottom + 8 + TEXT * 2.2, "epoch", "muted", TEXT, anchor="middle")


def _label_ends(
    sheet: Sheet, arms: Sequence[Curve], labels: Sequence[Sequence[Run]], x: Scale, y: Scale, top: float, bottom: float
) -> None:
    ends = [float(y(arm.mean[-1])) for arm in arms]
    places = spread(ends, 2 * LINE + 6, top + LINE / 2, bottom - LINE)
    for arm, label, end, place in zip(arms, labels, ends, places, strict=True):
        at = x(len(arm.mean))
        if abs(place - end) > LINE or x.end - at > 12:  # too far to be told by nearness
            sheet.line([at + 4, x.end + 8], [end, place], arm.colour, 0.8)
        for run, line in zip(label, (-0.12, 0.98), strict=True):
            sheet.runs(x.end + 12, place + line * LINE, [run], TEXT)


def _crossings(sheet: Sheet, arms: Sequence[Curve], baseline: Curve, x: Scale, y: Scale, bottom: float) -> None:
    """The level that the baseline ends with, and a drop from where guided arms reach it to the words that say so. Later
    drops are shorter, so that none cuts the words of another."""
    level = float(y(baseline.last.mean))
    sheet.line([x.start, x.end], [level, level], baseline.colour, 1.0, dash=(4, 3))
    rows = sorted(arms, key=lambda arm: arm.reach.epochs or 0.0)  # from below
    for row, arm in enumerate(rows):
        line = bottom - 6 - row * LINE
        reach = arm.reach
        if reach.epochs is None:
            said = f"never reaches {baseline.last.mean:.2f} %"
            sheet.text(x.end, line, said, arm.colour, TEXT, True, "end", halo=True)
            continue
        said = f"epoch {sooner(reach)}"
        if reach.reached < reach.pairs:
            said += f" ({reach.reached} of {reach.pairs} seeds)"
        at = float(x(reach.epochs))
        said = measure.fit(said, TEXT, x.end - x.start, bold=True)
        beside = at + 6 + measure.width(said, TEXT, bold=True) <= x.end + 8
        sheet.line([at, at], [level, line + 3 if beside else line - TEXT], arm.colour, 1.2)
        sheet.dot(at, level, arm.colour, 4.5, filled=False)
        sheet.text(at + 6 if beside else x.end, line, said, arm.colour, TEXT, True, "start" if beside else "end", halo=True)

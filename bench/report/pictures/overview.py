"""Every student from its baseline to its guided accuracy, a row a student, a field a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.analysis import BASELINE
from bench.report.pictures import words as measure
from bench.report.pictures.content import End, Ends, Row
from bench.report.pictures.layout import EDGE, MINUS, TEXT, Scale, footnotes, header, key, number, signed, span
from bench.report.pictures.sheet import WIDTH, Sheet

ROW = 25.0  # px from one student to the next
LANE = 21.0  # px from one guided arm of a student to the next
NAMES = 0.27  # of the width, at most for the names of students


def sample_augment_params(picture: Ends) -> Sheet:
    """All fields have the same scale, each its own part of it, so that equal lengths are equal gains."""
    rows = [row for row in picture.rows if any(arm.state != "not run" for arm in row.arms)]
    guided = [name for name in picture.colours if name != BASELINE]
    sheet = Sheet(f"Suite {picture.suite}: {picture.measure} of each student, baseline to guided. {_told(rows)}")
    what = f"{picture.measure.capitalize()} of the last epoch, {seeds(rows)}."
    if guided and any(arm.low is not None for row in rows for arm in row.arms):
        what += " Gains are paired by seed; lines through the marks: their 95 % intervals."
    title = "What guidance adds, student by student" if guided else "Accuracy, student by student"
    y = header(sheet, title, what)
    y = key(sheet, y, _key(picture, guided)) + 4
    names = min(measure.widest((row.model for row in rows), TEXT), WIDTH * NAMES)
    gains = _gains_width(rows)
    left, right = EDGE + names + 18, WIDTH - EDGE - gains - (16 if gains else 8)
    fields = {dataset: [row for row in rows if row.dataset == dataset] for dataset in picture.datasets}
    extents = {dataset: _extent(own) for dataset, own in fields.items() if own and _values(own)}
    least = max((high - low for low, high in extents.values()), default=0.0)
    for dataset, own in fields.items():
        if own:
            x = Scale(*span(*extents.get(dataset, (0.0, 100.0)), max(least, 1.0) * 1.12), left, right)
            y = _field(sheet, y, dataset, own, x, names, picture.measure)
    footnotes(sheet, y, not_run(picture.rows))
    return sheet


def seeds(rows: Sequence[Row]) -> str:
    """How many seeds the means are of."""
    counts = sorted({arm.seeds for row in rows for arm in row.arms if arm.seeds})
    if len(counts) > 1:
        return f"mean of {counts[0]} to {counts[-1]} seeds"
    return f"mean of {counts[0]} seeds" if counts and counts[0] > 1 else "one seed"


def not_run(rows: Sequence[Row]) -> list[str]:
    """A note where cells are missing."""
    states = [arm.state for row in rows for arm in row.arms]
    missing = states.count("not run")
    return [f"{missing} of {len(states)} cells not run."] if missing else []


def gain_in_words(arm: End) -> str:
    """As +8.33 [6.20, 10.46]."""
    if arm.gain is None:
        return ""
    if arm.low is None:
        return signed(arm.gain, 2)
    return f"{signed(arm.gain, 2)} [{arm.low:.2f}, {arm.high:.2f}]".replace("-", MINUS)


def _told(rows: Sequence[Row]) -> str:
    said = [f"{row.model} on {row.dataset}, {a.guidance}: {gain_in_words(a)}" for row in rows for a in row.arms if a.gain]
    return "; ".join(said)


def _key(picture: Ends, guided: Sequence[str]) -> list[tuple[str, str, bool | None]]:
    entries: list[tuple[str, str, bool | None]] = [(name, colour, True) for name, colour in picture.colours.items()]
    if guided:
        arms = [arm for row in picture.rows for arm in row.arms if arm.gain is not None]
        if any(not arm.clear for arm in arms):
            few = any(arm.low is None for arm in arms)
            unclear = "too few seeds to tell, or no clear difference" if few else "no clear difference: interval holds zero"
            entries.append((unclear, "hairline", False))
    return entries


def _lanes(row: Row) -> list[End]:
    """The guided arms of a row that have something to show; the baseline alone where there is none."""
    guided = [arm for arm in row.arms if arm.guidance != BASELINE and arm.state != "not run"]
    return guided or [arm for arm in row.arms if arm.guidance == BASELINE]


def _values(rows: Sequence[Row]) -> list[float]:
    out = []
    for arm in (arm for row in rows for arm in row.arms if arm.last is not None):
        out.append(arm.last.mean)
        if arm.low is not None:
            out += [arm.last.mean + arm.low - arm.gain, arm.last.mean + arm.high - arm.gain]
    return out


def _extent(rows: Sequence[Row]) -> tuple[float, float]:
    values = _values(rows)
    return max(min(values), -5.0), min(max(values), 105.0)  # an interval of few seeds may be wider than all accuracies


def _gains_width(rows: Sequence[Row]) -> float:
    arms = [arm for row in rows for arm in _lanes(row)]
    return max(measure.widest((_said(arm)[0] for arm in arms), TEXT, bold=True), 0.0)


def _said(arm: End) -> tuple[str, str]:
    """What stands at the right of a lane, and its colour."""
    if arm.guidance == BASELINE:
        return (f"baseline {arm.last.mean:.2f} %" if arm.last else "diverged"), "muted"
    if arm.state == "diverged":
        return "diverged", "muted"
    if arm.gain is None:
        return "no baseline", "muted"
    return gain_in_words(arm), "text"


def _field(sheet: Sheet, y: float, dataset: str, rows: Sequence[Row], x: Scale, names: float, measured: str) -> float:
    y += TEXT * 1.5
    room = WIDTH - 2 * EDGE
    gains = any(arm.gain is not None for row in rows for arm in row.arms)
    if gains:
        interval = any(arm.low is not None for row in rows for arm in row.arms)
        head = "gain in points [95 % interval]" if interval else "gain in points"
        sheet.text(WIDTH - EDGE, y, head, "muted", TEXT, anchor="end")
        room -= measure.width(head, TEXT) + 12
    sheet.text(EDGE, y, measure.fit(dataset, TEXT + 1, room, bold=True), size=TEXT + 1, bold=True)
    y += 8
    height = sum(ROW + LANE * (len(_lanes(row)) - 1) for row in rows)
    for tick in x.ticks(5):
        sheet.line([x(tick)] * 2, [y, y + height + 4], "grid")
        sheet.text(x(tick), y + height + 6 + TEXT, number(tick), "muted", TEXT, anchor="middle")
    for row in rows:
        middle = y + ROW / 2
        sheet.text(EDGE, middle + TEXT * 0.36, measure.fit(row.model, TEXT, names), size=TEXT)
        baseline = next((arm for arm in row.arms if arm.guidance == BASELINE and arm.last), None)
        for lane, arm in enumerate(_lanes(row)):
            _dumbbell(sheet, middle + lane * LANE, arm, baseline, x)
        y += ROW + LANE * (len(_lanes(row)) - 1)
    sheet.text((x.start + x.end) / 2, y + 8 + TEXT * 2.1, f"{measured} (%)", "muted", TEXT, anchor="middle")
    return y + 8 + TEXT * 2.9


def _dumbbell(sheet: Sheet, y: float, arm: End, baseline: End | None, x: Scale) -> None:
    said, colour = _said(arm)
    sheet.text(WIDTH - EDGE, y + TEXT * 0.36, said, colour, TEXT, bold=arm.clear, anchor="end")
    both = arm.last is not None and baseline is not None and arm.guidance != BASELINE
    if both:
        sheet.line(x([baseline.last.mean, arm.last.mean]), [y, y], arm.colour, 2.5, opacity=0.45)
    if both and arm.low is not None:
        low, high = (min(max(arm.last.mean + end - arm.gain, x.low), x.high) for end in (arm.low, arm.high))
        sheet.line(x([low, high]), [y, y], arm.colour, 1.2)
        for end in (low, high):
            sheet.line([x(end)] * 2, [y - 3.5, y + 3.5], arm.colour, 1.2)
    if baseline is not None:
        sheet.dot(x(baseline.last.mean), y, baseline.colour)
    if arm.last is not None and arm.guidance != BASELINE:
        sheet.dot(x(arm.last.mean), y, arm.colour, filled=arm.clear or not both)

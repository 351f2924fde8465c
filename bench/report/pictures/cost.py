"""What accuracy costs: test accuracy against the device time of a run, a field a dataset, an arrow a student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.analysis import BASELINE
from bench.report.pictures import words as measure
from bench.report.pictures.content import End, Ends, Row
from bench.report.pictures.layout import EDGE, TEXT, Scale, footnotes, header, key, number, span
from bench.report.pictures.overview import not_run, seeds
from bench.report.pictures.sheet import WIDTH, Sheet

HEIGHT = 230.0  # px of a field
LOG_FROM = 6.0  # the ratio of times from which their axis is logarithmic


def sample_augment_params(picture: Ends) -> Sheet:
    """A field a dataset and kind of device time."""
    rows = [row for row in picture.rows if any(arm.hours for arm in row.arms)]
    sheet = Sheet(f"Suite {picture.suite}: {picture.measure} against the device time of a run, baseline to guided")
    what = f"{picture.measure.capitalize()} of the last epoch, {seeds(rows)}"
    what += ", bars: ± 1 standard deviation." if any(a.last and a.last.std for row in rows for a in row.arms) else "."
    if picture.teachers:
        what += " The time of a teacher's training is not in it: a teacher is trained once for all students and seeds."
    y = header(sheet, "Accuracy against time", what)
    y = key(sheet, y, [(name, colour, True) for name, colour in picture.colours.items()]) + 4
    for dataset in picture.datasets:
        for unit in sorted({arm.unit for row in rows if row.dataset == dataset for arm in row.arms if arm.hours}):
            own = [
                Row(row.model, dataset, [arm for arm in row.arms if arm.hours and arm.unit == unit])
                for row in rows
                if row.dataset == dataset
            ]
            y = _field(
                sheet,
                y,
                dataset,
                unit,
                [row for row in own if row.arms],
                picture.teachers.get(dataset, []),
                picture.measure,
            )
    footnotes(sheet, y, not_run(picture.rows))
    return sheet


def _field(
    sheet: Sheet,
    y: float,
    dataset: str,
    unit: str,
    rows: Sequence[Row],
    teachers: Sequence[tuple[str, float]],
    measured: str,
) -> float:
    arms = [arm for row in rows for arm in row.arms]
    factor, unit = _in(unit, max(arm.hours for arm in arms))
    y += TEXT * 2
    sheet.text(EDGE, y, measure.fit(dataset, TEXT + 1, WIDTH - 2 * EDGE, bold=True), size=TEXT + 1, bold=True)
    told = [f"{name} {duration(seconds)}" for name, seconds in teachers]
    if told:
        y += TEXT * 1.35
        sheet.text(
            EDGE, y, measure.fit(f"training its teacher took: {', '.join(told)}", TEXT, WIDTH - 2 * EDGE), "muted", TEXT
        )
    y += TEXT * 1.6
    sheet.text(EDGE, y, f"{measured} (%)", "muted", TEXT)
    top, bottom = y + 4, y + 4 + HEIGHT
    ups, downs = ([arm.last.mean + sign * (arm.last.std or 0) for arm in arms] for sign in (1, -1))
    up = Scale(*span(min(downs), max(ups), 1.0), bottom - 16, top + 10)
    ticks = up.ticks(5)
    left = EDGE + measure.widest(map(number, ticks), TEXT) + 8
    across = _times([arm.hours * factor for arm in arms], left, WIDTH - EDGE)
    for tick in ticks:
        sheet.line([left, WIDTH - EDGE], [up(tick)] * 2, "grid")
        sheet.text(left - 8, up(tick) + TEXT * 0.36, number(tick), "muted", TEXT, anchor="end")
    sheet.line([left, WIDTH - EDGE], [bottom] * 2, "hairline")
    for tick in across.ticks(6):
        sheet.line([across(tick)] * 2, [bottom, bottom + 4], "hairline")
        at = min(float(across(tick)), WIDTH - 4 - measure.width(number(tick), TEXT) / 2)
        sheet.text(at, bottom + 5 + TEXT, number(tick), "muted", TEXT, anchor="middle")
    axis = f"{unit} a run{', logarithmic' if across.log else ''}"
    sheet.text((left + WIDTH - EDGE) / 2, bottom + 8 + TEXT * 2.2, axis, "muted", TEXT, anchor="middle")
    names = _Names((left + 2, top, WIDTH - EDGE, bottom - 3))
    points = [[_place(arm, across, up, factor) for arm in row.arms] for row in rows]
    for row, own in zip(rows, points, strict=True):
        _arrows(sheet, row.arms, own, up, names)
    for row, own in zip(rows, points, strict=True):
        names.put(sheet, row.model, *own[-1])
    return bottom + TEXT * 3.1


def duration(seconds: float) -> str:
    """In the unit that people would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _in(unit: str, hours: float) -> tuple[float, str]:
    """Hours, or minutes or seconds where all are short."""
    if hours >= 1.5:
        return 1.0, unit
    return (60.0, unit.replace("hours", "minutes")) if hours >= 0.025 else (3600.0, unit.replace("hours", "seconds"))


def _times(times: Sequence[float], left: float, right: float) -> Scale:
    low, high = min(times), max(times)
    if high / low >= LOG_FROM:
        margin = (high / low) ** 0.08
        return Scale(low / margin, high * margin, left, right, log=True)
    return Scale(max(0.0, low - (high - low) * 0.15 - high * 0.05), high * 1.05 + (high - low) * 0.1, left, right)


def _place(arm: End, across: Scale, up: Scale, factor: float) -> tuple[float, float]:
    return float(across(arm.hours * factor)), float(up(arm.last.mean))


def _arrows(sheet: Sheet, arms: Sequence[End], points: Sequence[tuple[float, float]], up: Scale, names: _Names) -> None:
    start = next((point for arm, point in zip(arms, points, strict=True) if arm.guidance == BASELINE), None)
    for arm, (x, y) in zip(arms, points, strict=True):
        if start is not None and arm.guidance != BASELINE:
            _arrow(sheet, start, (x, y))
            names.line(start, (x, y))
        if arm.last.std:
            low, high = (float(up(arm.last.mean + sign * arm.last.std)) for sign in (-1, 1))
            sheet.line([x, x], [low, high], arm.colour, 1.5)
            names.line((x, low), (x, high))
        names.keep((x - 6, y - 6, x + 6, y + 6))
    for arm, (x, y) in zip(arms, points, strict=True):
        sheet.dot(x, y, arm.colour, 4.5)


def _arrow(sheet: Sheet, start: tuple[float, float], end: tuple[float, float]) -> None:
    length = math.dist(start, end)
    if length < 14:  # the dots say it
        return
    x, y = ((b - a) / length for a, b in zip(start, end, strict=True))
    tip = end[0] - 6 * x, end[1] - 6 * y
    sheet.line([start[0], tip[0] - 5 * x], [start[1], tip[1] - 5 * y], "hairline", 1.3)
    back = tip[0] - 7 * x, tip[1] - 7 * y
    sheet.shape([tip, (back[0] - 3.5 * y, back[1] + 3.5 * x), (back[0] + 3.5 * y, back[1] - 3.5 * x)], "hairline")


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass
class _Names:
    """Names beside their dots, where they hide no dot and no other name."""

    field: Box

    def __post_init__(self) -> None:
        self.taken: list[Box] = []
        self.drawn: list[Box] = []

    def keep(self, box: Box) -> None:
        """No name may lie over this box."""
        self.taken.append(box)

    def line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Names rather lie elsewhere than over this line."""
        pieces = max(1, int(math.dist(start, end) / 8))
        for piece in range(pieces + 1):
            x, y = (a + (b - a) * piece / pieces for a, b in zip(start, end, strict=True))
            self.drawn.append((x - 1, y - 1, x + 1, y + 1))

    def put(self, sheet: Sheet, name: str, x: float, y: float) -> None:
        """A name as near to its dot as may be; a thin line leads to it where it is not beside it."""
        left, top, right, bottom = self.field
        short = measure.fit(name, TEXT, (right - left) * 0.6)
        wide, high = measure.width(short, TEXT), TEXT
        best: tuple[float, Box] | None = None
        for distance in (0, 10, 20, 32, 46, 62, 80, 100, 125, 150, 180, 220):
            for angle in range(0, 360, 30 if distance else 45):
                ax, ay = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
                beside = math.copysign(wide / 2, ax) if abs(ax) > 0.1 else 0.0
                cx = x + ax * (9 + distance) + beside
                cy = y + ay * (8 + distance + high / 2)
                box = (cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2)
                if box[0] < left or box[2] > right or box[1] < top or box[3] > bottom:
                    continue
                worth = distance + 1000 * sum(_overlap(box, other, 3) for other in self.taken)
                worth += 6 * sum(_overlap(box, other, 0) for other in self.drawn)
                if best is None or worth < best[0]:
                    best = worth, box
            if best is not None and best[0] <= distance:
                break
        box = best[1] if best else (x, y, x + wide, y + high)
        self.taken.append(box)
        near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
        if math.dist(near, (x, y)) > 16:
            gap = 1 - 3 / math.dist(near, (x, y))
            sheet.line([x, x + (near[0] - x) * gap], [y, y + (near[1] - y) * gap], "hairline", 0.8)
        sheet.text(box[0], box[3] - TEXT * 0.2, short, size=TEXT, halo=True)


def _overlap(one: Box, other: Box, apart: float) -> bool:
    return (
        one[0] < other[2] + apart and other[0] < one[2] + apart and one[1] < other[3] + apart and other[1] < one[3] + apart
    )

"""What pictures have in common: titles, keys, axes, and words that make room for one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from bench.report.pictures import words as measure
from bench.report.pictures.sheet import GAP, WIDTH, Run, Sheet

EDGE = 14.0  # px that stay free on each side
MINUS = "\N{MINUS SIGN}"
TITLE, TEXT, SMALL = 18.0, 13.0, 12.0


def header(sheet: Sheet, title: str, *paragraphs: str) -> float:
    """Title and what is to know below it; returns where it ends, in px from above."""
    y, room = EDGE + 2.0, WIDTH - 2 * EDGE
    for line in measure.wrap(title, TITLE, room, bold=True):
        y += TITLE * 1.1
        sheet.text(EDGE, y, line, size=TITLE, bold=True)
        y += TITLE * 0.15
    y += 3
    for paragraph in paragraphs:
        for line in measure.wrap(paragraph, TEXT, room):
            y += TEXT * 1.35
            sheet.text(EDGE, y, line, "muted", TEXT)
    return y + 8


def footnotes(sheet: Sheet, y: float, notes: Sequence[str]) -> None:
    """Below everything else; sets the sheet's height."""
    for note in notes:
        for line in measure.wrap(note, SMALL, WIDTH - 2 * EDGE):
            y += SMALL * 1.35
            sheet.text(EDGE, y, line, "muted", SMALL)
    sheet.height = y + EDGE


def key(sheet: Sheet, y: float, entries: Sequence[tuple[str, str, bool | None]]) -> float:
    """What marks mean, side by side as far as they go; returns where it ends.

    Args:
        entries: (words, colour, mark): a disc (True), a ring (False) or a line (None).
    """
    x, y = EDGE, y + TEXT
    for words, colour, mark in entries:
        short = measure.fit(words, TEXT, WIDTH - 2 * EDGE - 24)
        long = 22 + measure.width(short, TEXT)
        if x > EDGE and x + long > WIDTH - EDGE:
            x, y = EDGE, y + TEXT * 1.45
        if mark is None:
            sheet.line([x, x + 16], [y - 4.5, y - 4.5], colour, 3)
        else:
            sheet.dot(x + 7, y - 4.5, colour, filled=mark)
        sheet.text(x + 22, y, short)
        x += long + 18
    return y + 8


@dataclass(frozen=True)
class Scale:
    """Values to px: `low` lies at `start`, `high` at `end`; log: by their logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: float | Sequence[float] | np.ndarray) -> np.ndarray:
        low, high, values = self.low, self.high, np.asarray(values, float)
        if self.log:
            low, high, values = np.log(low), np.log(high), np.log(values)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int, integer: bool = False) -> list[float]:
        """At most about `most` round values within."""
        if self.log:
            decades = np.log10(self.high / self.low)
            subs = (1, 2, 5) if decades < most / 2 else (1,)
            found = LogLocator(subs=subs, numticks=99).tick_values(self.low, self.high)
            if len(found) < 2:
                found = MaxNLocator(most).tick_values(self.low, self.high)
        else:
            found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=integer).tick_values(self.low, self.high)
        slack = 0.0 if self.log else 1e-9 * (self.high - self.low)
        return [float(tick) for tick in found if self.low - slack <= tick <= self.high + slack]


def span(low: float, high: float, least: float, bounds: tuple[float, float] = (0.0, 100.0)) -> tuple[float, float]:
    """A range around values, at least `least` wide, that does not leave `bounds` unless values do."""
    margin = max((high - low) * 0.06, (least - (high - low)) / 2)
    start, end = low - margin, high + margin
    start, end = max(start, min(bounds[0], low)), min(end, max(bounds[1], high))
    if end - start < least:  # it was cut at one side
        start, end = (start, start + least) if start <= bounds[0] else (end - least, end)
    return start, end


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the given ones, in their order, `gap` apart and, where there is room, within low and high."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    out = list(places)
    for before, i in zip([None, *order], order, strict=False):
        out[i] = max(out[i], low if before is None else out[before] + gap)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        out[i] = min(out[i], high if after is None else out[after] - gap)
    return out


def runs_width(runs: Sequence[Run], size: float) -> float:
    """Of runs of a text side by side."""
    return sum(measure.width(words, size, bold) for words, _, bold in runs) + GAP * size * (len(runs) - 1)


def signed(value: float, places: int) -> str:
    """With a plus or a real minus; what rounds to zero has a plus."""
    said = f"{round(value, places) or 0.0:+.{places}f}"
    return said.replace("-", MINUS)


def number(value: float) -> str:
    """A tick's label."""
    return (f"{value:,.6g}" if abs(value) >= 1 else f"{value:.3g}").replace("-", MINUS)

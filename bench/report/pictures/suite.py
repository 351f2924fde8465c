"""The curves of a whole suite at once: rows are students, columns datasets, which share their range of accuracies."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.analysis import BASELINE
from bench.report.pictures import words as measure
from bench.report.pictures.content import Curve, Curves, Panels
from bench.report.pictures.curves import draw_curve, epochs_scale, extent
from bench.report.pictures.layout import EDGE, SMALL, TEXT, Scale, footnotes, header, key, number, signed
from bench.report.pictures.sheet import WIDTH, Sheet

ROW = 66.0  # px of the field of a panel
NAME = 29.0  # px of a student's name above its panels
BETWEEN = 10.0
EPOCHS = 100  # of a curve that are drawn: more than a narrow panel can show would only make the file large


def sample_augment_params(picture: Panels) -> Sheet:
    """A panel a student and dataset, with the gain of its guided arm where there is one."""
    cells = {(panel.model, panel.dataset): panel for panel in picture.panels}
    models = [model for model in picture.models if any(_drawn(cells[model, dataset]) for dataset in picture.datasets)]
    arms = {arm.guidance: arm for panel in picture.panels for arm in panel.arms}
    gains = len(arms) == 2 and BASELINE in arms
    sheet = Sheet(f"Suite {picture.suite}: {picture.measure} by epoch of every student on every dataset")
    what = f"{picture.measure.capitalize()} (%) by epoch, {_seeds(picture.panels)}. A column has one range of accuracies."
    if gains:
        what += " Numbers: gain of the last epoch, in points."
    y = header(sheet, "Every student on every dataset", what)
    y = key(sheet, y, [(name, arm.colour, None) for name, arm in arms.items()]) + TEXT
    columns = _columns(picture, cells)
    for dataset, (x, _) in columns.items():
        left = x.start - _gutter()
        sheet.text(left, y + 4, measure.fit(dataset, TEXT, x.end - left + BETWEEN / 2, bold=True), size=TEXT, bold=True)
    y += 6
    for model in models:
        y += NAME
        sheet.text(EDGE, y - 9, measure.fit(model, TEXT, WIDTH - 2 * EDGE), size=TEXT)
        for dataset, (x, limits) in columns.items():
            _panel(sheet, cells[model, dataset], x, Scale(*limits, y + ROW, y + 2), gains)
        y += ROW
    _epochs(sheet, columns, y)
    missing = sum(not panel_arm.seeds and not panel_arm.diverged for panel in picture.panels for panel_arm in panel.arms)
    total = sum(len(panel.arms) for panel in picture.panels)
    footnotes(sheet, y + 2.6 * SMALL + 8, [f"{missing} of {total} cells not run."] if missing else [])
    return sheet


def _drawn(panel: Curves) -> list[Curve]:
    return [arm for arm in panel.arms if arm.mean]


def _seeds(panels: Sequence[Curves]) -> str:
    counts = sorted({arm.seeds for panel in panels for arm in panel.arms if arm.seeds})
    if counts[-1] == 1:
        return "one seed"
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean of {many} seeds, band: ± 1 standard deviation"


def _columns(picture: Panels, cells: dict[tuple[str, str], Curves]) -> dict[str, tuple[Scale, tuple[float, float]]]:
    """{dataset: (epochs to px, range of accuracies)}, of the datasets that have curves."""
    arms = {d: [arm for model in picture.models for arm in _drawn(cells[model, d])] for d in picture.datasets}
    arms = {dataset: own for dataset, own in arms.items() if own}
    wide = (WIDTH - 2 * EDGE - BETWEEN * (len(arms) - 1)) / len(arms)
    out = {}
    for number_, (dataset, own) in enumerate(arms.items()):
        left = EDGE + number_ * (wide + BETWEEN)
        out[dataset] = epochs_scale(own, left + _gutter(), left + wide), extent(own)
    return out


def _gutter() -> float:
    """The room that the accuracies left of a panel take."""
    return measure.width("100", SMALL) + 6


def _panel(sheet: Sheet, panel: Curves, x: Scale, y: Scale, gains: bool) -> None:
    ticks = y.ticks(2) or y.ticks(4)
    for tick in ticks:
        sheet.line([x.start, x.end], [y(tick)] * 2, "grid")
        sheet.text(x.start - 5, y(tick) + SMALL * 0.36, number(tick), "muted", SMALL, anchor="end")
    sheet.line([x.start, x.end], [y.start] * 2, "hairline", 0.8)
    for arm in _drawn(panel):
        draw_curve(sheet, arm, x, y, width=1.8, most=EPOCHS)
    guided = [arm for arm in panel.arms if arm.guidance != BASELINE]
    if gains and guided and guided[0].gain is not None:
        said = signed(guided[0].gain, 1)
        sheet.text(x.end - 1, y.start - 6, said, "text", SMALL, bold=True, anchor="end", halo=True)
    elif missing := [arm for arm in panel.arms if not arm.mean]:
        for row, arm in enumerate(missing[:4]):
            words = "diverged" if arm.diverged else "not run"
            sheet.text(x.end - 1, y.start - 6 - row * SMALL * 1.2, words, arm.colour, SMALL, anchor="end", halo=True)


def _epochs(sheet: Sheet, columns: dict[str, tuple[Scale, tuple[float, float]]], y: float) -> None:
    for x, _ in columns.values():
        ends = ((x.low, "start"), (x.high, "end")) if x.low == 1 else ((1.0, "end"),)
        for tick, anchor in ends:
            sheet.text(x(tick), y + 4 + SMALL, number(tick), "muted", SMALL, anchor=anchor)
        if len(ends) > 1:
            taken = measure.width(number(x.low), SMALL) - measure.width(number(x.high), SMALL)
            sheet.text((x.start + x.end + taken) / 2, y + 4 + SMALL, "epoch", "muted", SMALL, anchor="middle")

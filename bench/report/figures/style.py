"""The look of all figures, light and dark: colours, matplotlib settings, and the colour and dashes of each method.

The hues are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart. They are lighter
on dark, and where a hue is too pale for white (sky blue, orange) so dark that lightness tells it from its relative. Every
method has a contrast of at least 3 with the surface, `text` and `muted` of at least 4.5, as WCAG 2.2 asks of graphics and
of text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BASELINE = "baseline"
DEFAULT_WIDTH_INCHES = 5.2
DASHES = ("-", (0, (4, 1.3)), (0, (1.2, 1.2)))  # solid for the first methods, then dashed, then dotted
MARKERS = ("o", "s", "^")


@dataclass(frozen=True)
class Theme:
    """Colours as #RRGGBB, no two of a theme alike.

    grid: lines to read values by. hairline: axes and lines that carry meaning. guided: methods in the order of the suite.
    """

    surface: str
    text: str
    muted: str
    grid: str
    hairline: str
    baseline: str
    guided: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The colour of the baseline, then those of the other methods."""
        return (self.baseline, *self.guided)

    @property
    def colours(self) -> tuple[str, ...]:
        """Every colour, in the same order in every theme."""
        return (self.surface, self.text, self.muted, self.grid, self.hairline, *self.methods)


LIGHT = Theme(
    surface="#FFFFFF",
    text="#1A1A1A",
    muted="#595959",
    grid="#E4E4E4",
    hairline="#8C8C8C",
    baseline="#D55E00",
    guided=("#0072B2", "#009E73", "#CC79A7", "#0C3A5C", "#5B4A00"),
)
DARK = Theme(
    surface="#0D1117",
    text="#E6EDF3",
    muted="#9DA7B3",
    grid="#262C36",
    hairline="#6E7681",
    baseline="#F5702A",
    guided=("#45A9EE", "#22A274", "#EE82BE", "#B4E0FF", "#F7CF5B"),
)


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn. colour: index into `Theme.methods`. dash, marker: matplotlib's."""

    colour: int
    dash: Any
    marker: str


def method_styles(methods: Sequence[str]) -> dict[str, MethodStyle]:
    """The style of each method, by its place among the methods of the suite, so that it is the same in all figures.

    Further methods get the same colours again, with other dashes and markers.
    """
    looks = itertools.cycle(itertools.product(zip(DASHES, MARKERS, strict=True), range(1, len(LIGHT.methods))))
    first = MethodStyle(0, DASHES[0], MARKERS[0])
    return {
        name: first if name == BASELINE else MethodStyle(colour, dash, marker)
        for name, ((dash, marker), colour) in zip((m for m in methods), _skipping_baseline(methods, looks), strict=True)
    }


def rc(theme: Theme, width: float) -> dict[str, Any]:
    """matplotlib's settings for a theme and a width in inches: narrow figures have smaller letters, of at least 7 pt."""
    size = min(9.5, max(7.0, 9.5 * width / DEFAULT_WIDTH_INCHES))
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
        "font.size": size,
        "axes.titlesize": size,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": size,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.text,
        "axes.edgecolor": theme.hairline,
        "axes.facecolor": theme.surface,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "xtick.labelsize": size,
        "ytick.labelsize": size,
        "xtick.color": theme.hairline,
        "ytick.color": theme.hairline,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "text.color": theme.text,
        "text.parse_math": False,  # a name may hold $
        "figure.facecolor": theme.surface,
        "savefig.facecolor": theme.surface,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
        "svg.fonttype": "none",  # letters stay letters: small files, text that can be searched
        "svg.hashsalt": "bench",
        "pdf.fonttype": 42,  # TrueType, as publishers ask
    }

"""The colours of pictures and page, light and dark: an arm has the same colour in all of them.

The hues are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which stay apart for colour-blind readers: on dark lighter,
and where a hue is too pale for white (sky blue, orange) so dark that lightness tells it from its relative. Every arm has a
contrast of at least 3 with its surface, `text` and `muted` of at least 4.5, as WCAG 2.2 asks of graphics and of text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """Colours as #RRGGBB, no two of a palette alike.

    surface: behind everything. text; muted: for what is said in passing. grid: lines to read values by. hairline: lines
    that say something. baseline, guided: the arms, guided ones in the order of the suite.
    """

    surface: str
    text: str
    muted: str
    grid: str
    hairline: str
    baseline: str
    guided: tuple[str, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """The baseline's colour, then those of guided arms."""
        return (self.baseline, *self.guided)

    @property
    def colours(self) -> tuple[str, ...]:
        """Every colour, in the same order in every palette."""
        return (self.surface, self.text, self.muted, self.grid, self.hairline, *self.arms)


LIGHT = Palette(
    surface="#FFFFFF",
    text="#1A1A1A",
    muted="#595959",
    grid="#E4E4E4",
    hairline="#8C8C8C",
    baseline="#D55E00",
    guided=("#0072B2", "#009E73", "#CC79A7", "#0C3A5C", "#5B4A00"),
)
DARK = Palette(
    surface="#0D1117",
    text="#E6EDF3",
    muted="#9DA7B3",
    grid="#262C36",
    hairline="#6E7681",
    baseline="#F5702A",
    guided=("#45A9EE", "#22A274", "#EE82BE", "#B4E0FF", "#F7CF5B"),
)

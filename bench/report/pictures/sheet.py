"""A sheet to draw on, in px from the top left corner; it becomes an SVG and a PNG, light and dark, of the same geometry.

A colour is said by what it is for, the name of a field of `Palette` (`guided0`, `guided1`, ... for its guided arms), so
that the themes of a picture differ in nothing but colours. SVGs are written here, since they come out a third as large and
five times as fast as matplotlib's; its Agg paints the PNGs.
"""

from __future__ import annotations

import functools
import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from PIL import Image, PngImagePlugin

from bench.report.palette import Palette
from bench.report.pictures import words as measure

WIDTH = 520  # px of every picture
SCALE = 2  # px of a PNG to one of the sheet
FONTS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
GAP = 0.32  # between runs of a text, of its size
BAND = 0.2  # opacity of an area
HALO = 4  # px around words that lie over lines

Run = tuple[str, str, bool]  # words, colour, bold


@dataclass
class _Path:
    """A line, or an area where it is filled."""

    points: np.ndarray  # [points, 2]
    colour: str
    width: float = 0.0
    opacity: float = 1.0
    dash: tuple[float, float] | None = None
    filled: bool = False


@dataclass
class _Dot:
    x: float
    y: float
    radius: float
    colour: str
    filled: bool


@dataclass
class _Text:
    x: float
    y: float
    runs: list[Run]
    size: float
    anchor: str
    halo: bool

    @property
    def widths(self) -> list[float]:
        return [measure.width(words, self.size, bold) for words, _, bold in self.runs]

    def left(self) -> float:
        """Where the words begin."""
        whole = sum(self.widths) + GAP * self.size * (len(self.runs) - 1)
        return self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * whole


@dataclass
class Sheet:
    """What is drawn later lies over what was drawn before. height: px, to be set once it is known."""

    title: str
    height: float = 0.0
    _marks: list[_Path | _Dot | _Text] = field(default_factory=list)

    def line(
        self,
        xs: Sequence[float] | np.ndarray,
        ys: Sequence[float] | np.ndarray,
        colour: str,
        width: float = 1.0,
        opacity: float = 1.0,
        dash: tuple[float, float] | None = None,
    ) -> None:
        """Through points."""
        path = Path(np.column_stack([xs, ys]))
        if path.should_simplify:  # of many points, those that do not show
            path = path.cleaned(simplify=True)
            path = Path(path.vertices[path.codes != Path.STOP])
        self._marks.append(_Path(path.vertices, colour, width, opacity, dash))

    def area(self, xs: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
        """Between two curves."""
        points = np.concatenate([np.column_stack([xs, low]), np.column_stack([xs, high])[::-1]])
        self._marks.append(_Path(points, colour, opacity=BAND, filled=True))

    def shape(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """A filled polygon."""
        self._marks.append(_Path(np.array(points, float), colour, filled=True))

    def dot(self, x: float, y: float, colour: str, radius: float = 5.0, filled: bool = True) -> None:
        """A disc, or a ring with the surface inside."""
        self._marks.append(_Dot(float(x), float(y), radius, colour, filled))

    def text(
        self,
        x: float,
        y: float,
        words: str,
        colour: str = "text",
        size: float = 13,
        bold: bool = False,
        anchor: str = "start",
        halo: bool = False,
    ) -> None:
        """Words with their baseline at `y`, their `anchor` (start, middle, end) at `x`; halo: the surface around them."""
        self.runs(x, y, [(words, colour, bold)], size, anchor, halo)

    def runs(
        self, x: float, y: float, runs: Sequence[Run], size: float = 13, anchor: str = "start", halo: bool = False
    ) -> None:
        """Words in several colours or weights one after the other, a space between them."""
        kept = [(measure.clean(words), colour, bold) for words, colour, bold in runs if words]
        if kept:
            self._marks.append(_Text(float(x), float(y), kept, size, anchor, halo))

    def svg(self, palette: Palette, description: str) -> bytes:
        """As SVG, in which text is text; `description` goes into its metadata."""
        width, height = WIDTH, round(self.height)
        top = ElementTree.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                **{"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"},
                **{"role": "img", "font-family": FONTS, "stroke-linejoin": "round"},
            },
        )
        ElementTree.SubElement(top, "metadata").text = description
        ElementTree.SubElement(top, "title").text = measure.clean(self.title)
        whole = {"width": "100%", "height": "100%", "fill": palette.surface}
        ElementTree.SubElement(top, "rect", whole)
        for mark in self._marks:
            _into_svg(top, mark, palette)
        for child in top:
            child.tail = "\n"
        return ElementTree.tostring(top, encoding="utf-8") + b"\n"

    def png(self, palette: Palette, description: str) -> bytes:
        """As PNG of `SCALE` px to one of the sheet; `description` goes into its metadata."""
        height = round(self.height)
        renderer = RendererAgg(WIDTH * SCALE, height * SCALE, 72 * SCALE)
        place = Affine2D().scale(SCALE, -SCALE).translate(0, height * SCALE)
        corners = Path([(0, 0), (WIDTH, 0), (WIDTH, height), (0, height)])
        for path, colour, width, opacity, dash, filled in self._paths(corners):
            context = renderer.new_gc()
            context.set_foreground(colour_of(palette, colour))
            context.set_alpha(opacity)
            context.set_linewidth(width)
            context.set_dashes(0, dash)
            face = (*to_rgb(colour_of(palette, colour)), opacity) if filled else None
            renderer.draw_path(context, path, place, face)
        image = Image.frombuffer("RGBA", (WIDTH * SCALE, height * SCALE), renderer.buffer_rgba()).convert("RGB")
        file, information = io.BytesIO(), PngImagePlugin.PngInfo()
        information.add_text("Description", description)
        image = image.quantize(palette=_shades(palette), dither=Image.Dither.NONE)
        image.save(file, format="png", pnginfo=information, compress_level=3, compress_type=zlib.Z_RLE)
        return file.getvalue()

    def _paths(self, corners: Path) -> Iterator[tuple]:
        """Every mark as paths: (path, colour, line width, opacity, dash, filled)."""
        yield corners, "surface", 0, 1, None, True
        for mark in self._marks:
            if isinstance(mark, _Path):
                path = Path(mark.points, closed=False)
                yield path, mark.colour, mark.width, mark.opacity, mark.dash, mark.filled
            elif isinstance(mark, _Dot):
                circle = Path.unit_circle().transformed(Affine2D().scale(mark.radius).translate(mark.x, mark.y))
                yield circle, mark.colour if mark.filled else "surface", 0, 1, None, True
                yield circle, mark.colour if not mark.filled else "surface", 2 if not mark.filled else 1, 1, None, False
            else:
                x = mark.left()
                for (words, colour, bold), width in zip(mark.runs, mark.widths, strict=True):
                    place = Affine2D().scale(mark.size, -mark.size).translate(x, mark.y)
                    path = measure.outline(words, bold).transformed(place)
                    if mark.halo:
                        yield path, "surface", HALO, 1, None, False
                    yield path, colour, 0, 1, None, True
                    x += width + GAP * mark.size


def colour_of(palette: Palette, name: str) -> str:
    """The colour of a palette by what it is for."""
    return palette.guided[int(name[6:])] if name.startswith("guided") else getattr(palette, name)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _into_svg(top: ElementTree.Element, mark: _Path | _Dot | _Text, palette: Palette) -> None:
    if isinstance(mark, _Path):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points.tolist())
        colour = colour_of(palette, mark.colour)
        if mark.filled:
            opacity = {} if mark.opacity == 1 else {"opacity": _number(mark.opacity)}
            ElementTree.SubElement(top, "polygon", {"points": points, "fill": colour, **opacity})
            return
        look = {"fill": "none", "stroke": colour, "stroke-width": _number(mark.width)}
        if mark.opacity != 1:
            look["opacity"] = _number(mark.opacity)
        if mark.dash:
            look["stroke-dasharray"] = " ".join(map(_number, mark.dash))
        ElementTree.SubElement(top, "polyline", {"points": points, **look})
    elif isinstance(mark, _Dot):
        inside, edge = (mark.colour, "surface") if mark.filled else ("surface", mark.colour)
        look = {"fill": colour_of(palette, inside), "stroke": colour_of(palette, edge)}
        place = {"cx": _number(mark.x), "cy": _number(mark.y), "r": _number(mark.radius)}
        ElementTree.SubElement(top, "circle", {**place, **look, "stroke-width": "1" if mark.filled else "2"})
    else:
        look = {"x": _number(mark.x), "y": _number(mark.y), "font-size": _number(mark.size)}
        if mark.anchor != "start":
            look["text-anchor"] = mark.anchor
        if mark.halo:
            halo = {"stroke": palette.surface, "stroke-width": str(HALO), "paint-order": "stroke"}
            look |= halo
        text = ElementTree.SubElement(top, "text", look)
        for number, (words, colour, bold) in enumerate(mark.runs):
            run = text if len(mark.runs) == 1 else ElementTree.SubElement(text, "tspan")
            run.set("fill", colour_of(palette, colour))
            if bold:
                run.set("font-weight", "bold")
            if number:
                run.set("dx", _number(GAP * mark.size))
            run.text = words


@functools.cache
def _shades(palette: Palette) -> Image.Image:
    """The colours of a PNG: those of the palette, on their way to the surface, and bands that overlap; exact where flat."""
    surface = np.array(to_rgb(palette.surface)) * 255
    colours = [np.array(to_rgb(colour)) * 255 for colour in palette.colours]
    shades = [surface]
    for colour in colours[1:]:
        steps = max(1, round(float(np.abs(colour - surface).max()) / 12))
        shades += [surface + (colour - surface) * step / steps for step in range(steps, 0, -1)]
    arms = [np.array(to_rgb(colour)) * 255 for colour in palette.arms]
    shades += [surface + (arm - surface) * BAND for arm in arms]
    pairs = itertools.combinations(arms[:4], 2)
    shades += [one * BAND + (surface + (other - surface) * BAND) * (1 - BAND) for one, other in pairs]
    image = Image.new("P", (1, 1))
    image.putpalette(np.array(shades)[:256].round().astype(np.uint8).ravel().tolist())
    return image

"""Convergence curves: test accuracy by epoch, an arm a colour, the mean over seeds with its deviation as a band.

Renderers differ between versions, so a picture is not compared by its bytes: it carries a digest of its data and of this
file in its metadata.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.recipes import Suite
from bench.records import replacing

# Okabe and Ito's colours, which stay apart for colour-blind readers; the same arm has the same colour everywhere.
BASELINE_COLOUR = "#D55E00"
GUIDED_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


@dataclass(frozen=True)
class Figure:
    """One picture: a student on a dataset.

    arms: {guidance: [[accuracy in % of each epoch] of each seed]}.
    """

    title: str
    arms: dict[str, list[list[float]]]

    @functools.cached_property
    def digest(self) -> str:
        """Changes with the data and with this file."""
        content = json.dumps([self.title, self.arms]).encode() + Path(__file__).read_bytes()
        return hashlib.sha256(content).hexdigest()


def figures(suite: Suite, records: list[dict[str, Any]]) -> dict[str, Figure]:
    """{file name without suffix: picture} for every student and dataset that has records."""
    out = {}
    for model in suite.models:
        for dataset in suite.datasets:
            arms = {}
            for guidance in suite.guidance:
                cell = [r for r in records if r["id"] == f"{model}/{dataset}/{guidance}" and not r.get("diverged")]
                own = [r["history"]["test_accuracy"] for r in cell]
                if own:
                    arms[guidance] = own
            if arms:
                out[urllib.parse.quote(f"{model}-{dataset}", safe="")] = Figure(f"{model} on {dataset}", arms)
    return out


def draw(figure: Figure, folder: Path, name: str) -> None:
    """Write <name>.svg and <name>.png unless they are drawn already."""
    if not outdated(figure, folder, name):
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    # Paths rather than fonts in the SVG would make it large; the salt makes element names the same every time.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 12}):
        picture, axes = pyplot.subplots(figsize=(7.2, 4.5), layout="constrained")
        guided = iter(GUIDED_COLOURS * len(figure.arms))
        ends = []
        for arm, curves in figure.arms.items():
            colour = BASELINE_COLOUR if arm == "baseline" else next(guided)
            epochs = range(1, min(map(len, curves)) + 1)
            columns = list(zip(*curves, strict=False))
            middle = [mean(column) for column in columns]
            axes.plot(epochs, middle, color=colour, linewidth=2)
            if len(curves) > 1:
                spread = [stdev(column) for column in columns]
                low, high = ([m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1))
                axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
            ends.append([middle[-1], f"{arm} {middle[-1]:.2f} %", colour])
        _label_ends(axes, ends, max(len(curve) for curves in figure.arms.values() for curve in curves))
        seeds = sorted({len(curves) for curves in figure.arms.values()})
        band = ", band: ± 1 standard deviation" if seeds[-1] > 1 else ""
        axes.set(xlabel="epoch", ylabel="test accuracy (%)")
        count = "-".join(map(str, seeds)) + (" seeds" if seeds[-1] > 1 else " seed")
        axes.set_title(figure.title, loc="left", fontweight="bold", pad=26)
        axes.text(0, 1.03, f"mean of {count}{band}", transform=axes.transAxes, fontsize=10, color="#555555")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD")
        axes.set_axisbelow(True)
        axes.set_xlim(left=1)
        for path, metadata in _files(folder, name, figure.digest):
            with replacing(path) as temporary:
                picture.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)
        pyplot.close(picture)


def _label_ends(axes: Any, ends: list[list], last: int) -> None:
    """The names of the arms at the right end of their curves, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.07
    placed = -float("inf")
    for value, text, colour in sorted(ends):
        placed = max(value, placed + gap)
        axes.annotate(
            text, (last, placed), (8, 0), textcoords="offset points", color=colour, va="center", fontweight="bold"
        )


def _files(folder: Path, name: str, digest: str) -> list[tuple[Path, dict[str, str | None]]]:
    return [
        (folder / f"{name}.svg", {"Date": None, "Description": f"digest {digest}"}),
        (folder / f"{name}.png", {"Software": None, "Description": f"digest {digest}"}),
    ]


def outdated(figure: Figure, folder: Path, name: str) -> list[Path]:
    """The pictures that are missing or carry another digest than their data and this code have now."""
    wanted = f"digest {figure.digest}".encode()
    out = []
    for path, _ in _files(folder, name, figure.digest):
        found = re.search(rb"digest [0-9a-f]{64}", path.read_bytes()) if path.is_file() else None
        if found is None or found.group() != wanted:
            out.append(path)
    return out

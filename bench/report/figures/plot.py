"""What a figure shows, and its files, each of which holds a digest of that."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from bench.config.names import path_part
from bench.report.figures.style import clean

FILES = [("light", ".svg"), ("light", ".png"), ("light", ".pdf"), ("dark", ".dark.svg"), ("dark", ".dark.png")]
MAX_NAME_CHARS = 120
CELL_COLUMNS = [
    *("model", "dataset", "method", "status", "seeds", "diverged_seeds", "last_mean", "last_std"),
    *("gain_mean", "gain_low", "gain_high", "gain_seeds", "verdict", "epochs_to_reach_mean", "speedup_epochs"),
    *("reached_seeds", "device_hours", "device_unit"),
]
CURVE_COLUMNS = ["model", "dataset", "method", "seed", "epoch", "test_accuracy"]


@dataclass(frozen=True)
class Plot:
    """What a figure shows.

    cells, curves: its data, with CELL_COLUMNS and CURVE_COLUMNS; curves of finished runs alone.
    methods: of the whole suite, the baseline first.
    measure: what accuracies are, "test accuracy" or "held-out accuracy".
    remark: a sentence for the note below the figure, or "".
    """

    title: str
    cells: pd.DataFrame
    curves: pd.DataFrame
    methods: tuple[str, ...]
    measure: str
    remark: str = ""

    def of(self, model: str, dataset: str) -> Plot:
        """The part about a student on a dataset."""
        cells, curves = (f[(f["model"] == model) & (f["dataset"] == dataset)] for f in (self.cells, self.curves))
        return replace(self, title=f"{clean(model, 60)} on {clean(dataset, 60)}", cells=cells, curves=curves)

    def seeds(self) -> str:
        """The number of seeds that means are over, in words."""
        low, high = self.cells.loc[self.cells["seeds"] > 0, "seeds"].agg(["min", "max"])
        return "One seed" if high == 1 else f"Mean of {low} seeds" if low == high else f"Mean of {low} to {high} seeds"

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what is shown and of the code that draws it; versions of libraries are not in it."""
        # Numbers are rounded so far that they are the same on all machines.
        data = [frame.to_csv(index=False, float_format="%.4f") for frame in (self.cells, self.curves)]
        code = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.*"))]
        return hashlib.sha256(repr((self.title, self.methods, self.measure, self.remark, data, code)).encode()).hexdigest()

    def stamp(self, width: float, title: bool) -> str:
        """What a file of this figure holds; the layout is not part of the digest."""
        return f"digest {self.digest} width {width:g} title {'yes' if title else 'no'}"


def read_stamp(path: Path) -> str:
    """The stamp in a file; "" if it has none or cannot be read."""
    try:
        found = re.search(rb"digest [0-9a-f]{64} width [0-9.e+-]+ title (yes|no)", path.read_bytes())
    except OSError:
        return ""
    return found[0].decode() if found else ""


def figure_name(model: str, dataset: str) -> str:
    """The name of the figure of a student on a dataset, without suffix: `<model>-<dataset>`.

    A hash follows if another pair could have that name, if it is long, or has characters that LaTeX may not take.
    """
    plain = f"{path_part(model)}-{path_part(dataset)}"
    name = re.sub(r"[^A-Za-z0-9_+-]", "_", plain)[:MAX_NAME_CHARS]
    if name == plain and name.count("-") == 1:
        return name
    return f"{name}-{hashlib.sha256(repr((model, dataset)).encode()).hexdigest()[:8]}"


def figure_paths(folder: Path, name: str) -> list[Path]:
    """The files of a figure."""
    return [folder / f"{name}{ending}" for _, ending in FILES]

"""The pictures of a suite, in `results/<suite>/`: SVG and PNG, each in light and in dark.

    curves/<model>-<dataset>   test accuracy by epoch of a student on a dataset
    overview                   every student from its baseline to its guided accuracy
    cost                       accuracy against the device time of a run
    suite                      all curves side by side, where there is more than one pair of student and dataset

Renderers differ between versions, so a picture is not compared by its bytes: it carries a digest of what it shows and of
the code that draws it. matplotlib is only imported where something must be drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import multiprocessing
import re
import sys
import urllib.parse
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.cores import available_cores
from bench.report import palette
from bench.report.analysis import Analysis
from bench.report.gather import Record
from bench.report.pictures import content
from bench.storage import write_bytes

THEMES = {"": palette.LIGHT, ".dark": palette.DARK}
FORMATS = ("svg", "png")
FEW = 4  # pictures that are drawn sooner than further processes have started
LONGEST = 160  # characters of a file's name without its suffix


@dataclass(frozen=True)
class Picture:
    """kind: the module of this package that draws it; shows: what."""

    kind: str
    shows: content.Curves | content.Panels | content.Ends

    @functools.cached_property
    def digest(self) -> str:
        """Changes with what is shown and with the code that draws it."""
        shown = json.dumps([self.kind, dataclasses.asdict(self.shows)])
        return hashlib.sha256(shown.encode() + _code()).hexdigest()


def wanted(analysis: Analysis, records: Iterable[Record]) -> dict[str, Picture]:
    """{path below results/<suite>/, without suffix: picture} of all that the records give."""
    found = {(record["id"], record["seed"]): record for record in records}
    out = {}
    for cell in analysis.cells:
        if any(arm.seeds for arm in cell.arms):
            out[f"curves/{file_name(cell.model, cell.dataset)}"] = Picture("curves", content.curves(analysis, cell, found))
    if out:
        ends = content.ends(analysis, found.values())
        out |= {kind: Picture(kind, ends) for kind in ("overview", "cost")}
        if len(analysis.cells) > 1:
            out["suite"] = Picture("suite", content.panels(analysis, found))
    return out


def paths(name: str, folder: Path) -> list[Path]:
    """The files of a picture."""
    return [folder / f"{name}{theme}.{kind}" for theme in THEMES for kind in FORMATS]


def outdated(wanted: Mapping[str, Picture], folder: Path) -> list[Path]:
    """The files that are missing, or that carry another digest than what they show and this code have now."""
    return [path for name, picture in wanted.items() for path in paths(name, folder) if _digest(path) != picture.digest]


def stale(wanted: Mapping[str, Picture], folder: Path) -> list[Path]:
    """The files in the places of pictures that no record gives."""
    found = {path for path in folder.glob("curves/*") if path.suffix[1:] in FORMATS}
    found |= {path for kind in ("overview", "cost", "suite") for path in paths(kind, folder) if path.is_file()}
    return sorted(found - {path for name in wanted for path in paths(name, folder)})


def sample_augment_params(wanted: Mapping[str, Picture], folder: Path) -> None:
    """Write what is outdated, in as many processes as there are cores where it is much.

    Raises:
        OSError: a file cannot be written.
    """
    old = set(outdated(wanted, folder))
    jobs = [(picture, name, folder) for name, picture in wanted.items() if not old.isdisjoint(paths(name, folder))]
    jobs.sort(key=lambda job: job[0].kind == "curves")  # what takes longest first
    processes = min(len(available_cores()), len(jobs) // 2)
    if len(jobs) <= FEW or processes < 2:
        for job in jobs:
            _write(*job)
        return
    # A fork of this process would take its threads' locks along; a fork server is new, and imports matplotlib only once.
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload([f"{__name__}.{kind}" for kind in ("curves", "overview", "cost", "suite")])
    with ProcessPoolExecutor(processes, context) as pool:
        list(pool.map(_write, *zip(*jobs, strict=True)))


def _write(picture: Picture, name: str, folder: Path) -> None:
    sheet = importlib.import_module(f"{__name__}.{picture.kind}").draw(picture.shows)
    for theme, colours in THEMES.items():
        for kind in FORMATS:
            write_bytes(
                folder / f"{name}{theme}.{kind}", getattr(sheet, kind)(colours, f"digest {picture.digest}"), sync=False
            )


def _digest(path: Path) -> str | None:
    """What a file carries: PNG and SVG have it near their beginning."""
    try:
        with open(path, "rb") as file:
            found = re.search(rb"digest ([0-9a-f]{64})", file.read(4096))
    except OSError:
        return None
    return found.group(1).decode() if found else None


@functools.cache
def _code() -> bytes:
    """Of everything that decides what a picture looks like."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(palette.__file__)]
    return b"".join(path.read_bytes() for path in files)


def file_name(model: str, dataset: str) -> str:
    """A file's name for a pair: no two pairs have the same, and a dot only begins a theme or a suffix."""
    parts = (urllib.parse.quote(part, safe="").replace("-", "%2D").replace(".", "%2E") for part in (model, dataset))
    name = "-".join(parts)
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name

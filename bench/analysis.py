"""The verb `analyze`, `bench.analyze` in Python: what guidance changes inside students, as tables and a figure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.cli import DONE, add_recipes_dir
from bench.config.schema import RecipeError
from bench.report.analysis import Findings, findings, markdown, write_analysis
from bench.report.commands import add_figure_options, figure_options
from bench.share.analysis import MIN_IMAGES, analyze_runs
from bench.share.load import Folders
from bench.storage import first_line

IMAGES = 256


def add_analyze_options(parser: argparse.ArgumentParser) -> None:
    """The options of `analyze`."""
    help_text = "folders of runs of one student on one dataset, as results/local/runs/deit_micro/digits/guided/…"
    parser.add_argument("what", nargs="+", metavar="RUN", help=help_text)
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"how many test images ({IMAGES})")
    parser.add_argument("--out", metavar="DIR", help="also write table.md, attention.csv, similarity.csv and the figure")
    parser.add_argument("--device", default="cpu", help="cuda or cuda:1, for example (cpu)")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
    add_figure_options(parser)
    add_recipes_dir(parser)


def run_analyze(arguments: argparse.Namespace) -> int:
    """Print the tables, and write them and the figure if a folder is given."""
    figures = figure_options(arguments)
    found = analyze(
        arguments.what,
        images=arguments.images,
        data_dir=arguments.data_dir,
        device=arguments.device,
        recipes_dir=arguments.recipes_dir,
        say=partial(print, file=sys.stderr, flush=True),
    )
    print(markdown(found))
    if arguments.out is not None:
        write_analysis(found, Path(arguments.out), **figures)
        print(f"tables and figure: {arguments.out}")
    return DONE


def analyze(
    runs: Folders,
    *,
    images: int = IMAGES,
    data_dir: str | os.PathLike[str] = "data",
    device: str = "cpu",
    recipes_dir: Folders = (),
    say: Callable[[str], None] = lambda text: None,
) -> Findings:
    """Mean attention distance and CKA of the students of some runs, as data frames of pandas: `bench.analyze`.

    Args:
        runs: folders of runs of one student on one dataset, below results/local/runs, or one.
        images: how many of the images that they were evaluated on; all if there are fewer.
        data_dir: local datasets.
        device: where to compute, in fp32.
        recipes_dir: as of `bench.load`.
        say: receives progress messages.

    Runs that are not finished or that diverged are left out; `notes` names them.

    Raises:
        RecipeError: no run is here, or the runs cannot be compared.
    """
    if images < MIN_IMAGES:
        raise RecipeError(f"--images: got {images}, allowed are {MIN_IMAGES} or more")
    try:
        torch.zeros(1, device=device)
    except Exception as error:  # torch raises many kinds for devices that are not here
        raise RecipeError(f"--device {device}: cannot be used ({first_line(error)})") from error
    folders = [Path(run) for run in ([runs] if isinstance(runs, (str, os.PathLike)) else runs)]
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # torch's own default for convolutions is TF32
            result = analyze_runs(folders, images, Path(data_dir), torch.device(device), recipes_dir, say)
    finally:
        torch.set_float32_matmul_precision(precision)
    return findings(**result._asdict())

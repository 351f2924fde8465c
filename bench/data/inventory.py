"""Reports about datasets for `python -m bench data`: where each comes from, whether it is here and complete."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bench.config.schema import Data, RecipeError
from bench.data.files import find
from bench.data.layouts import LayoutMismatch
from bench.data.sources import Source, file_patterns, find_or_fetch, locate, missing
from bench.data.store import Survey, check_counts, is_decoded, open_dataset, store_folder, survey

COLUMNS = ("dataset", "classes", "training", "test", "here", "comes from", "licence")
LISTED_FILES = 20  # of those left out
EVALUATED = {"test": "test", "holdout": "held-out training", "share": "split-off training"}


def table(datasets: Iterable[Data], data_dir: str | Path) -> str:
    """A table with one row per dataset. No dataset is read."""
    if not Path(data_dir).is_dir() and str(data_dir) != "data":
        raise RecipeError(f"--data-dir {data_dir}: no such folder")
    rows = [(d.name, d.classes, d.train_images, d.test_images, state(d, data_dir), _origin(d), d.licence) for d in datasets]
    return tabulate(rows, COLUMNS, intfmt=",", missingval="")


def state(data: Data, data_dir: str | Path) -> str:
    """Whether a dataset is here: "decoded", "yes", or "no"."""
    source = locate(data, data_dir)
    if source is None:
        return "no"
    return "decoded" if is_decoded(source) else "yes"


def prepare(data: Data, data_dir: str | Path) -> list[str]:
    """Fetch and decode a dataset. Returns its description, line by line.

    Raises:
        RecipeError: it is missing, cannot be fetched or decoded, or has other counts than its recipe says.
    """
    dataset = open_dataset(data, data_dir)
    lines = [_describe(dataset.train.labels, dataset.train.sizes, "training")]
    if dataset.test is not None:
        lines.append(_describe(dataset.test.labels, dataset.test.sizes, "test"))
    training, evaluation = len(dataset.training(data)), len(dataset.evaluation(data))
    kind = EVALUATED[dataset.evaluated_on(data)]
    use = f"a run trains on {training:,} images and is evaluated on {evaluation:,} {kind} images"
    lines.append(f"{dataset.classes(data)} classes; {use}")
    return [*lines, f"fingerprint {dataset.fingerprint}"]


def check(data: Data, data_dir: str | Path) -> tuple[list[str], list[str]]:
    """Read every image of a dataset again, and compare with its recipe and with the decoded pixels.

    Returns:
        (description, problems), line by line.

    Raises:
        RecipeError: the dataset is not here, or its files cannot be read at all.
    """
    source = find_or_fetch(data, data_dir) if data.source == "hub" else locate(data, data_dir)
    if source is None:
        raise RecipeError(missing(data, data_dir))
    found = survey(source)
    lines, problems = [str(source)], [f"{name}: {reason}" for name, reason in found.problems]
    for split, arrays in found.splits.items():
        if len(arrays["labels"]):
            lines.append(_describe(arrays["labels"], arrays["sizes"], "training" if split == "train" else split))
    train, test = (found.splits[s]["labels"] if s in found.splits else None for s in ("train", "test"))
    try:
        check_counts(data, str(source), train, test, found.classes)
    except RecipeError as error:
        problems.append(str(error))
    if not problems:
        problems += _compare_decoded(source, found)
    remarks, wrong = _compare_labels(data, data_dir, train, test)
    if found.left_out:
        more = " …" if len(found.left_out) > LISTED_FILES else ""
        remarks.append(f"left out, not images by their extensions: {', '.join(found.left_out[:LISTED_FILES])}{more}")
    return [*lines, *remarks, f"fingerprint {found.fingerprint}"], problems + wrong


def _compare_decoded(source: Source, found: Survey) -> list[str]:
    """The problem, if the decoded pixels are not those of the files."""
    if not is_decoded(source):
        return []
    folder = store_folder(source)
    decoded = json.loads((folder / "store.json").read_text(encoding="utf-8"))["fingerprint"]
    if decoded == found.fingerprint:
        return []
    return [f"the decoded pixels are of other images (fingerprint {decoded[:8]}): remove {folder}"]


def _compare_labels(
    data: Data, data_dir: str | Path, train: np.ndarray, test: np.ndarray | None
) -> tuple[list[str], list[str]]:
    """(remarks, problems) about the label order, for layouts that can verify it."""
    layout = importlib.import_module(f"bench.data.layouts.{data.layout}")
    if not hasattr(layout, "verify") or test is None or data.subset is not None:
        return [], []
    for files in find(Path(data_dir), file_patterns(data)):
        try:
            wrong = layout.verify(files, train, test)
        except LayoutMismatch:
            continue
        return ([] if wrong else [layout.VERIFIED]), wrong
    return [layout.NOT_VERIFIED], []


def _origin(data: Data) -> str:
    if data.source == "packaged":
        return "this package"
    if data.source == "torchvision":
        return f"torchvision.datasets.{data.torchvision}" + (f", or the hub: {data.hub}" if data.hub else "")
    return f"the hub: {data.hub}" if data.source == "hub" else data.ask or "the data folder"


def _describe(labels: np.ndarray, sizes: np.ndarray, split: str) -> str:
    counts = np.bincount(labels[labels >= 0])
    counts = counts[counts > 0]
    (low, high), same = (sizes.min(0), sizes.max(0)), (sizes == sizes[0]).all()
    pixels = f"{low[1]}x{low[0]} px" if same else f"{low[1]} to {high[1]} px wide, {low[0]} to {high[0]} px high"
    per_class = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    return f"{len(labels):,} {split} images of {len(counts)} classes, {per_class} per class, {pixels}"

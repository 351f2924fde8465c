"""What `python -m bench data` says of datasets: where each comes from, whether it is here, and whether it is whole."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bench.config.schema import Data, RecipeError
from bench.data.files import find
from bench.data.layouts import LayoutMismatch
from bench.data.sources import find_or_fetch, locate, looked_for, missing
from bench.data.store import check_counts, open_dataset, store_folder, survey


def table(datasets: list[Data], data_dir: str | Path) -> str:
    """A row a dataset, without reading any of them."""
    if not Path(data_dir).is_dir() and str(data_dir) != "data":
        raise RecipeError(f"--data-dir {data_dir}: no such folder")
    rows = []
    for data in datasets:
        rows.append(
            [
                data.name,
                data.classes,
                data.train_images,
                data.test_images,
                state(data, data_dir),
                _origin(data),
                data.licence,
            ]
        )
    headers = ["dataset", "classes", "training", "test", "here", "comes from", "licence"]
    return tabulate(rows, headers, intfmt=",", missingval="")


def state(data: Data, data_dir: str | Path) -> str:
    """Whether a dataset is here: "decoded", "yes", or "no"."""
    source = locate(data, data_dir)
    if source is None:
        return "no"
    return "decoded" if (store_folder(source) / "store.json").is_file() else "yes"


def _origin(data: Data) -> str:
    if data.source == "packaged":
        return "this package"
    if data.source == "torchvision":
        return f"torchvision.datasets.{data.torchvision}" + (f", or the hub: {data.hub}" if data.hub else "")
    return f"the hub: {data.hub}" if data.source == "hub" else data.ask or "the data folder"


def prepare(data: Data, data_dir: str | Path) -> tuple[list[str], list[str]]:
    """Fetch and decode a dataset. Returns (what it is, no problems).

    Raises:
        RecipeError: it is missing, cannot be fetched, does not decode, or has other counts than its recipe says.
    """
    store = open_dataset(data, data_dir)
    lines = _describe(store.train.labels, store.train.sizes, "training")
    if store.test is not None:
        lines += _describe(store.test.labels, store.test.sizes, "test")
    training, evaluation = store.training(data), store.evaluation(data)
    what = {"test": "test", "holdout": "held-out training", "share": "set-aside"}[store.evaluated_on(data)]
    lines.append(
        f"{store.classes(data)} classes; a run trains on {len(training):,} images and is evaluated on {len(evaluation):,}"
        f" {what} images"
    )
    return [*lines, f"fingerprint {store.fingerprint}"], []


def check(data: Data, data_dir: str | Path) -> tuple[list[str], list[str]]:
    """Read every image of a dataset anew, and compare with its recipe and with what was decoded before.

    Returns:
        (what was found, problems), in sentences.

    Raises:
        RecipeError: the dataset is not here, or its files cannot be read at all.
    """
    source = locate(data, data_dir)
    if data.source == "hub":
        source = find_or_fetch(data, data_dir)
    if source is None:
        raise RecipeError(missing(data, data_dir))
    found = survey(source)
    problems = [f"{name}: {reason}" for name, reason in found.problems]
    lines = [str(source)]
    for split, arrays in found.splits.items():
        if len(arrays["labels"]):
            lines += _describe(arrays["labels"], arrays["sizes"], "training" if split == "train" else split)
    train, test = (found.splits[s]["labels"] if s in found.splits else None for s in ("train", "test"))
    try:
        check_counts(data, str(source), train, test, found.classes)
    except RecipeError as error:
        problems.append(str(error))
    said, wrong = _compare_labels(data, data_dir, train, test)
    decoded = store_folder(source) / "store.json"
    if not problems and decoded.is_file():
        kept = json.loads(decoded.read_text(encoding="utf-8"))["fingerprint"]
        if kept != found.fingerprint:
            wrong.append(f"the decoded pixels are of other images (fingerprint {kept[:8]}): remove {decoded.parent}")
    if found.left_out:
        said.append(
            f"left out, no images by their endings: {', '.join(found.left_out[:20])}{' …' * (len(found.left_out) > 20)}"
        )
    return [*lines, *said, f"fingerprint {found.fingerprint}"], problems + wrong


def _compare_labels(
    data: Data, data_dir: str | Path, train: np.ndarray, test: np.ndarray | None
) -> tuple[list[str], list[str]]:
    """(remarks, problems) of the label order, for layouts that can tell it."""
    layout = import_module(f"bench.data.layouts.{data.layout}")
    if not hasattr(layout, "verify") or test is None or data.subset is not None:
        return [], []
    for files in find(Path(data_dir), looked_for(data)):
        try:
            wrong = layout.verify(files, train, test)
        except LayoutMismatch:
            continue
        return ([] if wrong else [layout.VERIFIED]), wrong
    return [layout.NOT_VERIFIED], []


def _describe(labels: np.ndarray, sizes: np.ndarray, split: str) -> list[str]:
    counts = np.bincount(labels[labels >= 0])
    counts = counts[counts > 0]
    (low, high), same = (sizes.min(0), sizes.max(0)), (sizes == sizes[0]).all()
    pixels = f"{low[1]}x{low[0]} px" if same else f"{low[1]} to {high[1]} px wide, {low[0]} to {high[0]} px high"
    each = f"{counts.min():,} each" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,} each"
    return [f"{len(labels):,} {split} images of {len(counts)} classes, {each}, {pixels}"]

"""The decoded store: a dataset's pixels as uint8, decoded once, memory-mapped by every process and every later run.

One folder a dataset in the cache: `{train,test}.pixels` (all images' RGB bytes, one after the other), `{train,test}.npz`
(sizes, labels and names) and `store.json`, written last, with the fingerprint and the names of the classes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.config.schema import Data, RecipeError
from bench.cores import available_cores
from bench.data.decode import Unreadable, decode
from bench.data.layouts import Item
from bench.data.sources import Source, damaged, find_or_fetch, locate
from bench.data.subsets import DecodedDataset, Images
from bench.locks import cache_folder, locked

LOG = logging.getLogger(__name__)
WINDOW = 64  # images that are decoded ahead of being written: photos at native size take 40 MB each


def open_dataset(data: Data, data_dir: str | Path) -> DecodedDataset:
    """The dataset of a recipe, fetched and decoded on first use; safe when several processes want it at once.

    Raises:
        RecipeError: the dataset is missing, does not decode, or has other counts than its recipe says.
    """
    source = locate(data, data_dir)
    if source is None or not (store_folder(source) / "store.json").is_file():
        with locked(cache_folder() / "datasets" / f"{_plain(data.name)}-fetched", f"dataset {data.name}"):
            source = find_or_fetch(data, data_dir)
    folder = store_folder(source)
    if (store := _opened(folder, data.name)) is None:
        with locked(folder, f"dataset {data.name}"):
            if (store := _opened(folder, data.name)) is None:
                if folder.exists():
                    LOG.warning(f"the decoded dataset in {folder} is damaged and is decoded again")
                LOG.info(f"decoding {data.name} from {source}, once")
                _decode(source, folder)
                store = _opened(folder, data.name)
    check_counts(data, str(source), store.train.labels, None if store.test is None else store.test.labels, store.names)
    return store


def current_fingerprint(data: Data, data_dir: str | Path) -> str | None:
    """The fingerprint of the images that a dataset has now; None where the dataset is not here."""
    return None if locate(data, data_dir) is None else open_dataset(data, data_dir).fingerprint


def store_folder(source: Source) -> Path:
    """Where in the cache a source's pixels are, or will be."""
    return cache_folder() / "datasets" / f"{_plain(source.data.name)}-{source.key}"


def check_counts(data: Data, where: str, train: np.ndarray, test: np.ndarray | None, names: tuple[str, ...] | None) -> None:
    """Raise RecipeError unless labels [count] and class names are as the recipe says; a `data.subset` of the classes has
    other numbers of images than the whole, so with one only the classes are counted."""
    where = f"dataset {data.name!r} ({where})"
    here = len(np.unique(train))
    if data.subset is not None:
        if len(lacking := np.setdiff1d(np.arange(data.subset), train)):
            problem = f"no training image of label {lacking[0]}"
            raise RecipeError(f"{where}: {here} classes are here, data.subset says {data.subset}: {problem}")
        for split, labels in (("training", train), ("test", train if test is None else test)):
            if not (labels < data.subset).any() or labels.min() < 0:
                raise RecipeError(f"{where}: {split} labels do not hold 0 to {data.subset - 1}, as data.subset says")
        return
    advice = ""
    if data.classes is not None and 2 <= here < data.classes and train.max() < here:
        advice = f"; it holds {here} of the {data.classes} classes, which --set data.subset={here} admits"
    for split, labels, expected in (("training", train, data.train_images), ("test", test, data.test_images)):
        if labels is None:
            if expected is not None:
                raise RecipeError(f"{where}: no test split, its recipe says {expected} images")
            continue
        if expected is not None and len(labels) != expected:
            raise RecipeError(f"{where}: {len(labels)} {split} images, its recipe says {expected}{advice}")
        if not len(labels):
            raise RecipeError(f"{where}: no {split} image that can be read")
        most = data.classes or (len(names) if names else int(train.max()) + 1)
        if labels.min() < 0 or labels.max() >= most:
            raise RecipeError(
                f"{where}: {split} labels from {labels.min()} to {labels.max()}, its recipe says {most} classes"
            )
    if data.classes is not None and here != data.classes:
        raise RecipeError(f"{where}: {here} classes have training images, its recipe says {data.classes}{advice}")


def decoded(items: Iterable[Item], short_side: int | None) -> Iterator[tuple[Item, np.ndarray | Unreadable]]:
    """Each item with its pixels, or with the reason why there are none, in order; decoded by a thread a core."""

    def attempt(item: Item) -> np.ndarray | Unreadable:
        try:
            return decode(item.load(), short_side)
        except Unreadable as error:
            return error
        except Exception as error:  # an archive's member that is damaged: zlib, zipfile and OS errors of many kinds
            return Unreadable((str(error).splitlines() or [type(error).__name__])[0])

    items = iter(items)
    with ThreadPoolExecutor(len(available_cores())) as pool:
        while window := list(itertools.islice(items, WINDOW)):
            yield from zip(window, pool.map(attempt, window), strict=True)


def unreadable_sentence(problems: list[tuple[str, str]]) -> str:
    """Names what cannot be read, the first five with their reasons."""
    named = "; ".join(f"{name} ({reason})" for name, reason in problems[:5])
    more = f" and {len(problems) - 5} more, all of which `python -m bench data check` lists" if len(problems) > 5 else ""
    return f"{len(problems)} image{'s' if len(problems) > 1 else ''} cannot be read: {named}{more}"


@dataclass(frozen=True)
class Survey:
    """What reading a whole dataset has shown.

    splits: the arrays `sizes`, `labels` and `names` of "train" and, where there is one, "test".
    classes: their names, or None.
    problems: (name, reason) of each image that cannot be read.
    fingerprint: of pixels, sizes and labels, SHA-256, hex.
    left_out: files that are no images by their names.
    """

    splits: dict[str, dict[str, np.ndarray]]
    classes: tuple[str, ...] | None
    problems: list[tuple[str, str]]
    fingerprint: str
    left_out: tuple[str, ...]


def survey(source: Source, keep: Callable[[str, np.ndarray], object] = lambda split, pixels: None) -> Survey:
    """Read and decode every image of a source, with a progress bar on a terminal.

    Args:
        keep: is given (split, pixels) of each image, in order.

    Raises:
        RecipeError: the source cannot be read, or a split is empty. An image that cannot be read is reported instead.
    """
    where, digest = f"dataset {source.data.name!r} ({source})", hashlib.sha256()
    splits, problems = {}, []
    with damaged(source):
        contents = source.contents()
        for split, items in (("train", contents.train), ("test", contents.test)):
            if items is None:
                continue
            sizes, labels, names = [], [], []
            total = len(items) if hasattr(items, "__len__") else None
            with tqdm(total=total, desc=f"decoding {source.data.name} {split}", disable=None) as progress:
                for item, pixels in decoded(items, source.data.short_side):
                    progress.update()
                    if isinstance(pixels, Unreadable):
                        problems.append((item.name, str(pixels)))
                        continue
                    keep(split, pixels)
                    digest.update(pixels.tobytes())
                    sizes.append(pixels.shape[:2])
                    labels.append(item.label)
                    names.append(item.name)
            if not labels and not problems:
                raise RecipeError(f"{where}: split {split!r} holds no images")
            arrays = {"sizes": np.array(sizes, np.int32), "labels": np.array(labels, np.int64)}
            digest.update(arrays["sizes"].tobytes() + arrays["labels"].tobytes())
            splits[split] = {**arrays, "names": np.array(names, dtype=str)}
    return Survey(splits, contents.classes, problems, digest.hexdigest(), contents.left_out)


def _plain(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")


def _opened(folder: Path, name: str) -> DecodedDataset | None:
    """The store in a folder; None where there is none, or none that is whole."""
    try:
        described = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        splits = {split: _open_split(folder, split) for split in described["splits"]}
        names = tuple(described["classes"]) if described["classes"] else None
        return DecodedDataset(name, splits["train"], splits.get("test"), names, described["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _open_split(folder: Path, split: str) -> Images:
    with np.load(folder / f"{split}.npz", allow_pickle=False) as arrays:
        pixels = np.memmap(folder / f"{split}.pixels", np.uint8, "r")
        images = Images(pixels, arrays["sizes"], arrays["labels"], arrays["names"])
    if len(pixels) != 3 * images.sizes.astype(np.int64).prod(1).sum() or len(images.sizes) != len(images):
        raise ValueError("not all pixels are here")
    return images


def _decode(source: Source, folder: Path) -> None:
    """Write the store to a temporary folder, then move it into place. Who calls this holds the folder's lock."""
    for left in (folder, *folder.parent.glob(f"{folder.name}.*.tmp")):  # damaged, or left by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            files = {s: stack.enter_context(open(temporary / f"{s}.pixels", "wb")) for s in ("train", "test")}
            found = survey(source, lambda split, pixels: files[split].write(pixels.tobytes()))
        if found.problems:
            raise RecipeError(f"dataset {source.data.name!r} ({source}): {unreadable_sentence(found.problems)}")
        for split, arrays in found.splits.items():
            np.savez(temporary / f"{split}.npz", **arrays)
        described = {"fingerprint": found.fingerprint, "classes": found.classes, "splits": list(found.splits)}
        (temporary / "store.json").write_text(json.dumps(described), encoding="utf-8")
        os.replace(temporary, folder)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a failed write does not say to which file
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

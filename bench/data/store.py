"""The decoded store: the pixels of a dataset as uint8, decoded once, memory-mapped by every process and every later run.

A folder in the cache with `{train,test}.pixels` (RGB bytes, image after image), `{train,test}.npz` (sizes, labels, names)
and `store.json`, written last (fingerprint, names of the classes).
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
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.cli import count
from bench.config.schema import Data
from bench.cores import available_cores
from bench.data.decode import Unreadable, decode
from bench.data.files import Contents, Item
from bench.data.sources import Source, damaged, find_or_fetch, locate
from bench.data.subsets import DecodedDataset, Images
from bench.locks import cache_folder, locked
from bench.storage import first_line

LOG = logging.getLogger(__name__)
AHEAD_IMAGES = 64  # decoded before they are written: a photo at its full size takes up to 40 MB
NAMED_IMAGES = 5  # named in an error


def open_dataset(data: Data, data_dir: str | Path) -> DecodedDataset:
    """The dataset of a recipe, fetched and decoded at its first use; several processes may ask for it at once.

    Raises RecipeError if it is missing, cannot be decoded, or has other counts than its recipe says.
    """
    source = locate(data, data_dir)
    dataset = None if source is None else open_store(source)
    if dataset is None:
        with locked(_folder(data, "fetched"), f"dataset {data.name}"):
            source = find_or_fetch(data, data_dir)
        folder = store_folder(source)
        with locked(folder, f"dataset {data.name}"):
            dataset = open_store(source)
            if dataset is None:
                if folder.exists():
                    LOG.warning(f"the decoded dataset in {folder} is damaged and is decoded again")
                LOG.info(f"decoding {data.name} from {source}, once")
                _write(source, folder)
                dataset = open_store(source)
    check_counts(source, dataset)
    return dataset


def current_fingerprint(data: Data, data_dir: str | Path) -> str | None:
    """The fingerprint of a dataset's present images; None if the dataset is not in the data folder."""
    return None if locate(data, data_dir) is None else open_dataset(data, data_dir).fingerprint


def state(data: Data, data_dir: str | Path) -> str:
    """Whether a dataset is here: "decoded", "yes", or "no"."""
    source = locate(data, data_dir)
    if source is None:
        return "no"
    return "decoded" if (store_folder(source) / "store.json").is_file() else "yes"


def store_folder(source: Source) -> Path:
    """The folder in the cache for the pixels of a source."""
    return _folder(source.data, source.key)


def _folder(data: Data, suffix: str) -> Path:
    return cache_folder() / "datasets" / f"{data.name.replace(':', '-').replace('/', '-')}-{suffix}"


def open_store(source: Source) -> DecodedDataset | None:
    """The decoded pixels of a source; None if they are not in the cache, or incomplete there."""
    folder = store_folder(source)
    try:
        described = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        splits = {split: _open_split(folder, split) for split in described["splits"]}
        names = tuple(described["classes"]) if described["classes"] else None
        return DecodedDataset(splits["train"], splits.get("test"), names, described["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _open_split(folder: Path, split: str) -> Images:
    with np.load(folder / f"{split}.npz", allow_pickle=False) as arrays:
        pixels = np.memmap(folder / f"{split}.pixels", np.uint8, "r")
        images = Images(pixels, arrays["sizes"], arrays["labels"], arrays["names"])
    if len(pixels) != 3 * images.sizes.astype(np.int64).prod(1).sum() or len(images.sizes) != len(images):
        raise ValueError("pixels are missing")
    return images


def check_counts(source: Source, dataset: DecodedDataset) -> None:
    """Raise RecipeError unless the numbers of images and classes are those of the recipe and all labels are in range."""
    data = source.data
    train, test = dataset.train.labels, None if dataset.test is None else dataset.test.labels
    classes, wanted = len(np.unique(train)), data.subset or data.classes
    # a part of the classes has other numbers of images
    images = (None, None) if data.subset else (data.train_images, data.test_images)
    advice = ""
    if data.subset is None and data.classes is not None and 2 <= classes < data.classes:
        advice = f"; it holds {classes} of the {data.classes} classes, which --set data.subset={classes} allows"
    for split, labels, expected in (("training", train, images[0]), ("test", test, images[1])):
        if labels is None:
            if expected is not None:
                raise source.error(f"no test split, its recipe says {expected} images")
            continue
        if expected is not None and len(labels) != expected:
            raise source.error(f"{len(labels)} {split} images, its recipe says {expected}{advice}")
        if not len(labels):
            raise source.error(f"no {split} image that can be read")
        low, high, allowed = labels.min(), labels.max(), dataset.classes(data)
        if low < 0 or high >= allowed:
            raise source.error(f"{split} labels from {low} to {high}, its recipe says {allowed} classes")
    if wanted is not None and classes != wanted:
        raise source.error(f"{classes} classes have training images, its recipe says {wanted}{advice}")


def refuse_empty_classes(source: Source, contents: Contents) -> None:
    """Raise RecipeError for class folders without images: a network would silently have fewer classes."""
    if contents.empty:
        empty = ", ".join(contents.empty)
        raise source.error(f"class folders without images: {empty}: add some, or remove the folders")


def survey(
    source: Source, keep: Callable[[str, np.ndarray], object] = lambda split, pixels: None
) -> tuple[DecodedDataset, list[tuple[str, str]], Contents]:
    """Read and decode every image of a source, and call `keep` with (split, pixels) for each, in order.

    Returns (the dataset without pixels, (name, reason) of each image that cannot be read, the contents). Raises RecipeError
    if the source cannot be read, or a split is empty.
    """
    digest = hashlib.sha256()
    splits, problems = {}, []
    with damaged(source):
        contents = source.contents()
        for split, items in (("train", contents.train), ("test", contents.test)):
            if items is None:
                continue
            sizes, labels, names = [], [], []
            total = len(items) if hasattr(items, "__len__") else None
            with tqdm(total=total, desc=f"decoding {source.data.name} {split}", disable=None) as progress:
                for item, pixels in _decoded(items, source.data.short_side):
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
                raise source.error(f"split {split!r} holds no images")
            arrays = np.array(sizes, np.int32), np.array(labels, np.int64), np.array(names, str)
            digest.update(arrays[0].tobytes() + arrays[1].tobytes())
            splits[split] = Images(np.empty(0, np.uint8), *arrays)
    names = contents.classes or None
    dataset = DecodedDataset(splits["train"], splits.get("test"), names, digest.hexdigest())
    return dataset, problems, contents


def _decoded(items: Iterable[Item], short_side: int | None) -> Iterator[tuple[Item, np.ndarray | Unreadable]]:
    """Each item with its pixels, or with the reason why it has none, in order; decoded by one thread per core."""

    def attempt(item: Item) -> np.ndarray | Unreadable:
        try:
            return decode(item.load(), short_side)
        except Exception as error:  # damaged members of archives raise zlib, zipfile and OS errors of many kinds
            return Unreadable(first_line(error))

    items = iter(items)
    with ThreadPoolExecutor(len(available_cores())) as pool:
        while chunk := list(itertools.islice(items, AHEAD_IMAGES)):
            yield from zip(chunk, pool.map(attempt, chunk), strict=True)


def _write(source: Source, folder: Path) -> None:
    """Decode into a temporary folder, then move it into place. The caller holds the folder's lock."""
    for old in (folder, *folder.parent.glob(f"{folder.name}.*.tmp")):  # damaged, or left by a killed process
        shutil.rmtree(old, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        with open(temporary / "train.pixels", "wb") as train, open(temporary / "test.pixels", "wb") as test:
            files = {"train": train, "test": test}
            dataset, problems, contents = survey(source, lambda split, pixels: files[split].write(pixels.tobytes()))
        refuse_empty_classes(source, contents)
        if failed := len(problems):
            named = "; ".join(f"{name} ({reason})" for name, reason in problems[:NAMED_IMAGES])
            more = failed - NAMED_IMAGES
            rest = f" and {more} more, all of which `python -m bench data check` lists" if more > 0 else ""
            raise source.error(f"{count(failed, 'image')} cannot be read: {named}{rest}")
        for split, images in dataset.splits.items():
            np.savez(temporary / f"{split}.npz", sizes=images.sizes, labels=images.labels, names=images.names)
        described = {"fingerprint": dataset.fingerprint, "classes": dataset.names, "splits": list(dataset.splits)}
        (temporary / "store.json").write_text(json.dumps(described), encoding="utf-8")
        os.replace(temporary, folder)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a failed write does not name its file
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

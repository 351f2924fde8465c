"""Parquet files with encoded images and labels, in the schema that the Hugging Face hub uses for image classification."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.config.schema import Data, RecipeError
from bench.data.files import Contents, Files, Item, LayoutMismatch
from bench.storage import first_line

TEST_SPLITS = ("test", "validation", "valid", "val")  # used in this order if the recipe leaves the split open
BATCH_ROWS = 256  # read at once; photos take several MB each


@dataclass(frozen=True)
class Table:
    """The rows of a split."""

    schema: pa.Schema  # with the metadata of `datasets`, if it wrote them; these have the names of the classes
    batches: Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]]  # the rows of the named columns

    def rows(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, row by row. An image is a dict of `bytes` and `path`, bytes, a path, or None."""
        for batch in self.batches(list(names)):
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)

    def _feature(self, name: str) -> dict[str, Any]:
        """The description of a column in the metadata: `_type`, and `names` of a ClassLabel; {} without one."""
        metadata = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
        return metadata.get("info", {}).get("features", {}).get(name, {})

    def is_image(self, name: str) -> bool:
        """Whether a column holds encoded images."""
        kind = self.schema.field(name).type
        encoded = pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}
        return encoded or self._feature(name).get("_type") == "Image"

    def classes(self, name: str) -> tuple[str, ...] | None:
        """The class names of a column of labels; None for other columns."""
        feature = self._feature(name)
        return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else None

    def is_text(self, name: str) -> bool:
        """Whether a column holds strings."""
        kind = self.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind  # pandas writes categories as dictionaries
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def read(files: Files, data: Data) -> Contents:
    """The splits `{split}.parquet` or `{split}-*.parquet`, in the folder, in `data/`, or in one folder below it."""
    if not files.path.is_dir():
        raise LayoutMismatch("parquet files")
    splits = (data.test_split, *TEST_SPLITS) if _may_search(data) else (data.test_split,)
    train = _table(files.path, data, data.train_split)
    test = next((table for split in splits if (table := _table(files.path, data, split))), None)
    if train is None or (test is None and not _may_search(data)):
        raise LayoutMismatch(f"{data.train_split}*.parquet and {data.test_split}*.parquet")
    return _contents(data, train, test, str(files))


def read_hub(data: Data) -> Contents:
    """The splits of a dataset on the hub. None of its code is run: `datasets` 4 and later have no loading scripts.

    Raises RecipeError if the hub cannot be reached, or has no such dataset, split or column.
    """
    datasets = importlib.import_module("datasets")  # takes seconds, and only the hub needs it
    where = f"{data.hub} on the hub"
    try:
        splits = datasets.get_dataset_split_names(data.hub, data.hub_config)
    except Exception as error:  # the libraries beneath raise dozens of kinds: no network, no such name, no access
        folder = data.name.removeprefix("hub:")
        raise RecipeError(
            f"dataset {data.name!r}: not in the data folder and not available from the hub ({first_line(error)}): put"
            f" {data.train_split}*.parquet and {data.test_split}*.parquet of {data.hub} into <data-dir>/{folder}/"
        ) from error
    test = data.test_split
    if test not in splits and _may_search(data):
        test = next((split for split in TEST_SPLITS if split in splits), None)
    for split in (*data.train_split.split("+"), *(test.split("+") if test else ())):
        if split not in splits:
            raise RecipeError(f"dataset {data.name!r} ({where}): no split {split!r}; it has {', '.join(splits)}")

    def table(split: str) -> Table:
        rows = datasets.load_dataset(data.hub, data.hub_config, split=split)
        return Table(
            rows.features.arrow_schema,
            lambda names: rows.select_columns(names).with_format("arrow").iter(BATCH_ROWS),
        )

    return _contents(data, table(data.train_split), table(test) if test else None, where)


def _may_search(data: Data) -> bool:
    """Whether columns and splits that the recipe leaves at their defaults may be found by their types and names."""
    return data.name.startswith("hub:")


def _table(folder: Path, data: Data, split: str) -> Table | None:
    """The rows of a split, in one or several numbered files; "a+b" is both splits. None if a split has no file."""
    paths = []
    for name in split.split("+"):
        for place in ("", "data/", f"{data.hub_config or '*'}/"):
            found = sorted([*folder.glob(f"{place}{name}.parquet"), *folder.glob(f"{place}{name}-*.parquet")])
            if found:
                break
        else:
            return None
        paths += found

    def batches(names: list[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(BATCH_ROWS, columns=names)

    return Table(pq.read_schema(paths[0]), batches)


def _contents(data: Data, train: Table, test: Table | None, where: str) -> Contents:
    """The images and labels of tables, whose rows are read when the items are iterated over. where: for errors."""
    where = f"dataset {data.name!r} ({where})"
    image = _find_column(data, train, data.image_column, "image", where)
    label = _find_column(data, train, data.label_column, "label", where)
    classes, number = train.classes(label), None
    if train.is_text(label) and _may_search(data):
        classes = tuple(sorted({name for (name,) in train.rows(label)}))
        number = {name: index for index, name in enumerate(classes)}

    def number_of(value: object) -> object:
        return value if number is None else number.get(value)

    def items(split: str, table: Table) -> Iterator[Item]:
        for position, (encoded, value) in enumerate(table.rows(image, label)):
            name = f"image {position} of split {split!r}"
            index = number_of(value)
            if type(index) is not int:
                raise RecipeError(f"{where}: {name} cannot be used: its label is {value!r}, not a whole number")
            yield Item(name, index, partial(_load, encoded))

    tested = None if test is None else items("test", test)
    return Contents(items("train", train), tested, classes, labels=lambda: (number_of(v) for (v,) in train.rows(label)))


def _find_column(data: Data, table: Table, name: str, default: str, where: str) -> str:
    """The column of this name; or, if the recipe leaves it open, the only column of the right type."""
    columns = table.schema.names
    if name in columns:
        return name
    present = ", ".join(columns)
    if name != default or not _may_search(data):
        raise RecipeError(f"{where}: no column {name!r}; it has {present}")
    fits = table.is_image if default == "image" else table.classes
    found = [column for column in columns if fits(column)]
    if len(found) != 1:
        problem = f"several that could be ({', '.join(found)})" if found else f"none; it has {present}"
        raise RecipeError(f"{where}: which column is the {default}? {problem}: set data.{default}_column")
    return found[0]


def _load(image: dict[str, Any] | bytes | str | None) -> bytes:
    """The encoded bytes of an image; empty if there are none."""
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    return Path(image).read_bytes() if isinstance(image, str) else image or b""

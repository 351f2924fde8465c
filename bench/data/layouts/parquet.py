"""Parquet files of the hub's schema for image classification, in a local folder or on the hub itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.config.schema import Data, RecipeError
from bench.data.files import Files
from bench.data.layouts import Contents, Item, LayoutMismatch

TESTS = ("test", "validation", "valid", "val")


def read(files: Files, data: Data) -> Contents:
    """`{split}.parquet` or `{split}-*.parquet`, in the folder, in `data/` or in one folder below (a configuration's).

    Raises:
        LayoutMismatch: a split has no file.
        RecipeError: the files cannot be read, or lack a column.
    """
    if not files.place.is_dir():
        raise LayoutMismatch("parquet files")
    train, test = (_shards(files.place, data, split) for split in (data.train_split, data.test_split))
    if test is None and _may_find(data):
        test = next((found for split in TESTS if (found := _shards(files.place, data, split))), None)
    if train is None or (test is None and not _may_find(data)):
        raise LayoutMismatch(f"{data.train_split}*.parquet and {data.test_split}*.parquet")

    def load(paths: list[Path]) -> Any:
        import datasets

        return datasets.load_dataset("parquet", data_files=[str(p) for p in paths], split="train", streaming=True)

    return _contents(data, partial(load, train), None if test is None else partial(load, test), str(files))


def read_hub(data: Data) -> Contents:
    """The same from the hub. No code of a dataset's repository is run: `datasets` 4 and later have no loading scripts.

    Raises:
        RecipeError: the hub cannot be reached, or has no such dataset, split or column.
    """
    import datasets

    where = f"{data.hub} on the hub"
    try:
        splits = datasets.get_dataset_split_names(data.hub, data.hub_config)
    except Exception as error:  # the libraries beneath raise dozens of kinds: no network, no such name, no access
        folder = data.name.removeprefix("hub:")
        raise RecipeError(
            f"dataset {data.name!r}: not in the data folder and not to be had from the hub ({_first_line(error)}): put"
            f" {data.train_split}*.parquet and {data.test_split}*.parquet of {data.hub} into <data-dir>/{folder}/"
        ) from error
    test = data.test_split
    if test not in splits and _may_find(data):
        test = next((split for split in TESTS if split in splits), None)
    for split in (*data.train_split.split("+"), *(test.split("+") if test else ())):
        if split not in splits:
            raise RecipeError(f"dataset {data.name!r} ({where}): no split {split!r}; it has {', '.join(splits)}")

    def load(split: str) -> Any:
        return datasets.load_dataset(data.hub, data.hub_config, split=split)

    return _contents(data, partial(load, data.train_split), partial(load, test) if test else None, where)


def _may_find(data: Data) -> bool:
    """Whether columns and splits that the recipe leaves at their default may be found by what they hold."""
    return data.name.startswith("hub:")


def _shards(folder: Path, data: Data, split: str) -> list[Path] | None:
    """The files of a split, whole or in numbered parts; of all splits of "a+b". None where one has none."""
    out = []
    for part in split.split("+"):
        for place in ("", "data/", f"{data.hub_config or '*'}/"):
            found = sorted([*folder.glob(f"{place}{part}.parquet"), *folder.glob(f"{place}{part}-*.parquet")])
            if found:
                break
        else:
            return None
        out += found
    return out


def _contents(data: Data, train: Any, test: Any, where: str) -> Contents:
    """From functions that give the rows of a split. Nothing but the first rows is read here."""
    import datasets

    where = f"dataset {data.name!r} ({where})"
    try:
        rows = train()
        features = rows.features or datasets.Features({name: datasets.Value("null") for name in rows.column_names or []})
    except Exception as error:  # parquet's and the hub's readers raise dozens of kinds
        raise RecipeError(f"{where}: its files cannot be read ({type(error).__name__}: {_first_line(error)})") from error
    image = _column(data, features, data.image_column, "image", where)
    label = _column(data, features, data.label_column, "label", where)
    kind = features[label]
    classes = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    number = None
    if isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string") and _may_find(data):
        classes = tuple(sorted({row[label] for row in rows.select_columns([label])}))
        number = {name: i for i, name in enumerate(classes)}
    splits = (_items(where, name, rows, image, label, number) for name, rows in (("train", train), ("test", test)) if rows)
    return Contents(next(splits), next(splits, None), classes)


def _column(data: Data, features: Any, name: str, default: str, where: str) -> str:
    """The column of that name; where the recipe leaves it open, the one column that can be it."""
    import datasets

    if name in features:
        return name
    has = ", ".join(features)
    if name != default or not _may_find(data):
        raise RecipeError(f"{where}: no column {name!r}; it has {has}")

    def fits(kind: Any) -> bool:
        if default == "image":
            return isinstance(kind, datasets.Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"})
        return isinstance(kind, datasets.ClassLabel)

    found = [column for column, kind in features.items() if fits(kind)]
    if len(found) != 1:
        many = f"several that could be ({', '.join(found)})" if found else f"none; it has {has}"
        raise RecipeError(f"{where}: which column is the {default}? {many}: set data.{default}_column")
    return found[0]


def _items(where: str, split: str, rows: Any, image: str, label: str, number: dict[str, int] | None) -> Iterator[Item]:
    import datasets

    columns = rows().select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    for position, row in enumerate(columns):
        value = row[label] if number is None else number.get(row[label])
        name = f"image {position} of split {split!r}"
        if type(value) is not int:
            raise RecipeError(f"{where}: {name} cannot be used: its label is {row[label]!r}, not a whole number")
        encoded = row[image] or {"bytes": b"", "path": None}
        yield Item(name, value, partial(_encoded, encoded))


def _encoded(image: dict[str, Any]) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]

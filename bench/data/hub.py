"""Datasets of the Hugging Face hub. Imported only when a dataset is fetched from there, since `datasets` takes seconds."""

from __future__ import annotations

import datasets

from bench.config.schema import Data, RecipeError
from bench.data.layouts import Contents
from bench.data.layouts.parquet import BATCH_ROWS, TEST_SPLITS, Table, contents_of, may_search
from bench.storage import first_line


def read_hub(data: Data) -> Contents:
    """The splits of a dataset on the hub. None of its code is run: `datasets` 4 and later have no loading scripts.

    Raises:
        RecipeError: the hub cannot be reached, or has no such dataset, split or column.
    """
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
    if test not in splits and may_search(data):
        test = next((split for split in TEST_SPLITS if split in splits), None)
    for split in (*data.train_split.split("+"), *(test.split("+") if test else ())):
        if split not in splits:
            raise RecipeError(f"dataset {data.name!r} ({where}): no split {split!r}; it has {', '.join(splits)}")
    return contents_of(data, _table(data, data.train_split), _table(data, test) if test else None, where)


def _table(data: Data, split: str) -> Table:
    """The rows of a split, downloaded into the cache of `datasets`."""
    rows = datasets.load_dataset(data.hub, data.hub_config, split=split)
    return Table(
        rows.features.arrow_schema,
        lambda names: rows.select_columns(names).with_format("arrow").iter(BATCH_ROWS),
    )

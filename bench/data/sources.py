"""Where a dataset comes from: parquet files of the hub's schema, in a local folder or inside the package, or the hub."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.recipes import Data, RecipeError


@dataclass(frozen=True)
class Source:
    """A place that holds a dataset's train and test split."""

    data: Data
    files: dict[str, list[Path]] | None  # {"train": parquet files, "test": …}; None: the hub

    @property
    def key(self) -> str:
        """16 hex digits that change when the files, the columns or the splits do."""
        if self.files is None:
            place: object = self.data.hub
        else:
            place = {s: [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in fs] for s, fs in self.files.items()}
        read = [self.data.image_column, self.data.label_column, self.data.train_split, self.data.test_split]
        return hashlib.sha256(json.dumps([place, read]).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.data.hub} on the hub" if self.files is None else str(next(iter(self.files.values()))[0].parent)

    def images(self, split: str) -> Iterator[tuple[np.ndarray, int]]:
        """The images of "train" or "test" in their order: ([height, width, 3] uint8 RGB, label).

        Raises:
            RecipeError: the source cannot be read, lacks a column or split, or holds an image that does not decode.
        """
        # Seconds to import, and wanted only the first time a dataset is seen.
        import datasets
        from PIL import Image, ImageOps

        data, where = self.data, f"dataset {self.data.name!r} ({self})"
        name = {"train": data.train_split, "test": data.test_split}[split]
        try:
            if self.files is None:
                rows = datasets.load_dataset(data.hub, split=name)
            else:
                files = [str(file) for file in self.files[split]]
                rows = datasets.load_dataset("parquet", data_files={split: files}, split=split, streaming=True)
            columns = list(rows.features or rows.column_names or [])
        except Exception as error:  # the libraries beneath raise dozens of kinds: no network, no such name, a broken file
            advice = "its files cannot be read" if self.files else _missing(data)
            raise RecipeError(f"{where}: {advice} ({type(error).__name__}: {_first_line(error)})") from error
        for column in (data.image_column, data.label_column):
            if column not in columns:
                raise RecipeError(f"{where}: no column {column!r} in split {name!r}; it has {', '.join(columns)}")
        position = 0
        try:
            for row in rows.cast_column(data.image_column, datasets.Image(decode=False)):
                encoded, label = row[data.image_column], row[data.label_column]
                if type(label) is not int:
                    raise TypeError(f"its label is {label!r}, not a whole number")
                image = Image.open(io.BytesIO(encoded["bytes"]) if encoded["bytes"] is not None else encoded["path"])
                yield np.asarray(ImageOps.exif_transpose(image).convert("RGB")), label
                position += 1
        except Exception as error:  # Pillow's decoders and parquet's raise OSError, ValueError, SyntaxError, struct.error …
            raise RecipeError(
                f"{where}: image {position} of split {name!r} cannot be read: {_first_line(error)}"
            ) from error


def locate(data: Data, data_dir: str | Path) -> Source:
    """The source of a dataset: parquet files in `<data_dir>/<name>/`, else the hub; `digits` lies inside the package."""
    if data.source == "packaged":
        folder = Path(__file__).parent / data.name
        if not folder.is_dir():
            raise RecipeError(f"data.source: got 'packaged', but the package holds no dataset {data.name!r}")
        return Source(data, {split: [folder / f"{split}.parquet"] for split in ("train", "test")})
    folder = Path(data_dir) / data.name
    files = {
        split: next((found for place in ("", "data/", "*/") if (found := _shards(folder, place, name))), [])
        for split, name in (("train", data.train_split), ("test", data.test_split))
    }
    if all(files.values()):
        return Source(data, files)
    if any(files.values()):
        lacking = data.test_split if files["train"] else data.train_split
        raise RecipeError(f"dataset {data.name!r}: {folder} has no {lacking}*.parquet beside its other split")
    if folder.is_dir():
        raise RecipeError(
            f"dataset {data.name!r}: {folder} holds no {data.train_split}*.parquet and {data.test_split}*.parquet"
        )
    return Source(data, None)


def _missing(data: Data) -> str:
    return (
        f"not in the data folder and not to be had from the hub: put {data.train_split}*.parquet and"
        f" {data.test_split}*.parquet of {data.hub} into <data-dir>/{data.name}/"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _shards(folder: Path, place: str, split: str) -> list[Path]:
    """A split's parquet files, whole or in numbered parts, in a place below a dataset's folder."""
    return sorted([*folder.glob(f"{place}{split}.parquet"), *folder.glob(f"{place}{split}-*.parquet")])

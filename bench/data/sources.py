"""Where a dataset is read from: the data folder, this package, a download by torchvision, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.config.names import ARCHIVE_SUFFIXES
from bench.config.schema import Data, RecipeError
from bench.data.files import Contents, Files, LayoutMismatch
from bench.storage import disk_full, first_line

LOG = logging.getLogger(__name__)
READER_VERSION = 1  # raise it if a layout or `decode` begins to read the same files differently: all are decoded again


class IncompleteDataset(RecipeError):
    """The files in the data folder under a dataset's name do not hold the dataset."""


class MissingDataset(RecipeError):
    """A dataset is not in the data folder, and there is no download."""


@dataclass(frozen=True)
class Source:
    """Where a dataset may be."""

    data: Data
    places: tuple[Files, ...]  # folders and archives; none: the hub
    skipped: str = ""  # why the files in the data folder are not used, for an error

    @property
    def key(self) -> str:
        """16 hex digits that change with the files and with what is read from them."""
        data = self.data
        held = [place.listing() for place in self.places] or data.hub
        columns = [data.hub_config, data.image_column, data.label_column, data.train_split, data.test_split]
        read = [READER_VERSION, data.layout, *columns, data.short_side, *([] if data.subset is None else [data.subset])]
        return hashlib.sha256(json.dumps([held, read]).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return ", ".join(map(str, self.places)) or f"{self.data.hub} on the hub"

    def error(self, problem: str) -> RecipeError:
        """The error for a problem of this dataset."""
        return RecipeError(f"dataset {self.data.name!r} ({self}): {problem}")

    def contents(self) -> Contents:
        """The images, not yet decoded, of the first place that has the dataset in its own layout or as parquet files.

        With `data.subset`, those of its classes.

        Raises IncompleteDataset if no place has it, RecipeError if files are damaged or the hub cannot be reached.
        """
        with damaged(self):
            # Layouts are imported when they are read, so that a decoded dataset needs no library for its files.
            names = dict.fromkeys((self.data.layout, "parquet"))
            layouts = [importlib.import_module(f"bench.data.layouts.{name}") for name in names]
            if not self.places:
                try:
                    return self._of_classes(layouts[-1].read_hub(self.data))
                except RecipeError as error:
                    raise RecipeError(f"{error}{self.skipped and '; '}{self.skipped}") from error
            problems = []
            for place in self.places:
                for layout in layouts:
                    try:
                        return self._of_classes(layout.read(place, self.data))
                    except LayoutMismatch as error:
                        if layout is layouts[0]:
                            problems.append(f"{place} lacks {error}")
            raise IncompleteDataset(f"dataset {self.data.name!r}: {'; '.join(problems)}: complete it, or move it away")

    def _of_classes(self, contents: Contents) -> Contents:
        wanted, total = self.data.subset, self.data.classes
        if wanted is None:
            return contents
        present = len(contents.present())
        if present < wanted or (total is not None and present not in (wanted, total)):
            of_all = "" if total is None else f" of {total}"
            raise self.error(
                f"{present}{of_all} classes have training images: data.subset={wanted} needs all of them, or a copy of only"
                f" its {wanted}"
            )
        return contents.spread(wanted, self.error)


@contextmanager
def damaged(source: Source) -> Iterator[None]:
    """Turn any error of reading a source into one sentence: each reader raises its own kinds for a damaged file."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:
        if disk_full(error):
            raise
        raise source.error(f"its files cannot be read ({type(error).__name__}: {first_line(error)})") from error


def locate(data: Data, data_dir: str | Path) -> Source | None:
    """The source of a dataset in this package or in the data folder; None if it must be fetched.

    Its places in the data folder are archives, and folders that are not empty, in the order of `file_patterns`.
    """
    if data.source == "packaged":
        folder = Path(__file__).parent / data.name
        if not folder.is_dir():
            raise RecipeError(f"data.source: got 'packaged', but the package holds no dataset {data.name!r}")
        return Source(data, (Files(folder),))
    paths = [path for pattern in file_patterns(data) for path in sorted(Path(data_dir).glob(pattern))]
    places = [Files(p) for p in paths if p.name.endswith(ARCHIVE_SUFFIXES) or (p.is_dir() and any(p.iterdir()))]
    return Source(data, tuple(places)) if places else None


def file_patterns(data: Data) -> tuple[str, ...]:
    """The names in the data folder of what may hold the dataset, as patterns."""
    own = () if ":" in data.name else (data.name,)
    return tuple(dict.fromkeys((*data.places, *own)))


def find_or_fetch(data: Data, data_dir: str | Path) -> Source:
    """The source of a dataset: the files that are here; else a download by torchvision into the data folder; else the hub.

    Raises RecipeError if the files are incomplete, there is no download, or it failed; the sentence says what to do.
    """
    source = locate(data, data_dir)
    if source is None and data.source == "torchvision":
        _download(data, data_dir)
        source = locate(data, data_dir)
    if source is not None and data.source == "hub":
        try:
            source.contents()
        except IncompleteDataset as error:
            return Source(data, (), skipped=str(error))
    if source is None and data.source == "hub" and data.hub:
        return Source(data, ())
    if source is None:
        raise MissingDataset(missing(data, data_dir))
    return source


def _download(data: Data, data_dir: str | Path) -> None:
    """Download a dataset into the data folder with torchvision, which verifies checksums."""
    datasets = importlib.import_module("torchvision.datasets")  # imports torch, which only a download needs
    if not hasattr(datasets, str(data.torchvision)):
        raise RecipeError(missing(data, data_dir))
    LOG.info(f"downloading {data.name} into {data_dir}")
    try:
        Path(data_dir).mkdir(parents=True, exist_ok=True)
        # Not into the data folder itself: the rest of an interrupted or a wrong download would be read the next time.
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".downloading-", ignore_cleanup_errors=True) as folder:
            getattr(datasets, data.torchvision)(folder, download=True)
            for path in Path(folder).iterdir():
                os.replace(path, Path(data_dir, path.name))
    # urllib's errors are OSErrors; RuntimeError: a wrong checksum; TypeError: the class of this name does not download
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        other = f", or --set data.source=hub takes it from there ({data.hub})" if data.hub else ""
        raise RecipeError(f"{missing(data, data_dir)}; its download failed ({first_line(error)}){other}") from error


def missing(data: Data, data_dir: str | Path) -> str:
    """The sentence for a dataset that is not in the data folder: where it was looked for, and what to do."""
    names = ", ".join(file_patterns(data))
    return f"dataset {data.name!r}: not in the data folder {data_dir} (looked for {names}): {data.ask or 'put it there'}"

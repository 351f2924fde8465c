"""Where a dataset comes from: files in the data folder, this package, torchvision's download, or the hub."""

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
from types import ModuleType

from bench.config.schema import Data, RecipeError
from bench.data import files as on_disk
from bench.data.files import Files
from bench.data.layouts import Contents, LayoutMismatch
from bench.storage import disk_full

LOG = logging.getLogger(__name__)


class IncompleteDataset(RecipeError):
    """What lies in the data folder under a dataset's name does not hold it."""


READERS = 1  # raise it when a layout or `decode` begins to read the same files otherwise: all is decoded anew


@dataclass(frozen=True)
class Source:
    """The folders and archives that may hold a dataset; none of them: the hub.

    instead_of: why what lies in the data folder is not taken, for a message.
    """

    data: Data
    places: tuple[Files, ...]
    instead_of: str = ""

    @property
    def key(self) -> str:
        """16 hex digits that change when the files do, or what is read of them."""
        data = self.data
        held = [place.listing() for place in self.places] or data.hub
        columns = [data.hub_config, data.image_column, data.label_column, data.train_split, data.test_split]
        read = [READERS, data.layout, *columns, data.short_side]
        return hashlib.sha256(json.dumps([held, read]).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return ", ".join(map(str, self.places)) or f"{self.data.hub} on the hub"

    def contents(self) -> Contents:
        """The images, not decoded yet, of the first place that holds the dataset in its own layout or as parquet files.

        Raises:
            IncompleteDataset: no place does.
            RecipeError: what lies there is damaged, or the hub cannot be reached.
        """
        with damaged(self):
            return self._contents()

    def _contents(self) -> Contents:
        own = importlib.import_module(f"bench.data.layouts.{self.data.layout}")
        parquet = importlib.import_module("bench.data.layouts.parquet")
        if not self.places:
            try:
                return parquet.read_hub(self.data)
            except RecipeError as error:
                raise RecipeError(f"{error}{self.instead_of and '; '}{self.instead_of}") from error
        problems = []
        for place in self.places:
            for layout in (own, parquet):
                try:
                    return layout.read(place, self.data)
                except LayoutMismatch as lacking:
                    if layout is own:
                        problems.append(f"{place} lacks {lacking}")
        raise IncompleteDataset(f"dataset {self.data.name!r}: {'; '.join(problems)}: complete it, or move it away")


@contextmanager
def damaged(source: Source) -> Iterator[None]:
    """Turn whatever reading a source raises into one sentence: pickle, JSON, MATLAB, parquet and archives each raise kinds
    of their own where a file is damaged."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:  # of as many kinds as there are readers
        if disk_full(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        where = f"dataset {source.data.name!r} ({source})"
        raise RecipeError(f"{where}: its files cannot be read ({type(error).__name__}: {reason})") from error


def locate(data: Data, data_dir: str | Path) -> Source | None:
    """The source of a dataset that is here, in the package or in the data folder; None where it must be fetched."""
    if data.source == "packaged":
        folder = Path(__file__).parent / data.name
        if not folder.is_dir():
            raise RecipeError(f"data.source: got 'packaged', but the package holds no dataset {data.name!r}")
        return Source(data, (Files(folder),))
    places = on_disk.find(Path(data_dir), looked_for(data))
    return Source(data, tuple(places)) if places else None


def looked_for(data: Data) -> tuple[str, ...]:
    """Names, below the data folder, of what may hold the dataset."""
    own = () if ":" in data.name else (data.name,)
    return tuple(dict.fromkeys((*data.places, *own)))


def find_or_fetch(data: Data, data_dir: str | Path) -> Source:
    """The source of a dataset: what is here; else downloaded into the data folder by torchvision, which checks it by
    checksum; else the hub.

    Raises:
        RecipeError: what is here is not whole, or there is no download, or it failed; one sentence that says what to do.
    """
    source = locate(data, data_dir)
    if source is not None:
        if data.source != "hub":
            return source
        try:
            source.contents()
        except IncompleteDataset as error:
            return Source(data, (), instead_of=str(error))
        return source
    if data.source == "hub" and data.hub:
        return Source(data, ())
    if data.source != "torchvision" or not hasattr(torchvision_datasets(), str(data.torchvision)):
        raise RecipeError(missing(data, data_dir))
    LOG.info(f"downloading {data.name} into {data_dir}")
    try:
        Path(data_dir).mkdir(parents=True, exist_ok=True)
        # Not into the data folder itself: what an interrupted or a wrong download leaves there would be read the next time.
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".downloading-", ignore_cleanup_errors=True) as folder:
            getattr(torchvision_datasets(), data.torchvision)(folder, download=True)
            for path in Path(folder).iterdir():
                os.replace(path, Path(data_dir, path.name))
    # urllib's errors are OSErrors; RuntimeError: a wrong checksum; TypeError: a name there that is no download
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        other = f", or --set data.source=hub takes it from there ({data.hub})" if data.hub else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecipeError(f"{missing(data, data_dir)}; its download failed ({reason}){other}") from error
    return locate(data, data_dir)


def torchvision_datasets() -> ModuleType:
    """`torchvision.datasets`, which takes seconds to import and is wanted only to download."""
    import torchvision

    return torchvision.datasets


def missing(data: Data, data_dir: str | Path) -> str:
    """The sentence that says where a dataset was looked for, and what to do."""
    looked = ", ".join(looked_for(data))
    return f"dataset {data.name!r}: not in the data folder {data_dir} (looked for {looked}): {data.ask or 'put it there'}"

"""The files of a dataset in a folder, or in a zip or tar archive, and the images that a layout finds in them.

Archives are read without unpacking them, so that no member of an archive can be written anywhere.
"""

from __future__ import annotations

import itertools
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np

from bench.config.schema import RecipeError
from bench.storage import first_line


@dataclass(frozen=True)
class Item:
    """An image that has not been decoded."""

    name: str
    label: int
    load: Callable[[], bytes | np.ndarray]  # its encoded bytes, or its pixels, [height, width, 3] uint8


@dataclass(frozen=True)
class Contents:
    """The images of a dataset's files."""

    train: Iterable[Item]
    test: Iterable[Item] | None  # None: no test split
    classes: tuple[str, ...] | None  # the names of the labels 0, 1, …; None if the files do not name them
    left_out: tuple[str, ...] = ()  # files that are not images by their names
    empty: tuple[str, ...] = ()  # class folders of the training images that hold none
    labels: Callable[[], Iterable[object]] | None = None  # those of the training images; None if `train` is a list

    def present(self) -> list[int]:
        """The labels of the training images, sorted, without those that mark an image as unlabelled."""
        labels = (item.label for item in self.train) if self.labels is None else self.labels()
        return sorted({label for label in labels if type(label) is int and label >= 0})

    def spread(self, count: int, error: Callable[[str], RecipeError]) -> Contents:
        """The images of `count` of the present classes, spread evenly over their order, with labels from 0.

        Of 200 classes, 20 are every tenth, from the first on. A copy that holds only these gives the same images.

        If an image has a label that no training image has, `error` is raised: at once for lists, else during iteration.
        """
        present = self.present()
        chosen = {present[k * len(present) // count]: k for k in range(count)}
        number = {label: chosen.get(label) for label in present}
        named = self.classes is not None and max(chosen) < len(self.classes)
        return replace(
            self,
            train=_relabelled(self.train, number, error),
            test=None if self.test is None else _relabelled(self.test, number, error),
            classes=tuple(self.classes[label] for label in chosen) if named else None,
            labels=None,
        )


def _relabelled(
    items: Iterable[Item], number: Mapping[int, int | None], error: Callable[[str], RecipeError]
) -> Iterable[Item]:
    """The items of the chosen classes, with their new labels: a list if `items` is a list, else an iterator."""

    def kept() -> Iterator[Item]:
        for item in items:
            if item.label not in number:
                raise error(f"{item.name}: its label is {item.label}, which no training image has")
            if number[item.label] is not None:
                yield replace(item, label=number[item.label])

    return list(kept()) if isinstance(items, list) else kept()


class LayoutMismatch(LookupError):
    """The files are not in this layout; the message names what is missing."""


class Files:
    """The files below a folder or in an archive (a zip or tar file), by their relative paths."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def _contents(self) -> tuple[dict[str, Callable[[], bytes]], list[str]]:
        """({name of a file: function that returns its content}, names of folders, among them all empty folders)."""
        try:
            if self.path.is_dir():
                found = {path.relative_to(self.path).as_posix(): path.read_bytes for path in _walk(self.path)}
                folders = [path.relative_to(self.path).as_posix() for path in _empty_folders(self.path)]
            elif self.path.suffix == ".zip":
                archive = zipfile.ZipFile(self.path)
                found = {info.filename: partial(archive.read, info) for info in archive.infolist() if not info.is_dir()}
                folders = [info.filename.rstrip("/") for info in archive.infolist() if info.is_dir()]
            else:  # a compressed tar cannot be read out of order, so its files are kept in memory
                with tarfile.open(self.path) as tar:
                    members = tar.getmembers()
                    found = {file.name: partial(bytes, tar.extractfile(file).read()) for file in members if file.isfile()}
                folders = [member.name for member in members if member.isdir()]
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise RecipeError(f"{self.path}: cannot be read as an archive: {first_line(error)}") from error
        readers = {name.removeprefix("./"): reader for name, reader in found.items()}
        readers = {name: reader for name, reader in readers.items() if not _hidden(name)}
        return readers, [name.removeprefix("./") for name in folders]

    @cached_property
    def names(self) -> list[str]:
        """Relative paths with "/", sorted, without hidden files and `__MACOSX`."""
        return sorted(self._contents[0])

    @cached_property
    def folders(self) -> list[str]:
        """Relative paths of the folders that hold files, and of empty ones, sorted, without hidden ones."""
        parents = {str(PurePosixPath(name).parent) for name in self.names}
        return sorted(name for name in parents.union(self._contents[1]) if not _hidden(name) and name != ".")

    def __contains__(self, name: str) -> bool:
        return name in self._contents[0]

    def read(self, name: str) -> bytes:
        """The content of a file. A name that is not among `names`, which could point elsewhere, is not followed."""
        if name not in self:
            raise FileNotFoundError(f"{name} is not there")
        return self._contents[0][name]()

    def items(self, labelled: Iterable[tuple[str, int]]) -> list[Item]:
        """The items of (name, label) pairs of encoded images."""
        return [Item(name, label, partial(self.read, name)) for name, label in labelled]

    def root_of(self, *required: str) -> str:
        """The shallowest folder, "" or "a/b/", that has all of these files: archives often have a folder around everything.

        Raises LayoutMismatch if no folder has them.
        """
        first = required[0]
        folders = (name.removesuffix(first) for name in self.names if name == first or name.endswith(f"/{first}"))
        complete = [folder for folder in folders if all(folder + name in self for name in required)]
        if not complete:
            raise LayoutMismatch(" or ".join(required))
        return min(complete, key=lambda folder: len(PurePosixPath(folder).parts))

    def listing(self) -> list[tuple[str, int, int]]:
        """(name, bytes, modification time in ns) of every file, or of the archive: it changes when the dataset does."""
        paths = [*_walk(self.path), *_empty_folders(self.path)] if self.path.is_dir() else [self.path]
        top = self.path.parent
        return sorted((str(path.relative_to(top)), (s := _stat(path)).st_size, s.st_mtime_ns) for path in paths)


def _hidden(name: str) -> bool:
    """Whether a path is of a file that systems add to folders, as `.DS_Store`."""
    return any(part[0] == "." or part == "__MACOSX" for part in name.split("/") if part)


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder and below linked folders; each folder once, however many links lead to it."""
    entered = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        yield from (Path(parent, name) for name in names)
        real = {name: os.path.realpath(Path(parent, name)) for name in sorted(folders)}
        folders[:] = [name for name, path in real.items() if path not in entered and not entered.add(path)]


def _empty_folders(folder: Path) -> Iterator[Path]:
    """The folders below a folder in which is nothing at all."""
    inner = itertools.islice(os.walk(folder), 1, None)  # the first is the folder itself
    return (Path(parent) for parent, folders, names in inner if not folders and not names)


def _stat(path: Path) -> os.stat_result:
    """The status of a link's target; of the link itself if the target does not exist."""
    try:
        return path.stat()
    except OSError:
        return path.lstat()

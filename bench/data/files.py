"""A dataset's files as they lie in the data folder: a folder, or a zip or tar archive that is read without unpacking it, so
that no member of an archive can be written anywhere."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from bench.config.schema import RecipeError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Files:
    """The files below `place`, by their path relative to it.

    Args:
        place: a folder or an archive; one of `ARCHIVES` by its name.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    def __str__(self) -> str:
        return str(self.place)

    @cached_property
    def _archive(self) -> zipfile.ZipFile | dict[str, bytes] | None:
        """None for a folder. A compressed tar cannot be read out of order, so it is held in memory."""
        if self.place.is_dir():
            return None
        try:
            if self.place.suffix == ".zip":
                return zipfile.ZipFile(self.place)
            with tarfile.open(self.place) as tar:
                return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RecipeError(f"{self.place}: cannot be read as an archive: {reason}") from error

    @cached_property
    def _members(self) -> dict[str, str]:
        """Names within the archive, or the folder, by the names that `names` gives them."""
        if self._archive is None:
            found = [path.relative_to(self.place).as_posix() for path in _walk(self.place)]
        elif isinstance(self._archive, zipfile.ZipFile):
            found = [info.filename for info in self._archive.infolist() if not info.is_dir()]
        else:
            found = list(self._archive)
        clean = {name.removeprefix("./"): name for name in found}
        return {
            name: raw
            for name, raw in clean.items()
            if not any(p[0] == "." or p == "__MACOSX" for p in name.split("/") if p)
        }

    @cached_property
    def names(self) -> list[str]:
        """Relative paths with "/", sorted. What systems hide in folders (`.DS_Store`, `__MACOSX`) is left out."""
        return sorted(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """The content of a file. Raises OSError, zipfile.BadZipFile or what a decompressor raises; a name that is not among
        `names`, which might point elsewhere, is not followed."""
        if name not in self:
            raise FileNotFoundError(f"{name} is not there")
        if self._archive is None:
            return (self.place / name).read_bytes()
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.read(self._members[name])
        return self._archive[self._members[name]]

    def root_of(self, *marks: str) -> str | None:
        """The shallowest folder, "" or "a/b/", that holds all of these files; None where no folder does. Archives often
        wrap everything in a folder."""
        first = marks[0]
        roots = (name.removesuffix(first) for name in self.names if name == first or name.endswith(f"/{first}"))
        whole = [root for root in roots if all(root + mark in self for mark in marks)]
        return min(whole, key=lambda root: len(PurePosixPath(root).parts), default=None)

    def listing(self) -> list[tuple[str, int, int]]:
        """(name, bytes, time of change) of every file, or of the archive: what changes when the dataset does."""
        paths = _walk(self.place) if self.place.is_dir() else [self.place]
        top = self.place.parent
        return sorted((str(path.relative_to(top)), (s := _stat(path)).st_size, s.st_mtime_ns) for path in paths)


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, those of linked folders too; each folder once, by whatever way it is reached."""
    entered = {os.path.realpath(folder)}
    for inside, below, names in os.walk(folder, followlinks=True):
        yield from (Path(inside, name) for name in names)
        real = {name: os.path.realpath(Path(inside, name)) for name in sorted(below)}
        below[:] = [name for name, path in real.items() if path not in entered and not entered.add(path)]


def _stat(path: Path) -> os.stat_result:
    """Of what a link leads to; of the link itself where that is nowhere."""
    try:
        return path.stat()
    except OSError:
        return path.lstat()


def find(data_dir: Path, patterns: tuple[str, ...]) -> list[Files]:
    """The folders and archives in the data folder that match, in the order of the patterns."""
    found = [path for pattern in patterns for path in sorted(data_dir.glob(pattern))]
    here = (path for path in found if path.name.endswith(ARCHIVES) or (path.is_dir() and any(path.iterdir())))
    return [Files(path) for path in here]

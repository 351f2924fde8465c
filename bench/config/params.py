"""The parameters of methods and builders, and the user's own files that declare them."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Plugin:
    """A guidance method or a builder of networks in a user's own file, in a folder of `--recipes-dir`.

    kind: "guidance" or "models", the folder that it is in.
    source: its text, which is what is run.
    """

    kind: str
    name: str
    path: Path
    source: str = field(repr=False)

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of its source, as records hold it."""
        return f"sha256:{hashlib.sha256(self.source.encode()).hexdigest()}"


@dataclass(frozen=True)
class Params:
    """Base of the parameters that a method or a builder declares in its file, as a class `Params`.

    own: whether they are of a user's own file. Those are hashed whole, defaults included: a record has no defaults.
    plugin: that file; None if it is not here.
    """

    own: ClassVar[bool] = False
    plugin: ClassVar[Plugin | None] = None


@dataclass(frozen=True)
class ModelParams(Params):
    """Base of the parameters of a builder of networks that are not keys of `Model`."""


NO_PARAMS = ModelParams()

"""Keys of recipes, the parameters of methods and builders, and the user's own files that declare them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

PUBLISHED_EPOCHS = 300  # of a run in the papers whose methods have constants in epochs


def key(
    default: Any, *, low: float | None = None, high: float | None = None, hashed: bool = True, scaled: bool = False
) -> Any:
    """A recipe key: its default, its closed range, and whether it changes the mathematics and so the hash.

    scaled: it counts epochs of the published runs, which have PUBLISHED_EPOCHS; see `scaled_epochs`.
    """
    return field(default=default, metadata={"low": low, "high": high, "hashed": hashed, "scaled": scaled})


def scaled_epochs(published: int, epochs: int) -> int:
    """A number of epochs of a published run, for a run of `epochs`: the same share of it, rounded, at least 1."""
    return max(1, round(published * epochs / PUBLISHED_EPOCHS))


def param_keys(names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """The keys of the parameters of joined methods, {method: {name: key}}, from their names in each.

    A key is the name, or METHOD_NAME if an earlier method has a parameter of this name.
    """
    seen: set[str] = set()
    out = {}
    for method, own in names.items():
        out[method] = {name: f"{method}_{name}" if name in seen else name for name in own}
        seen.update(own)
    return out


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
class MethodParams(Params):
    """Base of the parameters of a guidance method: the class `Params` in its file, bench/guidance/METHOD.py.

    needs: the teacher's outputs that the method uses, "maps" and "logits"; empty: it has no teacher.
    student_layers: the student's maps that it uses: "chosen", those of `model.feature_layers`; "all", the output of every
        block; None: "chosen" if it needs the teacher's maps, else none.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    student_layers: ClassVar[Literal["chosen", "all"] | None] = None

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss compares samples of one batch, so that a batch may not be split into micro-batches."""
        return False

    @property
    def student_maps(self) -> str | None:
        """The student's maps that the method uses: "chosen", "all" or None."""
        return self.student_layers or ("chosen" if "maps" in self.needs else None)

    def problems(self, student_layers: int, teacher_layers: int) -> list[tuple[str, str]]:
        """What does not fit together, as (key, problem).

        Args:
            student_layers, teacher_layers: numbers of feature layers.
        """
        return []


@dataclass(frozen=True)
class ModelParams(Params):
    """Base of the parameters of a builder of networks that are not keys of `Model`."""


NO_PARAMS = ModelParams()

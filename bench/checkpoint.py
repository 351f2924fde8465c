"""Checkpoints of a training: all it takes to go on exactly, each written whole, known by its checksum, the last two kept.

Everything random in a run is a function of seed, epoch and position (bench/draws.py), so a checkpoint may be taken after
any step and holds no generator's state.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.records import write_bytes

KEPT = 2


class Checkpoints:
    """The checkpoints of one run, in its folder.

    Args:
        identity: of the run: recipe hash, seed, dataset, guide, precision used. A checkpoint of another one is never
            taken up.
        every: seconds between two, so that short epochs do not spend their time writing.
    """

    def __init__(self, folder: Path, identity: str, every: float) -> None:
        self._folder, self._identity, self._every = folder, identity, every
        self._last = time.monotonic()
        self._rejected: set[Path] = set()  # damaged, or of another run: they do not count among the newest

    def due(self) -> bool:
        """Whether the last one is old enough for another."""
        return time.monotonic() - self._last >= self._every

    def save(self, epoch: int, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps of `epoch` (both from 0), then drop all but the newest two.

        The file is a SHA-256 of what follows it, and that is what `torch.save` writes. A kill at any instant leaves the old
        files, and at the most a temporary one.
        """
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "epoch": epoch, "step": step, **state}, buffer)
        content = buffer.getbuffer()
        path = self._folder / f"checkpoint-{epoch:06d}-{step:08d}.pt"
        write_bytes(path, hashlib.sha256(content).digest(), content)
        self._rejected.discard(path)
        for old in [old for old in self._files() if old not in self._rejected][KEPT:]:
            old.unlink()
        self._last = time.monotonic()

    def newest(self) -> dict[str, Any] | None:
        """The newest state that is whole and of this run, on the CPU; None where there is none. A damaged one is named on
        stderr, and the one before it taken."""
        for path in self._files():
            try:
                state = read(path)
            except (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                _warn(f"{path.name} is damaged ({reason}): going back to the one before")
                self._rejected.add(path)
                continue
            if state["identity"] == self._identity:
                return state
            _warn(f"{path.name} is of another run, with other images, precision or another guide: left aside")
            self._rejected.add(path)
        return None

    def clear(self) -> None:
        """Remove them all, when the run is recorded."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Newest first; what is called otherwise is somebody else's, and neither read nor removed."""
        found = self._folder.glob(f"checkpoint-{'[0-9]' * 6}-{'[0-9]' * 8}.pt")
        return sorted((path for path in found if path.is_file()), reverse=True)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's state, on the CPU: the epoch and step it stands at, `task` and `optimizer` as torch's state dicts, the
    history so far. Loading runs no code.

    Raises:
        ValueError: its checksum is not that of its content.
    """
    raw = path.read_bytes()
    digest, content = raw[:32], raw[32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its checksum is another one")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)

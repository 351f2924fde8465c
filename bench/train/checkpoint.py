"""Checkpoints: everything that exact resume needs. Each has a checksum and appears whole; the last two are kept.

Everything random in a run is a function of seed, epoch and position (bench/rng.py), so a checkpoint may be taken after any
step and needs no generator state.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import time
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from bench.runs.record import HistoryRow
from bench.storage import first_line, write_bytes

LOG = logging.getLogger(__name__)
MAX_FILES = 2


class TrainingState(TypedDict):
    """What a checkpoint holds."""

    epoch: int  # that the training has reached, counted from 0
    step: int
    task: dict[str, Tensor]
    optimizer: dict[str, object]
    scaler: dict[str, object] | None  # of fp16
    ema: dict[str, Tensor] | None  # averaged weights of the network, of `train.ema`
    best_state: dict[str, dict[str, Tensor] | Tensor]  # network and predictions; empty unless the recipe selects the best
    history: list[HistoryRow]
    guidance_losses: list[float]  # of the epochs with guidance, unweighted and not rounded, on which its end depends
    losses: Tensor  # [2], sums over the steps of this epoch
    seconds: float  # of training and evaluation


class Checkpoints:
    """The checkpoints of one run, in its folder.

    Args:
        identity: of the run: recipe hash, seed, dataset, teacher, precision, code. A checkpoint of another run is not used.
        interval: least number of seconds between two, so that short epochs do not spend their time writing.
    """

    def __init__(self, folder: Path, identity: str, interval: float) -> None:
        self._folder, self._identity, self._interval = folder, identity, interval
        self._last = time.monotonic()
        self._rejected: set[Path] = set()  # damaged, or of another run: not counted among the newest

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self._interval

    def save(self, state: TrainingState) -> None:
        """Write a state, then remove all but the newest two.

        The file is the SHA-256 of the rest, then the output of `torch.save`. A kill at any instant leaves the old files and
        at most one temporary file.
        """
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, **state}, buffer)
        content = buffer.getbuffer()
        path = self._folder / f"checkpoint-{state['epoch']:06d}-{state['step']:08d}.pt"
        write_bytes(path, hashlib.sha256(content).digest(), content)
        self._rejected.discard(path)
        for old in [old for old in self._files() if old not in self._rejected][MAX_FILES:]:
            old.unlink()
        self._last = time.monotonic()

    def newest(self) -> TrainingState | None:
        """The newest complete state of this run, on the CPU, or None. Damaged files are skipped with a warning."""
        for path in self._files():
            try:
                identity, state = read(path)
            except (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
                LOG.warning(f"{path.name} is damaged ({first_line(error)}): using the one before it")
                self._rejected.add(path)
                continue
            if identity == self._identity:
                return state
            LOG.warning(f"{path.name} is from a run with other images, precision, teacher or code: not used")
            self._rejected.add(path)
        return None

    def clear(self) -> None:
        """Remove all of them, once the run is finished."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Newest first. Files with other names are neither read nor removed."""
        found = self._folder.glob(f"checkpoint-{'[0-9]' * 6}-{'[0-9]' * 8}.pt")
        return sorted((path for path in found if path.is_file()), reverse=True)


def read(path: Path) -> tuple[str, TrainingState]:
    """The identity of the run and the state in a checkpoint, on the CPU. Loading cannot run code.

    Raises:
        ValueError: the checksum is wrong.
    """
    raw = path.read_bytes()
    digest, content = raw[:32], raw[32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("wrong checksum")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state.pop("identity"), state

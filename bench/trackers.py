"""Experiment trackers that a run is asked to log to (`--tracker tensorboard`), through accelerate, which knows them.

The record is what counts: a tracker that fails while a network trains is named, left alone, and training goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from bench.reading import nearest, shown
from bench.schema import Recipe, RecipeError

PROJECT = "locality-bench"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that accelerate does not know, or that is not installed. None is imported.

    Raises:
        RecipeError: it is one of those.
    """
    known = sorted(str(kind) for kind in LoggerType if kind != LoggerType.ALL)  # "all": whatever a machine happens to have
    for name in names:
        if name not in known:
            raise RecipeError(f"--tracker {shown(name)}: allowed are {', '.join(known)}{nearest(name, known)}")
        if name not in map(str, get_available_trackers()):
            raise RecipeError(f"--tracker {name}: is not installed here: pip install {name.replace('_', '-')}")


class Trackers:
    """The trackers of a run, on its main process; nothing on others.

    Every start of a run logs all of its epochs so far, so that one that goes on, or is tracked from now on, is whole in
    each of them: services get a run a start, and TensorBoard leaves aside what an earlier start logged.

    Args:
        accelerator: made with `log_with`, and with the folder of local files as its `project_dir`.

    Raises:
        RecipeError: one cannot be started (no login, no network).
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe) -> None:
        self._accelerator = accelerator
        self._logged = 0  # epochs
        if not accelerator.log_with or not accelerator.is_main_process:
            return
        name, folder = f"{recipe.id} seed {recipe.seed}", accelerator.project_dir
        options = {
            "tensorboard": {"purge_step": 1},  # what an earlier start logged from there on is not shown
            "wandb": {"name": name, "dir": folder},
            # else it would commit to the user's repository
            "dvclive": {"dir": str(Path(folder, "dvclive")), "save_dvc_exp": False, "dvcyaml": None},
        }
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)  # where it is not there, wandb takes another
            accelerator.init_trackers(PROJECT, settings(recipe), options)
        except Exception as error:  # of many kinds: each of them is another library
            asked = ", ".join(map(str, accelerator.log_with))
            raise RecipeError(f"--tracker {asked}: cannot be started: {_reason(error)}") from error

    def log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the epochs of the history that this start has not logged yet; the step is the epoch, from 1."""
        for row in history[self._logged :]:
            values = {name: value for name, value in row.items() if name != "epoch" and value is not None}
            try:
                self._accelerator.log(values, step=row["epoch"])
            except Exception as error:  # as above
                _warn(f"epoch {row['epoch']} and later ones are not tracked", error)
                self.close()
        self._logged = len(history)

    def close(self) -> None:
        """Let them write what they still hold. `Accelerator.end_training` would do this and then end the process group,
        which a process that fails alone cannot do without the others."""
        for tracker in self._accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:  # as above
                _warn(f"{tracker.name} could not be closed", error)
        self._accelerator.trackers = []


def settings(recipe: Recipe) -> dict[str, str | int | float]:
    """A recipe as trackers keep settings: {"train.lr": 0.0005}; what is no text or number, as JSON writes it."""

    def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float]:
        out = {}
        for name, value in content.items():
            if isinstance(value, Mapping):
                out |= flat(value, f"{prefix}{name}.")
            else:
                out[prefix + name] = value if type(value) in (str, int, float) else json.dumps(value)
        return out

    return flat(recipe.to_dict())


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _warn(what: str, error: Exception) -> None:
    print(f"warning: {what}: {_reason(error)}", file=sys.stderr, flush=True)

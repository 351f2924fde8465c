"""Experiment trackers (`--tracker tensorboard`), through accelerate.

A tracker that fails during training is named in a warning and not used any more; training continues.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from bench.config.parse import flatten, nearest, short_repr
from bench.config.schema import Recipe, RecipeError
from bench.runs.record import HistoryRow
from bench.storage import first_line

LOG = logging.getLogger(__name__)
PROJECT = "locality-bench"


def check_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError for a tracker that accelerate does not know or that is not installed. None is imported."""
    known = sorted(str(kind) for kind in LoggerType if kind != LoggerType.ALL)  # "all": every installed one
    for name in names:
        if name not in known:
            raise RecipeError(f"--tracker {short_repr(name)}: allowed are {', '.join(known)}{nearest(name, known)}")
        if name not in map(str, get_available_trackers()):
            raise RecipeError(f"--tracker {name}: is not installed: pip install {name.replace('_', '-')}")


class Trackers:
    """The trackers of a run, on its main process; no-op on others.

    Every start of a run logs all epochs so far, so a resumed run is complete in each tracker. Services get one run per
    start; TensorBoard shows each epoch once.

    Args:
        accelerator: created with `log_with`, and with the folder for local files as its `project_dir`.

    Raises:
        RecipeError: a tracker cannot be started (no login, no network).
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe) -> None:
        self._accelerator = accelerator
        self._logged = 0  # epochs
        if not accelerator.log_with or not accelerator.is_main_process:
            return
        name, folder = f"{recipe.id} seed {recipe.seed}", accelerator.project_dir
        options = {
            "tensorboard": {"purge_step": 1},  # hides what an earlier start logged
            "wandb": {"name": name, "dir": folder},
            # otherwise it would commit to the user's repository
            "dvclive": {"dir": str(Path(folder, "dvclive")), "save_dvc_exp": False, "dvcyaml": None},
        }
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)  # if it does not exist, wandb uses another
            accelerator.init_trackers(PROJECT, flat_settings(recipe), options)
        except Exception as error:  # many kinds: each tracker is another library
            asked = ", ".join(map(str, accelerator.log_with))
            raise RecipeError(f"--tracker {asked}: cannot be started: {first_line(error)}") from error

    def log(self, history: Sequence[HistoryRow]) -> None:
        """Log the epochs that this start has not logged yet. The step is the epoch, counted from 1."""
        for row in history[self._logged :]:
            values = {name: value for name, value in row.items() if name != "epoch" and value is not None}
            try:
                self._accelerator.log(values, step=row["epoch"])
            except Exception as error:  # as above
                LOG.warning(f"epoch {row['epoch']} and later ones are not tracked: {first_line(error)}")
                self.close()
        self._logged = len(history)

    def close(self) -> None:
        """Flush and close all trackers."""
        # `Accelerator.end_training` would also end the process group, which a process that fails alone cannot do
        for tracker in self._accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:  # as above
                LOG.warning(f"{tracker.name} could not be closed: {first_line(error)}")
        self._accelerator.trackers = []


def flat_settings(recipe: Recipe) -> dict[str, str | int | float]:
    """A recipe as {"train.lr": 0.0005}; values that are neither text nor numbers are JSON texts."""
    content = recipe.to_dict()
    keys = {key: given.value for key, given in flatten(content, recipe.id, tuple(content)).items()}
    return {key: v if type(v) in (str, int, float) else json.dumps(v) for key, v in keys.items()}

"""What a run is asked to do, and to stop. Needs no torch: a finished run says so at once, and signals are handled early."""

from __future__ import annotations

import argparse
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench.cli import compose
from bench.config.schema import Recipe, RecipeError
from bench.data.preflight import data_folder
from bench.data.store import current_fingerprint
from bench.runs.folder import RunFolder
from bench.runs.record import Record, check_same_images, stale_parts


class StopSignals:
    """The handler of SIGTERM and SIGINT.

    During training it sets `asked`, and the loop saves its state and stops after the step. At other times, and at a second
    Ctrl-C, it ends the run at once: it sets `ended` and raises KeyboardInterrupt, which some libraries turn into an error
    of their own (numpy into ImportError while it is imported).
    """

    def __init__(self) -> None:
        self.training, self.asked, self.ended = False, False, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.training or (self.asked and number == signal.SIGINT):
            self.ended = True
            raise KeyboardInterrupt
        self.asked = True


class Stopped(RuntimeError):
    """The run was asked to stop, and its state is saved."""


class Diverged(RuntimeError):
    """The training loss or a weight was not finite. The record says so."""

    def __init__(self, recipe: Recipe, record: Record, folder: RunFolder) -> None:
        own = "".join(f"{plugin.path}: " for plugin in recipe.plugins)
        super().__init__(
            f"{own}{recipe.id} seed {recipe.seed} diverged: its loss or weights were not finite in epoch {record.epochs} of"
            f" {recipe.train.epochs} (recorded; state and history are in {folder.path}, --force runs it again)"
        )


@dataclass(frozen=True)
class RunRequest:
    """What the command line asks for."""

    recipe: Recipe  # the network to train; with `teacher_only` the teacher of the recipe that was asked for
    data_dir: Path
    folder: RunFolder
    settings: tuple[str, ...]  # the `--set` options for this recipe
    trackers: tuple[str, ...]  # names
    processes: int | None  # that the user expects; None: any number
    force: bool
    stale: bool  # whether to run again what is recorded with other code
    teacher_only: bool
    options: tuple[str, ...]  # of the command line, that ask for the same recipe, data and results


def read_request(arguments: argparse.Namespace) -> RunRequest:
    """The request that the arguments of bench/run.py make. Raises RecipeError for what cannot be run."""
    recipe = compose(arguments)
    settings, trackers = arguments.set, arguments.tracker
    if arguments.teacher_only:
        if recipe.teacher is None:
            raise RecipeError(f"--teacher-only: {recipe.id} has no teacher")
        if recipe.teacher.sha256 is not None:
            raise RecipeError(
                f"--teacher-only: the teacher of {recipe.id} is read from teacher.weights, and is not trained"
            )
        recipe, trackers = recipe.teacher, []
        settings = [text.removeprefix("teacher.") for text in settings if text.startswith("teacher.")]
    return RunRequest(
        recipe=recipe,
        data_dir=data_folder(arguments.data_dir),
        folder=RunFolder(arguments.results_dir, recipe),
        settings=tuple(text for text in settings if not text.startswith("teacher.weights=")),  # no path of this machine
        trackers=tuple(trackers),
        processes=arguments.num_processes,
        force=arguments.force,
        stale=arguments.stale,
        teacher_only=arguments.teacher_only,
        options=tuple(_options(arguments)),
    )


def _options(arguments: argparse.Namespace) -> list[str]:
    options = []
    for name in ("recipe", "protocol", "suite", "seed", "results_dir", "data_dir", "set", "recipes_dir"):
        value = getattr(arguments, name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        options += [f"--{name.replace('_', '-')}={value}" for value in values]
    return options


def finished_record(request: RunRequest) -> Record | None:
    """The record of the run, if it is finished and need not be run again.

    Raises:
        RecipeError: it is recorded for other images than the dataset has now.
        Diverged: it diverged.
    """
    if request.force or request.teacher_only or (record := request.folder.record(request.recipe)) is None:
        return None
    check_same_images(record, current_fingerprint(request.recipe.data, request.data_dir))
    if request.stale and stale_parts(record, request.recipe):
        return None
    if record.diverged:
        raise Diverged(request.recipe, record, request.folder)
    request.folder.drop_checkpoints()
    return record

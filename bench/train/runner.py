"""One run, from its request to its record: check, open the data, get the teacher, train, record."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.torch import save

from bench.cli import BAD_INPUT, FAILED, STOPPED
from bench.config.names import EVALUATED_ON
from bench.config.numerics import numerics_versions
from bench.config.params import PUBLISHED_EPOCHS
from bench.config.schema import Recipe
from bench.config.teacher_file import find_teacher_file
from bench.data.preflight import check_dataset
from bench.data.store import open_dataset
from bench.data.subsets import DecodedDataset
from bench.locks import RunLocked, exclusive, is_held, locked
from bench.runs import environment
from bench.runs.folder import RunFolder
from bench.runs.record import DatasetSummary, HistoryRow, Record, TeacherSummary, accuracy_text, best_row, stale_parts
from bench.storage import sha256, write_bytes
from bench.train.checkpoint import Checkpoints
from bench.train.feature_cache import open_teacher
from bench.train.launch import hardware, make_accelerator, peak_memory_mib
from bench.train.loop import Training, TrainResult
from bench.train.preflight import check_recipe
from bench.train.request import Diverged, RunRequest, Stopped, StopSignals
from bench.train.teacher import summarize_teacher
from bench.train.teacher_cache import TeacherCache
from bench.train.trackers import Trackers, check_trackers

LOG = logging.getLogger(__name__)
RUN_FILE = Path(__file__).parents[1] / "run.py"
POLL_SECONDS = 1.0
# beginnings of the variables that launchers give to their processes
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FORK_")
SHARED_VARIABLES = ("ACCELERATE_USE_CPU",)  # the device is that of the run; the precision is the teacher's recipe's


def run(request: RunRequest, stop: StopSignals) -> None:
    """Train the requested network on the launched processes, and its teacher first if it is not in the cache.

    Raises:
        RecipeError: invalid input.
        Stopped: a stop signal arrived, and the state is saved.
        Diverged: the loss or a weight was not finite.
    """
    recipe = request.recipe
    check_trackers(request.trackers)
    check_recipe(recipe, request.processes)
    dataset = open_dataset(recipe.data, request.data_dir)
    check_dataset(recipe, dataset)
    request.folder.check_writable()
    if recipe.model.role == "teacher":
        _train_teacher(request, dataset, stop)
        return
    cache = None
    if recipe.teacher is not None:
        cache = TeacherCache(recipe.teacher, dataset.fingerprint)
        _ensure_teacher(cache, request)
    _train_and_record(request, dataset, cache, stop)


def _ensure_teacher(cache: TeacherCache, request: RunRequest) -> None:
    """Return once the teacher is in the cache.

    A teacher from a file is copied there by every process that does not find it. Any other teacher is trained by a separate
    process, which the first process of each machine starts without the launcher's variables, so that it joins no process
    group. The other processes wait for the finished teacher, not in a collective operation, which would time out.
    """
    if cache.exists():
        return
    if cache.recipe.sha256 is not None:
        cache.add_file(find_teacher_file(cache.recipe.weights, cache.recipe.sha256))
        return
    if cache.folder.exists():
        LOG.warning(f"the teacher in {cache.folder} is damaged and is trained again")
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        while not cache.exists():
            time.sleep(POLL_SECONDS)
        return
    LOG.info(f"{cache.recipe.id} is the teacher of this recipe and is trained first")
    words = [sys.executable, str(RUN_FILE), *request.options, "--teacher-only"]
    process = subprocess.Popen(words, env=environment_of_teacher(os.environ))
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()  # it saves its state and stops
        process.wait()
        raise
    if code == BAD_INPUT:
        sys.exit(BAD_INPUT)  # it has printed why
    if code == STOPPED:
        raise KeyboardInterrupt
    if code != 0 or not cache.exists():
        LOG.error(f"the teacher {cache.recipe.id} could not be trained (exit code {code})")
        sys.exit(FAILED)


def environment_of_teacher(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that trains a teacher: those of the run without the launcher's."""
    return {
        name: value
        for name, value in variables.items()
        if name in SHARED_VARIABLES or not name.startswith(LAUNCHER_VARIABLES)
    }


def _train_teacher(request: RunRequest, dataset: DecodedDataset, stop: StopSignals) -> None:
    """Train a teacher and add it to the cache.

    With `--teacher-only` and without `--force`, as guided runs ask for it, only if it is not there. If two processes want
    it at once, one trains and the other waits, also if they share only the results folder.
    """
    recipe, folder, cache = request.recipe, request.folder, TeacherCache(request.recipe, dataset.fingerprint)
    wanted_once = request.teacher_only and not request.force
    with locked(cache.folder, f"teacher {recipe.id}"):
        if wanted_once and cache.exists():
            LOG.info(f"teacher {recipe.id} seed {recipe.seed}: in the cache, {accuracy_text(cache.record())}")
            return
        while True:
            record = folder.record(recipe)
            if wanted_once and _is_result(record, recipe, dataset):
                if record.diverged:
                    raise Diverged(recipe, record, folder)
                if folder.has_weights_of(record):
                    break
            try:
                _train_and_record(request, dataset, None, stop)
                break
            except RunLocked as busy:
                if not request.teacher_only:
                    raise
                LOG.warning(f"waiting: {busy}")
                while is_held(folder.path):
                    time.sleep(POLL_SECONDS)
        cache.add(folder)


def _is_result(record: Record | None, recipe: Recipe, dataset: DecodedDataset) -> bool:
    """Whether a record is of these images, and made by the code as it is."""
    same_images = record is not None and record.dataset.fingerprint == dataset.fingerprint
    return same_images and not stale_parts(record, recipe)


def _train_and_record(request: RunRequest, dataset: DecodedDataset, cache: TeacherCache | None, stop: StopSignals) -> None:
    """Train on the launched processes and write the record. The first process holds the lock of the run's folder."""
    is_main = int(os.environ.get("RANK", "0")) == 0
    # Before any process group exists, so that no process waits for this one in a collective operation.
    with _reserved(request, dataset) if is_main else contextlib.nullcontext(), _status_of(request.folder, is_main, stop):
        _Run(request, dataset, cache, stop).train_and_record()


@contextlib.contextmanager
def _reserved(request: RunRequest, dataset: DecodedDataset) -> Iterator[None]:
    """Hold the lock of the run's folder, and prepare it for a new run. Raises RunLocked if the run is not to be trained."""
    recipe, folder = request.recipe, request.folder
    busy = f"{recipe.id} seed {recipe.seed} is being run by another process, into {folder.path}"
    with exclusive(folder.path, busy):
        folder.drop_unfinished()
        record = folder.record(recipe)
        if not request.force and _is_result(record, recipe, dataset) and folder.has_weights_of(record):
            raise RunLocked(f"{recipe.id} seed {recipe.seed} has been finished by another process in the meantime")
        if folder.is_recorded:
            folder.archive()
        folder.write_status("running", epoch=0, epochs=recipe.train.epochs)
        yield


@contextlib.contextmanager
def _status_of(folder: RunFolder, is_main: bool, stop: StopSignals) -> Iterator[None]:
    """Write to status.json how a run without a record ended."""
    try:
        yield
    except BaseException as error:
        stopped = stop.ended or isinstance(error, (KeyboardInterrupt, Stopped))
        # A process that fails makes the others fail, which know less about the reason: the first one writes it.
        written = folder.is_recorded or folder.status().get("state") == "failed"
        if (is_main or not stopped) and not written:
            with contextlib.suppress(OSError):  # the error may be that nothing can be written
                sentence = f"{type(error).__name__}: {error}".rstrip(": ")
                reached = {name: value for name, value in folder.status().items() if name in ("epoch", "epochs")}
                folder.write_status("stopped" if stopped else "failed", **reached, error=sentence)
        raise


class _Run:
    """A run once its data and its teacher's weights are there."""

    def __init__(self, request: RunRequest, dataset: DecodedDataset, cache: TeacherCache | None, stop: StopSignals) -> None:
        self._request, self._dataset, self._cache, self._stop = request, dataset, cache, stop
        self._recipe, self._folder, self._numerics = request.recipe, request.folder, numerics_versions(request.recipe)
        self._accelerator, self._precision = make_accelerator(self._recipe.train, request.trackers, self._folder.trackers)
        self._teacher: TeacherSummary | None = None

    def train_and_record(self) -> None:
        """Train, then write record, history and weights. Raises Diverged after the record is written."""
        recipe, folder, is_main = self._recipe, self._folder, self._accelerator.is_main_process
        weights, key = (self._cache.weights, self._cache.key) if self._cache else (None, "")
        teacher = open_teacher(recipe, weights, key, self._dataset, self._accelerator.device)
        if self._cache is not None:
            self._teacher = summarize_teacher(self._cache, self._dataset, self._accelerator)
        if is_main:
            self._describe()
        # `auto` may be another precision on another machine, and no run mixes two; nor two versions of the code.
        identity = f"{recipe.hash} {recipe.seed} {self._dataset.fingerprint} {key} {self._precision.used} {self._numerics}"
        checkpoints = Checkpoints(folder.path, identity, recipe.train.checkpoint_seconds)
        trackers = Trackers(self._accelerator, recipe)

        def after_epoch(history: list[HistoryRow]) -> None:
            if is_main:
                folder.write_history(history)
                latest = {name: history[-1][name] for name in ("test_accuracy", "images_per_second")}
                folder.write_status("running", epoch=len(history), epochs=recipe.train.epochs, **latest)
                trackers.log(history)

        self._stop.training = True
        try:
            training = Training(
                recipe, self._dataset, self._accelerator, teacher, after_epoch, checkpoints, lambda: self._stop.asked
            )
            result = training.run()
        finally:
            trackers.close()
            self._stop.training = False
        record = self._record(result, self._write_weights(result) if is_main else None)
        if is_main:
            folder.write_record(record)
            state = "diverged" if result.diverged else "done"
            folder.write_status(state, epoch=record.epochs, epochs=recipe.train.epochs)
        if result.diverged:
            self._accelerator.wait_for_everyone()  # launchers end all processes when one fails, also the one that writes
        self._accelerator.end_training()  # and with it the process group
        if result.diverged:
            raise Diverged(recipe, record, folder)
        if is_main:
            checkpoints.clear()
            best = f"best {record.best_accuracy:.2f} % in epoch {record.best_epoch}"
            LOG.info(
                f"{recipe.id} seed {recipe.seed}: {record.last_accuracy:.2f} % after epoch {record.epochs} ({best}),"
                f" {record.seconds:.0f} s, in {folder.path}"
            )

    def _describe(self) -> None:
        """Print what is run, and on what."""
        recipe, dataset, accelerator = self._recipe, self._dataset, self._accelerator
        world, machine = accelerator.num_processes, hardware(accelerator.device)
        LOG.info(f"{recipe.id}  protocol {recipe.protocol}  seed {recipe.seed}  hash {recipe.hash[:8]}")
        LOG.info(
            f"{world} process{'es' if world > 1 else ''} on {accelerator.device} ({machine}), precision"
            f" {self._precision.used} ({self._precision.asked} asked)"
        )
        LOG.info(
            f"{len(dataset.training(recipe.data)):,} training images, evaluated on"
            f" {len(dataset.evaluation(recipe.data)):,} {EVALUATED_ON[dataset.evaluated_on(recipe.data)]} images,"
            f" {dataset.classes(recipe.data)} classes, fingerprint {dataset.fingerprint[:8]}"
        )
        if recipe.train.warmup_epochs >= recipe.train.epochs:
            LOG.info(f"note: every epoch is warm-up, since train.warmup_epochs is {recipe.train.warmup_epochs}")
        if recipe.guidance is not None and (scaled := recipe.guidance.scaled_epochs(recipe.train.epochs)):
            numbers = ", ".join(f"{name} {epochs}" for name, epochs in scaled.items())
            LOG.info(f"epochs of {PUBLISHED_EPOCHS}-epoch runs, scaled to this one: {numbers}")
        if self._teacher is not None:
            LOG.info(f"teacher {self._teacher.id}: {self._teacher.accuracy:.2f} %")

    def _write_weights(self, result: TrainResult) -> str | None:
        """Write weights and predictions. Returns the SHA-256 of the weights; None if the run diverged."""
        folder = self._folder
        if result.diverged:
            write_bytes(folder.diverged_weights, save(result.network))
            return None
        predictions = io.BytesIO()
        np.save(predictions, result.predictions.numpy(), allow_pickle=False)
        write_bytes(folder.predictions, predictions.getbuffer())
        write_bytes(folder.weights, save(result.network))
        if result.guidance:
            write_bytes(folder.guidance_weights, save(result.guidance))
        return sha256(folder.weights)

    def _record(self, result: TrainResult, weights: str | None) -> Record:
        recipe, history, device = self._recipe, result.history, self._accelerator.device
        best = best_row(history)
        finished = not result.diverged
        return Record(
            id=recipe.id,
            protocol=recipe.protocol,
            seed=recipe.seed,
            hash=recipe.hash,
            diverged=result.diverged,
            last_accuracy=history[-1]["test_accuracy"] if finished else None,
            best_accuracy=best["test_accuracy"] if finished else None,
            best_epoch=best["epoch"] if finished else None,
            epochs=len(history),
            parameters=result.parameters,
            flops_per_image=result.flops_per_image,
            teacher=self._teacher,
            dataset=_dataset_summary(recipe, self._dataset),
            feature_maps=dict(result.feature_maps),
            precision=self._precision,
            compile=result.compiled,
            compilation=result.compilation,
            world_size=self._accelerator.num_processes,
            hardware=hardware(device),
            seconds=round(result.seconds, 1),
            images_per_second=round(median(row["images_per_second"] for row in history), 1),
            peak_memory_mib=round(peak_memory_mib(device)),
            code=environment.code(),
            numerics=self._numerics,
            libraries=environment.libraries(),
            recipe=recipe.to_dict(),
            settings=list(self._request.settings),
            weights=weights,
            guidance_stop=result.guidance_stop,
            raw_accuracy=history[-1].get("raw_accuracy") if finished else None,
        )


def _dataset_summary(recipe: Recipe, dataset: DecodedDataset) -> DatasetSummary:
    evaluation = dataset.evaluation(recipe.data)
    return DatasetSummary(
        fingerprint=dataset.fingerprint,
        classes=dataset.classes(recipe.data),
        train_images=len(dataset.training(recipe.data)),
        test_images=len(evaluation),
        image_size=evaluation.images.size,
        evaluated_on=dataset.evaluated_on(recipe.data),
        class_names=dataset.class_names(recipe.data),
        largest_class=float(np.bincount(evaluation.labels).max() / len(evaluation)),
    )

"""Train one recipe on the processes this was launched with.

    accelerate launch bench/run.py --recipe deit_tiny/cifar100/guided
    python bench/run.py --recipe deit_micro/digits/guided --protocol quick --seed 1
    torchrun --nproc_per_node 2 bench/run.py --recipe …      (several processes without a GPU)

A guided recipe trains its guide first, once; later runs find it in the cache. What a run leaves behind lies in
<results-dir>/runs/<recipe id>/<hash>-seed<k>/. Exit codes: 0 done, 2 the input, 3 failed, 75 stopped,
or another process does the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:
    # Launched as a file, so Python put bench/ first on the path, where `data` or `models` would be top-level modules.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.recipes import Registry
from bench.records import SCHEMA, RunFolder, unwritable
from bench.schema import Recipe, RecipeError

DONE, BAD_INPUT, FAILED, STOPPED = 0, 2, 3, 75


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="bench/run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    out.add_argument("--recipe", required=True, metavar="ID", help="as `python -m bench list` prints it")
    add_recipe_options(out)
    out.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (0)")
    out.add_argument("--results-dir", default="results", metavar="DIR", help="where runs/ lies (results)")
    out.add_argument("--data-dir", default=None, metavar="DIR", help="local datasets, a folder each (data)")
    out.add_argument("--force", action="store_true", help="run again what is recorded; the old run is set aside")
    out.add_argument("--guide-only", action="store_true", help="train the guide that the recipe needs, and stop")
    out.add_argument(
        "--tracker", action="append", default=[], metavar="NAME", help="log every epoch there, as tensorboard; may repeat"
    )
    out.add_argument("--num-processes", type=int, metavar="N", help="refuse to run on any other number of processes")
    return out


def add_recipe_options(to: argparse.ArgumentParser) -> None:
    """The options that say how an id becomes a recipe."""
    to.add_argument("--protocol", default="paper", metavar="NAME", help="how to train (paper)")
    to.add_argument("--suite", metavar="NAME", help="use the protocol and settings of this suite")
    to.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as train.epochs=2; may repeat")
    to.add_argument("--recipes-dir", action="append", default=[], metavar="DIR", help="recipes of your own; may repeat")


def compose(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the command line asks for."""
    registry = Registry(*arguments.recipes_dir)
    suite = registry.suite(arguments.suite) if arguments.suite is not None else None
    return registry.compose(arguments.recipe, arguments.protocol, arguments.set, seed=arguments.seed, suite=suite)


class Diverged(RuntimeError):
    """The training loss, or a weight, became no finite number. The record says so."""

    def __init__(self, recipe: Recipe, record: dict[str, Any], folder: RunFolder) -> None:
        super().__init__(
            f"{recipe.id} seed {recipe.seed} diverged: its loss or weights were no finite numbers in epoch"
            f" {record['epochs']} of {recipe.train.epochs} (recorded so; state and history are in {folder.path}, --force"
            " runs it again)"
        )


class Stop:
    """The handler of stop signals. While a network trains they set `asked`, for training to save its state and leave after
    a step; at any other time, and at a second Ctrl-C, they end the run where it stands."""

    def __init__(self) -> None:
        self.training, self.asked = False, False

    def __call__(self, number: int, frame: Any) -> None:
        if not self.training or (self.asked and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.asked = True


STOP = Stop()


def run(arguments: argparse.Namespace) -> None:
    """Train the recipe, or its guide with `--guide-only`.

    Raises:
        RecipeError: bad input.
        Diverged: the loss or a weight became no finite number, in this run or in the one that is recorded.
    """
    recipe = compose(arguments)
    if arguments.guide_only and recipe.guide is None:
        raise RecipeError(f"--guide-only: {recipe.id} needs no guide")
    target = recipe.guide if arguments.guide_only else recipe
    folder = RunFolder(arguments.results_dir, target)
    if not arguments.force and not arguments.guide_only and (record := folder.record(target)):
        from bench.data.store import check_same_images, fingerprint_now

        check_same_images(target, record, fingerprint_now(target.data, arguments.data_dir or "data"))
        if record.get("diverged"):
            raise Diverged(target, record, folder)
        folder.drop_checkpoints()
        print(f"{target.id} seed {target.seed} is recorded: {record['last_accuracy']:.2f} % (--force runs it again)")
        return
    if arguments.data_dir is not None and not os.path.isdir(arguments.data_dir):
        raise RecipeError(f"--data-dir {arguments.data_dir}: no such folder")
    if Path(arguments.results_dir).exists() and not Path(arguments.results_dir).is_dir():
        raise RecipeError(f"--results-dir {arguments.results_dir}: is no folder")

    from bench.data.store import open_store
    from bench.trackers import check_trackers

    check_trackers(arguments.tracker)
    check_feasible(target, arguments.num_processes)
    data_dir = arguments.data_dir or "data"
    store = open_store(target.data, data_dir)
    check_batches(recipe, store)
    folder.check_writable()
    if target.model.role == "guide":
        train_guide(target, store, folder, arguments)
        return
    if target.guide is not None:
        ensure_guide(target.guide, open_store(target.guide.data, data_dir).fingerprint, arguments)
    train_and_record(target, store, folder, arguments)


def check_batches(recipe: Recipe, store: Any) -> None:
    """Refuse what the images themselves rule out, of the guide too: batches of more than there are to train on, since only
    whole ones count, and a place for them that they cannot have."""
    from bench.data.batches import check_residence

    for prefix, part in (("", recipe), ("guide.", recipe.guide)):
        if part is None:
            continue
        training = store.training(part.data)
        if part.train.batch_size > (images := len(training)):
            raise RecipeError(
                f"{prefix}train.batch_size: got {part.train.batch_size}, but there are {images} training images and only"
                f" whole batches count: --set {prefix}train.batch_size=N"
            )
        check_residence(part.data, training)


def check_feasible(recipe: Recipe, processes: int | None) -> None:
    """Refuse at once what could only fail later, after the hours that a guide's training takes."""
    from bench import models
    from bench.data.batches import timm_transform
    from bench.data.rand_augment import parse
    from bench.processes import check_launch, choose_device, choose_precision

    world = check_launch(processes)
    choose_precision(recipe.train, choose_device(recipe.train))
    if recipe.train.batch_size % world:
        raise RecipeError(f"train.batch_size: {recipe.train.batch_size} does not divide among {world} processes")
    if recipe.guidance is not None and recipe.guidance.transform == "similarity" and world > 1:
        raise RecipeError(f"guidance.transform: similarity compares the samples of one process; {world} were started")
    if recipe.model.role == "guide" and world > 1:
        raise RecipeError(f"{recipe.id}: a guide is trained by one process, not {world}")
    for part in (recipe, recipe.guide):
        if part is not None:
            built = models.create(part.model, part.data.classes or 2, part.seed, taps=recipe.imitates_maps)
            check_batch_of_one(built, part, world)
            check_micro_batch(built, part, world)
            if part.data.pipeline == "pil":
                timm_transform(part)
            elif part.augment.rand_augment:
                parse(part.augment.rand_augment)


def check_batch_of_one(network: Any, recipe: Recipe, world: int) -> None:
    """Refuse one sample a process where batch norm would have a single value to normalise (CvT's last maps at 32 px)."""
    import torch

    if recipe.train.batch_size > world:
        return
    size, calls = recipe.model.image_size, len(network.drop_path_rates)
    try:
        network.train()(torch.zeros(1, 3, size, size), torch.ones(calls, 1))
    except ValueError as error:
        raise RecipeError(f"train.batch_size: {recipe.model.name} cannot train on one sample a process: {error}") from error


def check_micro_batch(network: Any, recipe: Recipe, world: int) -> None:
    """Refuse micro-batches that do not make up a process's batch, or whose sum would not be the whole batch's gradient."""
    from torch.nn.modules.batchnorm import _BatchNorm

    micro, own = recipe.train.micro_batch, recipe.train.batch_size // world
    if micro is None or micro == own:
        return
    if own % micro:
        raise RecipeError(f"train.micro_batch: {micro} does not divide a process's batch of {own}")
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise RecipeError(f"train.micro_batch: {recipe.model.name} has batch norm, which needs its whole batch at once")
    if recipe.imitates_maps and recipe.guidance.transform == "similarity":
        raise RecipeError("train.micro_batch: similarity compares the samples of a whole batch")


OUT_OF_MEMORY = (
    "out of memory: train.micro_batch computes a batch in parts, with the same result (--set train.micro_batch=N, a divisor"
    " of the batch); train.test_batch_size is that of the evaluation"
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is that memory ran out, on whichever device."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def ensure_guide(guide: Recipe, fingerprint: str, arguments: argparse.Namespace) -> None:
    """Return once the guide is in the cache.

    It is trained by one process in an environment without the launcher's variables, so it belongs to no process group. The
    first process of each machine starts that one; the others look for the finished guide, never into a collective, which
    would give up after minutes.
    """
    from bench.kept_guide import KeptGuide

    kept = KeptGuide(guide, fingerprint)
    if kept.exists():
        return
    if kept.folder.exists():
        print(f"warning: the kept guide in {kept.folder} is damaged and is made anew", file=sys.stderr, flush=True)
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        while not kept.exists():
            time.sleep(1)
        return
    print(f"{guide.id} guides this recipe and is trained first", flush=True)
    launchers = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FORK_")
    alone = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    if len(alone) < len(os.environ) and alone.get("OMP_NUM_THREADS") == "1":
        del alone["OMP_NUM_THREADS"]  # the launcher's too
    command = [sys.executable, str(Path(__file__).resolve()), *_as_options(arguments), "--guide-only"]
    process = subprocess.Popen(command, env=alone)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()  # it saves its state and leaves
        process.wait()
        raise
    if code == BAD_INPUT:
        sys.exit(BAD_INPUT)  # it has said why
    if code == STOPPED:
        raise KeyboardInterrupt
    if code != 0 or not kept.exists():
        print(f"error: the guide {guide.id} could not be trained (exit code {code})", file=sys.stderr)
        sys.exit(FAILED)  # why, its own output has said


def _as_options(arguments: argparse.Namespace) -> list[str]:
    """The command line that asks for the same recipe, data and results."""
    repeated = (("--set", arguments.set), ("--recipes-dir", arguments.recipes_dir))
    options = [f"{flag}={value}" for flag, values in repeated for value in values]
    for name in ("recipe", "protocol", "suite", "seed", "results_dir", "data_dir"):
        if (value := getattr(arguments, name)) is not None:
            options.append(f"--{name.replace('_', '-')}={value}")
    return options


def train_guide(guide: Recipe, store: Any, folder: RunFolder, arguments: argparse.Namespace) -> None:
    """Train a guide and keep it in the cache. With `--guide-only`, which guided runs ask for, only if it is not there yet:
    when two want it at once, one trains and the other waits, also where only the results folder is shared between them."""
    from bench.cache import Busy, is_held, locked
    from bench.kept_guide import KeptGuide

    kept = KeptGuide(guide, store.fingerprint)
    with locked(kept.folder, f"guide {guide.id}"):
        if arguments.guide_only and kept.exists():
            return
        while True:
            record = folder.record(guide)
            trained = record is not None and _same_pixels(record, store)
            if trained and record.get("diverged") and arguments.guide_only:
                raise Diverged(guide, record, folder)
            if trained and arguments.guide_only and folder.has_weights_of(record):
                break
            try:
                train_and_record(guide, store, folder, arguments)
                break
            except Busy as busy:
                if not arguments.guide_only:
                    raise
                print(f"waiting: {busy}", file=sys.stderr, flush=True)
                while is_held(folder.path):
                    time.sleep(1)
        kept.keep(folder)


def _same_pixels(record: dict[str, Any], store: Any) -> bool:
    return record.get("dataset", {}).get("fingerprint") == store.fingerprint


def train_and_record(recipe: Recipe, store: Any, folder: RunFolder, arguments: argparse.Namespace) -> None:
    """Train on the launched processes and leave record, history and weights."""
    from bench.cache import Busy, exclusive

    if int(os.environ.get("RANK", "0")) > 0:
        with _status_told(folder, main=False):
            _train_and_record(recipe, store, folder, arguments)
        return
    # Before any process group exists, so that nobody waits for this process in a collective.
    with exclusive(folder.path, f"{recipe.id} seed {recipe.seed} is being run by another process, into {folder.path}"):
        folder.drop_unfinished()
        record = folder.record(recipe)
        if record and not arguments.force and _same_pixels(record, store) and folder.has_weights_of(record):
            raise Busy(f"{recipe.id} seed {recipe.seed} has been recorded by another process in the meantime")
        if folder.is_recorded:
            folder.archive()
        folder.write_status("running", epoch=0, epochs=recipe.train.epochs)
        with _status_told(folder, main=True):
            _train_and_record(recipe, store, folder, arguments)


@contextlib.contextmanager
def _status_told(folder: RunFolder, main: bool) -> Iterator[None]:
    """Leave in status.json how a run ended that did not come to its record."""
    try:
        yield
    except BaseException as error:
        from bench.train import Stopped

        stopped = isinstance(error, (KeyboardInterrupt, Stopped))
        # A process that fails takes the others with it, and they know less about why: the first to say so has the word.
        told = folder.is_recorded or folder.status().get("state") == "failed"
        if (main or not stopped) and not told:
            with contextlib.suppress(OSError):  # the error itself may be that nothing can be written
                said = f"{type(error).__name__}: {error}".rstrip(": ")
                at = {name: value for name, value in folder.status().items() if name in ("epoch", "epochs")}
                folder.write_status("stopped" if stopped else "failed", **at, error=said)
        raise


def _train_and_record(recipe: Recipe, store: Any, folder: RunFolder, arguments: argparse.Namespace) -> None:
    import numpy as np
    from safetensors.torch import save

    from bench.checkpoint import Checkpoints
    from bench.data.store import open_store
    from bench.guide import Guide
    from bench.kept_features import kept_features
    from bench.kept_guide import KeptGuide
    from bench.processes import make_accelerator
    from bench.records import sha256, write_bytes
    from bench.trackers import Trackers
    from bench.train import train

    tracked_by = arguments.tracker if not arguments.guide_only else []
    accelerator, precision = make_accelerator(recipe.train, tracked_by, folder.trackers)
    main = accelerator.is_main_process
    kept = None
    if recipe.guide is not None:
        kept = KeptGuide(recipe.guide, open_store(recipe.guide.data, arguments.data_dir or "data").fingerprint)
    guide = Guide(recipe.guide, store.classes(recipe.data), kept.weights, recipe.guidance) if kept else None
    if kept and recipe.guidance.offline:
        guide = kept_features(guide, kept.key, recipe, store, accelerator.device)
    if main:
        describe(recipe, store, accelerator, precision, kept)

    def after_epoch(history: list[dict[str, Any]]) -> None:
        if main:
            folder.write_history(history)
            told = {name: history[-1][name] for name in ("test_accuracy", "images_per_second")}
            folder.write_status("running", epoch=len(history), epochs=recipe.train.epochs, **told)
            trackers.log(history)

    # `auto` may mean another precision on another machine, and no run is half of one and half of the other.
    identity = f"{recipe.hash} {recipe.seed} {store.fingerprint} {kept.key if kept else ''} {precision.used}"
    checkpoints = Checkpoints(folder.path, identity, recipe.train.checkpoint_seconds)
    trackers = Trackers(accelerator, recipe)
    STOP.training = True
    try:
        trained = train(recipe, store, accelerator, guide, after_epoch, checkpoints, lambda: STOP.asked)
    finally:
        trackers.close()
        STOP.training = False
    record = make_record(recipe, store, accelerator, precision, kept, trained)
    if main:
        if trained.diverged:
            write_bytes(folder.diverged_weights, save(trained.network))
        else:
            predictions = io.BytesIO()
            np.save(predictions, trained.predicted.numpy(), allow_pickle=False)
            write_bytes(folder.predictions, predictions.getbuffer())
            write_bytes(folder.weights, save(trained.network))
            record["weights"] = sha256(folder.weights)
            if trained.guidance:
                write_bytes(folder.guidance_weights, save(trained.guidance))
        folder.write_record({**record, "set": _own_settings(arguments)})
        state = "diverged" if trained.diverged else "done"
        folder.write_status(state, epoch=record["epochs"], epochs=recipe.train.epochs)
    if trained.diverged:
        accelerator.wait_for_everyone()  # a launcher ends the others when one fails, the one that writes the record too
        raise Diverged(recipe, record, folder)
    if main:
        checkpoints.clear()
        print(
            f"{recipe.id} seed {recipe.seed}: {record['last_accuracy']:.2f} % after {record['epochs']} epochs (best"
            f" {record['best_accuracy']:.2f} % in epoch {record['best_epoch']}), {trained.seconds:.0f} s, in {folder.path}"
        )


def make_record(recipe: Recipe, store: Any, accelerator: Any, precision: Any, kept: Any, trained: Any) -> dict[str, Any]:
    """What there is to say about a finished training. One that diverged has no accuracies."""
    from bench import environment

    history = trained.history
    best = max(history, key=lambda row: row["test_accuracy"])
    accuracies = {
        "last_accuracy": history[-1]["test_accuracy"],
        "best_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
    }
    return {
        "schema": SCHEMA,
        "id": recipe.id,
        "protocol": recipe.protocol,
        "seed": recipe.seed,
        "hash": recipe.hash,
        "diverged": trained.diverged,
        **(dict.fromkeys(accuracies) if trained.diverged else accuracies),
        "epochs": len(history),
        "parameters": trained.parameters,
        "flops_per_image": trained.flops_per_image,
        "guide": _guide_summary(kept) if kept else None,
        "dataset": {
            "fingerprint": store.fingerprint,
            "classes": store.classes(recipe.data),
            "train_images": len(store.training(recipe.data)),
            "test_images": len(store.evaluation(recipe.data)),
            "image_size": store.evaluation(recipe.data).images.size,  # height, width in px; None: they differ
            "evaluated_on": store.evaluated_on(recipe.data),
        },
        "maps": trained.maps,
        "precision": {"asked": precision.asked, "used": precision.used},
        "compile": trained.compiled,
        "world_size": accelerator.num_processes,
        "hardware": environment.hardware(accelerator.device),
        "seconds": round(trained.seconds, 1),
        "images_per_second": round(median(row["images_per_second"] for row in history), 1),
        "peak_memory_mib": round(environment.peak_memory_mib(accelerator.device)),
        "code": environment.code(),
        "libraries": environment.libraries(),
        "recipe": recipe.to_dict(),
    }


def _own_settings(arguments: argparse.Namespace) -> list[str]:
    """What `--set` said of the network that is trained: with `--guide-only`, what it said of the guide."""
    if not arguments.guide_only:
        return arguments.set
    return [text.removeprefix("guide.") for text in arguments.set if text.startswith("guide.")]


def _guide_summary(kept: Any) -> dict[str, Any]:
    record = kept.record()
    summary = {name: record[name] for name in ("id", "hash", "seed", "last_accuracy", "best_accuracy", "epochs", "seconds")}
    return {"key": kept.key, "select": kept.recipe.select, **summary}


def describe(recipe: Recipe, store: Any, accelerator: Any, precision: Any, kept: Any) -> None:
    """Say what is run, and on what it really runs."""
    from bench import environment

    hardware = environment.hardware(accelerator.device)
    processes = f"{accelerator.num_processes} process" + ("es" if accelerator.num_processes > 1 else "")
    print(f"{recipe.id}  protocol {recipe.protocol}  seed {recipe.seed}  hash {recipe.hash[:8]}")
    print(
        f"{processes} on {accelerator.device} ({hardware['device']}, {hardware['processor']}, {hardware['threads']}"
        f" thread{'s' if hardware['threads'] > 1 else ''}), precision {precision.used} ({precision.asked} asked)"
    )
    training, evaluation = store.training(recipe.data), store.evaluation(recipe.data)
    held = {"test": "test", "holdout": "held-out training", "share": "set-aside"}[store.evaluated_on(recipe.data)]
    print(
        f"{len(training):,} images to train on, evaluated on {len(evaluation):,} {held} images,"
        f" {store.classes(recipe.data)} classes, fingerprint {store.fingerprint[:8]}"
    )
    if recipe.train.warmup_epochs >= recipe.train.epochs:
        print(f"note: all {recipe.train.epochs} epochs are warm-up (train.warmup_epochs={recipe.train.warmup_epochs})")
    if kept:
        print(f"guide {kept.recipe.id}: {kept.record()['last_accuracy']:.2f} %")
    sys.stdout.flush()


def main() -> int:
    """Run and turn whatever happens into an exit code."""
    arguments = parser().parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # schedulers send the first, Ctrl-C the second
        signal.signal(number, STOP)
    try:
        return _outcome(arguments)
    except KeyboardInterrupt:  # also one that comes while another end is being told
        print("stopped; the same command starts it again", file=sys.stderr)
        return STOPPED


def _outcome(arguments: argparse.Namespace) -> int:
    try:
        run(arguments)
    except RecipeError as error:
        from bench.cache import Busy

        print(f"error: {error}", file=sys.stderr)
        return STOPPED if isinstance(error, Busy) else BAD_INPUT
    except Exception as error:
        from bench.train import Stopped

        if isinstance(error, Stopped):
            print(f"stopped {error}; the same command goes on from there", file=sys.stderr)
            return STOPPED
        if isinstance(error, Diverged):
            sentence = str(error)
        elif out_of_memory(error):
            sentence = OUT_OF_MEMORY
        elif told := unwritable(error):
            sentence = f"{told}: when it can, the same command goes on"
        elif "DataLoader worker" in str(error):  # torch has no kind of its own for a worker that was killed
            sentence = f"{error}: the same command goes on from the last checkpoint; --set data.workers=0 needs no workers"
        else:
            traceback.print_exc()
            sentence = f"{type(error).__name__}: {error}"
        print(f"error: {sentence}", file=sys.stderr)
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())

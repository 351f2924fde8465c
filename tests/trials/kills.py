"""Kill training runs at random moments, start them again, and compare their results with those of an uninterrupted run.

    python -m tests.trials.kills --kills 1000 [--processes 2]

Every run is a child forked from this process, which has imported everything, so a trial takes seconds. With --processes a
run has several, of which one is killed. Weights, history and record must be equal to the last bit, except times, speeds and
amounts of memory. Exit code 1: they differ.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import bench.train.runner  # noqa: F401 - imported here, once, for all children
from bench.run import parser
from bench.train.main import main
from tests.helpers.process import launch_variables

MEASURED = ("seconds", "images_per_second", "peak_memory_mib")
EPOCHS = ["train.epochs=3", "train.checkpoint_seconds=0", "train.threads=1"]
AUGMENT = ["augment.crop=random_resized", "augment.flip=0.5", "augment.erase=0.5", "model.drop_path_rate=0.2"]
AUGMENT += ["augment.mixup=0.8", "augment.cutmix=1", "train.ema=0.9", "train.lr_per=step"]
SMALL = ["model.depth=3", "model.feature_layers=[blocks.0, blocks.1, blocks.2]", "teacher.model.width=8"]
SMALL += ["teacher.train.epochs=1"]
# A student with projections and averaged weights, and a teacher that keeps its best epoch: the kinds of state.
RUNS = {
    "deit_micro/digits/guided": ["data.train_limit=128", *SMALL, *AUGMENT, *EPOCHS],
    "resnet8/digits": ["data.train_limit=192", "model.width=8", "select=best", "train.lr=0.3", *EPOCHS],
}
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
STOPPED = 75


def start(recipe_id: str, results: Path, processes: int = 1) -> list[int]:
    """Fork the processes of a run. Returns their process ids by rank."""
    ranks = launch_variables(processes) if processes > 1 else [{}]
    return [_fork(recipe_id, results, variables) for variables in ranks]


def _fork(recipe_id: str, results: Path, variables: dict[str, str]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until the child has its handlers
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return pid
    os.environ.update(variables)
    os.fsync = lambda _: time.sleep(0.01)  # a slow disk, so that kills hit writes
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    settings = [word for setting in RUNS[recipe_id] for word in ("--set", setting)]
    words = ["--recipe", recipe_id, "--protocol", "quick", "--results-dir", str(results), *settings]
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(STOPPED))  # before the run has its own handlers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        os._exit(main(parser().parse_args(words)))
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except KeyboardInterrupt:
        os._exit(STOPPED)


def wait(run: list[int], seconds: float | None = None, writing: Path | None = None) -> dict[int, int] | None:
    """Wait for the processes of a run.

    When one process fails, the others get SIGTERM, and SIGKILL later, as from launchers.

    Args:
        seconds: how long; None: to the end.
        writing: the results folder, to return as soon as a checkpoint is being written below it.

    Returns:
        The exit codes by process id (negative: the signal that ended it), or None if the run has not ended.
    """
    codes: dict[int, int] = {}
    until = math.inf if seconds is None else time.monotonic() + seconds
    failed = math.inf  # when the first process did
    while len(codes) < len(run):
        for pid in [pid for pid in run if pid not in codes]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > failed + 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if time.monotonic() > failed + 10 else signal.SIGTERM)
        if any(codes.values()):
            failed = min(failed, time.monotonic())
        if not codes and (time.monotonic() > until or (writing and any(writing.rglob(".checkpoint-*.tmp")))):
            return None
        time.sleep(0.2 if any(codes.values()) else 0.002)
    return codes


def outcome(results: Path) -> dict[str, object]:
    """The part of a finished run's results that must not depend on interruptions."""
    (folder,) = {path.parent for path in results.rglob("record.json")}
    record = json.loads((folder / "record.json").read_text())
    with open(folder / "history.csv", newline="") as file:
        history = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
    weights = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    # a kill while the last status is written leaves its temporary file beside a complete record
    left = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".status.json."))
    return {**{k: v for k, v in record.items() if k not in MEASURED}, "history": history, "weights": weights, "left": left}


def trials(kills: int, seed: int, folder: Path, processes: int = 1, report_every: int = 100) -> Counter[str]:
    """Run until that many kills have hit a running process. Returns numbers of kills, signals and problems."""
    os.environ["LOCALITY_BENCH_CACHE"] = str(folder / "cache")
    runs = [recipe_id for recipe_id in RUNS if processes == 1 or recipe_id.count("/") == 2]  # one process trains a teacher
    expected, took = {}, {}
    for recipe_id in runs:
        for name, count in (("first", 1), ("never stopped", processes)):  # the first decodes, and trains the teacher
            began, results = time.monotonic(), folder / recipe_id.replace("/", "-") / name
            assert not any(wait(start(recipe_id, results, count)).values()), f"{recipe_id} does not run"
            took[recipe_id] = time.monotonic() - began
        expected[recipe_id] = outcome(results)
    random, counts, results = Random(seed), Counter(), folder / "trial"
    while counts["kills"] < kills:
        recipe_id = random.choice(runs)
        codes = None
        while codes is None or any(codes.values()):
            run = start(recipe_id, results, processes)
            into_a_write, seconds = random.random() < 0.3, random.uniform(0, 1.2 * took[recipe_id])
            codes = wait(run, 60, results) if into_a_write else wait(run, seconds)
            if codes is None:
                codes = _kill(run, recipe_id, results, random, counts)
            elif any(codes.values()):
                counts["failures"] += 1
                break
        counts["runs"] += 1
        if not any(codes.values()) and (found := outcome(results)) != expected[recipe_id]:
            counts["differences"] += 1
            for name, value in found.items():
                if value != expected[recipe_id][name]:
                    print(f"{recipe_id}: {name} is {value}, not {expected[recipe_id][name]}", flush=True)
        shutil.rmtree(results, ignore_errors=True)
        if counts["runs"] % report_every == 0:
            print(dict(counts), flush=True)
    return counts


def _kill(run: list[int], recipe_id: str, results: Path, random: Random, counts: Counter[str]) -> dict[int, int]:
    """Kill or stop one process of a run. Returns the exit codes: zeros if it ended in the meantime."""
    counts["writes"] += any(results.rglob(".checkpoint-*.tmp"))
    number = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    victim = random.choice(run)
    os.kill(victim, number)
    codes = wait(run)
    counts["kills"] += 1
    counts[signal.Signals(number).name] += 1
    if codes[victim] not in (0, -signal.SIGKILL if number == signal.SIGKILL else STOPPED):
        counts["wrong exit codes"] += 1
        print(f"{recipe_id}: exit code {codes[victim]} after {signal.Signals(number).name}", flush=True)
    return codes


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=25)
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--processes", type=int, default=1, help="of a run")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = trials(arguments.kills, arguments.seed, Path(folder), arguments.processes)
    sent = ", ".join(f"{found[name]} {name}" for name in ("SIGKILL", "SIGTERM", "SIGINT"))
    print(
        f"{found['runs']} runs, {found['kills']} kills ({sent}; {found['writes']} while a checkpoint was written):"
        f" {found['differences']} differences, {found['failures']} failures, {found['wrong exit codes']} wrong exit codes"
    )
    sys.exit(bool(found["differences"] or found["failures"] or found["wrong exit codes"]))

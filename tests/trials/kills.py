"""Kills training runs at random moments, starts them again, and compares how they end with one that was never stopped.

    python -m tests.trials.kills --kills 1000 [--processes 2]

Every run is a child forked from this process, which has imported everything, so that a trial costs seconds; with
--processes it is several, of which one is killed. Weights, history and record must be the same to the last bit, but for
what is a time, a speed or an amount of memory. Exit code 1: they differ.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import accelerate
import timm
import torch

from bench.run import STOP, main
from bench.runs import environment
from bench.train.loop import checkpoint
from bench.train.loop import feature_cache as feature_cache
from bench.train.loop import loop as train
from bench.train.loop import teacher as teacher

assert all((accelerate, timm, torch, checkpoint, environment, teacher, feature_cache, train))  # imported for the children
MEASURED = ("seconds", "images_per_second", "peak_memory_mib")
EVERY_EPOCH = ["train.checkpoint_seconds=0", "train.threads=1"]
AUGMENT = ["augment.crop=random_resized", "augment.flip=0.5", "augment.erase=0.5", "model.drop_path_rate=0.2"]
SMALL = [
    "model.depth=3",
    "model.feature_layers=[blocks.0, blocks.1, blocks.2]",
    "teacher.model.width=8",
    "teacher.train.epochs=1",
]
# A student with projections, and a teacher that keeps its best epoch: the two kinds of state there are.
RUNS = {
    "deit_micro/digits/guided": ["data.train_limit=128", "train.epochs=3", *SMALL, *AUGMENT, *EVERY_EPOCH],
    "resnet8/digits": [
        "model.width=8",
        "data.train_limit=192",
        "train.epochs=3",
        "select=best",
        "train.lr=0.3",
        *EVERY_EPOCH,
    ],
}


def start(recipe_id: str, results: Path, processes: int = 1) -> list[int]:
    """Fork the processes of a run; their pids by rank."""
    launched = {}
    if processes > 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        launched["LOCAL_WORLD_SIZE"] = str(processes)
    return [_fork(recipe_id, results, {**launched, "RANK": str(k), "LOCAL_RANK": str(k)}) for k in range(processes)]


def _fork(recipe_id: str, results: Path, variables: dict[str, str]) -> int:
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until the child has its handlers
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return pid
    if "WORLD_SIZE" in variables:
        os.environ.update(variables)
    STOP.training = STOP.asked = False
    os.fsync = lambda _: time.sleep(0.01)  # a slow disk, so that kills hit writes
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    settings = [word for setting in RUNS[recipe_id] for word in ("--set", setting)]
    sys.argv = ["run.py", "--recipe", recipe_id, "--protocol", "quick", "--results-dir", str(results), *settings]
    for number in signals:
        signal.signal(number, STOP)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        os._exit(main())
    except KeyboardInterrupt:
        os._exit(75)


def ended(run: list[int], within: float | None = None, writing: Path | None = None) -> dict[int, int] | None:
    """The exit codes of a run's processes by pid (negative: the signal that ended it), or None where it still runs after
    `within` seconds, or as soon as it writes a checkpoint below `writing`.

    When one process fails the others are told to stop, and then killed, as launchers do it."""
    codes: dict[int, int] = {}
    until = None if within is None else time.monotonic() + within
    failed: float | None = None
    while len(codes) < len(run):
        for pid in [pid for pid in run if pid not in codes]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif failed is not None and time.monotonic() > failed + 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if time.monotonic() > failed + 10 else signal.SIGTERM)
        if failed is None and any(codes.values()):
            failed = time.monotonic()
        if not codes and until is not None and time.monotonic() > until:
            return None
        if not codes and writing is not None and any(writing.rglob(".checkpoint-*.tmp")):
            return None
        time.sleep(0.002 if failed is None else 0.2)
    return codes


def outcome(results: Path) -> dict[str, object]:
    """What a finished run left that must not depend on interruptions."""
    (folder,) = {path.parent for path in results.rglob("record.json")}
    record = json.loads((folder / "record.json").read_text())
    history = [line.rsplit(",", 1)[0] for line in (folder / "history.csv").read_text().splitlines()]  # without the speed
    weights = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    left = sorted(path.name for path in folder.iterdir())
    return {**{k: v for k, v in record.items() if k not in MEASURED}, "history": history, "weights": weights, "left": left}


def trials(kills: int, seed: int, cache: Path, processes: int = 1, report_every: int = 100) -> Counter[str]:
    """Trials until that many kills have hit a running child; counts of what happened."""
    os.environ["LOCALITY_BENCH_CACHE"] = str(cache / "cache")
    runs = [recipe_id for recipe_id in RUNS if processes == 1 or recipe_id.count("/") == 2]  # one process trains a teacher
    expected, took = {}, {}
    for recipe_id in runs:
        for name, count in (("first", 1), ("never stopped", processes)):  # the first decodes, and trains the teacher
            began, results = time.monotonic(), cache / recipe_id.replace("/", "-") / name
            assert not any(ended(start(recipe_id, results, count)).values()), f"{recipe_id} does not run"
            took[recipe_id] = time.monotonic() - began
        expected[recipe_id] = outcome(results)
    draw, counts = random.Random(seed), Counter()
    while counts["kills"] < kills:
        recipe_id = draw.choice(runs)
        results = cache / "trial"
        while True:
            run = start(recipe_id, results, processes)
            into_a_write = draw.random() < 0.3
            within = draw.uniform(0, 1.2 * took[recipe_id])
            codes = ended(run, 60, results) if into_a_write else ended(run, within)
            if codes is None:
                counts["writes"] += any(results.rglob(".checkpoint-*.tmp"))
                sent = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                victim = draw.choice(run)
                os.kill(victim, sent)
                codes = ended(run)
                counts["kills"] += 1
                counts[signal.Signals(sent).name] += 1
                if codes[victim] not in (0, -signal.SIGKILL if sent == signal.SIGKILL else 75):
                    counts["wrong exit codes"] += 1
                    print(f"{recipe_id}: exit code {codes[victim]} after {signal.Signals(sent).name}", flush=True)
            elif any(codes.values()):
                counts["failures"] += 1
                break
            if not any(codes.values()):  # it may have finished in the meantime
                break
        counts["runs"] += 1
        if not any(codes.values()) and outcome(results) != expected[recipe_id]:
            counts["differences"] += 1
            different = [k for k, v in outcome(results).items() if v != expected[recipe_id][k]]
            print(f"{recipe_id} ended differently: {', '.join(different)}", flush=True)
        shutil.rmtree(results, ignore_errors=True)
        if counts["runs"] % report_every == 0:
            print(dict(counts), flush=True)
    return counts


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

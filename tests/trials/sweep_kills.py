"""Kill sweeps, or one of their runs, at random moments, start them again, and compare their results.

    python -m tests.trials.sweep_kills --kills 50

Each sweep has one or two slots. It is sent SIGKILL, SIGTERM or SIGINT, or one of its runs is killed. The runs that it
leaves go on, and the next sweep has to attach to them. Hashes, weights, accuracies and histories must be the same to the
last bit, and no process may be left after a sweep was asked to stop. Exit code 1: something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = """
protocol: quick
models: [deit_micro]
datasets: [digits]
guidance: [baseline, guided]
seeds: [0]
set:
  train: {epochs: 12, checkpoint_seconds: 0}
  data: {train_limit: 128}
  teacher: {train: {epochs: 1}, data: {train_limit: 128}}
"""


def numbers(results: Path) -> dict[str, object]:
    """The results of a sweep of the suite `short` that interruptions must not change: everything but times."""
    found = {}
    for record in map(json.loads, (results / "local" / "short" / "records.jsonl").read_text().splitlines()):
        history = {name: column for name, column in record["history"].items() if name != "images_per_second"}
        found[f"{record['id']} {record['seed']}"] = [record["hash"], record["weights"], record["last_accuracy"], history]
    return found


def processes(results: Path) -> list[int]:
    """The processes whose command line names the folder."""
    listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    rows = [line.split(None, 2) for line in listed if str(results) in line]
    return [int(pid) for pid, state, args in rows if not state.startswith("Z") and "bench" in args]


def trials(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Sweep until this many kills have hit a sweep. Returns counts of what happened."""
    (folder / "recipes" / "suites").mkdir(parents=True)
    (folder / "recipes" / "suites" / "short.yaml").write_text(SUITE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LOCALITY_BENCH_CACHE": str(folder / "cache")}

    def start(results: Path, slots: int) -> subprocess.Popen:
        words = ["-m", "bench", "sweep", "short", "--recipes-dir", str(folder / "recipes"), "--results-dir", str(results)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, *words, "--runs-per-gpu", str(slots)], cwd=ROOT, env=environment, **quiet)

    began = time.monotonic()
    assert start(folder / "whole", 2).wait() == 0, "the suite does not run"
    took, expected = time.monotonic() - began, numbers(folder / "whole")
    rng, counts, results = random.Random(seed), Counter(), folder / "trial"
    while counts["kills"] < kills:
        shutil.rmtree(results, ignore_errors=True)
        shutil.rmtree(folder / "cache" / "teachers")
        while True:
            process = start(results, rng.choice([1, 2]))
            try:
                code = process.wait(rng.uniform(0, 1.2 * took))
            except subprocess.TimeoutExpired:
                sent = rng.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "a run"])
                runs = [pid for pid in processes(results) if pid != process.pid]
                counts["kills"] += 1
                counts[sent] += 1
                if sent == "a run":
                    if runs:
                        os.kill(rng.choice(runs), signal.SIGKILL)
                    code = process.wait()
                else:
                    process.send_signal(signal.Signals[sent])
                    code = process.wait()
                    if code == -signal.Signals[sent]:  # before or after the code of the sweep, Python ends by the signal
                        code = 75
                    if sent != "SIGKILL" and processes(results):
                        counts["orphans"] += 1
                    if sent != "SIGKILL" and code not in (0, 75):
                        counts["wrong exit codes"] += 1
            if code == 0:
                break
            if code != 75:
                counts["failures"] += 1
                break
        counts["sweeps"] += 1
        if code == 0 and numbers(results) != expected:
            counts["differences"] += 1
        print(dict(counts), flush=True)
    return counts


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = trials(arguments.kills, arguments.seed, Path(place))
    wrong = {name: found[name] for name in ("differences", "failures", "orphans", "wrong exit codes")}
    print(f"{found['sweeps']} sweeps, {found['kills']} kills: {', '.join(f'{n} {name}' for name, n in wrong.items())}")
    sys.exit(any(wrong.values()))

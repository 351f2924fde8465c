"""Several processes: they stop together, go on together, fail together, and count every test image once."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
from conftest import ROOT, TINY, command

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# A checkpoint an epoch, of 33 steps, so that the processes ask one another about stopping within it.
SETTINGS = ["train.epochs=12", "train.batch_size=16", "data.train_limit=528", "train.checkpoint_seconds=0"]
SETTINGS += ["model.drop_path_rate=0.3", "augment.erase=0.5", "guide.train.epochs=1", "guide.data.train_limit=512"]
RUN = ["bench/run.py", "--recipe", "deit_micro/digits/guided", "--protocol", "quick"]
RUN += [word for setting in SETTINGS for word in ("--set", setting)]


def start(results, cache):
    words = [sys.executable, *LAUNCH, *RUN, "--results-dir", str(results)]
    env = {**os.environ, "LOCALITY_BENCH_CACHE": str(cache)}
    return subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rank(launcher, number):
    """The process of a rank."""
    (found,) = (child for child in psutil.Process(launcher.pid).children() if child.environ().get("RANK") == str(number))
    return found


def until_epoch(launcher, number):
    assert any(line.startswith(f"epoch {number:>2}/") for line in launcher.stdout)


def ended(launcher, within=60):
    """What the launcher and its processes said; it must end by itself."""
    try:
        return launcher.communicate(timeout=within)[1]
    finally:
        launcher.kill()


def outcome(results):
    (folder,) = {path.parent for path in results.rglob("record.json")}
    rows = list(csv.DictReader((folder / "history.csv").open()))
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows], weights


def status(results):
    (path,) = results.rglob("deit_micro/**/status.json")
    return json.loads(path.read_text())


def test_two_processes_stop_and_die_together_and_end_as_if_they_had_not(tmp_path):
    cache, results = tmp_path / "cache", tmp_path / "results"
    never_stopped = start(tmp_path / "whole", cache)
    said = ended(never_stopped, 200)
    assert never_stopped.returncode == 0, said
    stopped = start(results, cache)
    until_epoch(stopped, 2)
    rank(stopped, 1).send_signal(signal.SIGTERM)  # one is told, both save and leave
    said = ended(stopped)
    assert status(results)["state"] == "stopped" and said.count("stopped after epoch") == 2, said
    killed = start(results, cache)
    until_epoch(killed, 6)
    rank(killed, 1).kill()
    began = time.monotonic()
    said = ended(killed)
    assert killed.returncode != 0 and time.monotonic() - began < 45 and not list(results.rglob("deit_micro/**/record.json"))
    last = start(results, cache)
    said = ended(last, 200)
    assert last.returncode == 0, said
    assert outcome(results / "runs" / "deit_micro") == outcome(tmp_path / "whole" / "runs" / "deit_micro")


def test_one_process_that_fails_ends_the_run_with_its_error(tmp_path):
    script = tmp_path / "one_with_little_memory.py"
    script.write_text(
        "import os, resource, runpy, sys, torch\n"
        "if os.environ['RANK'] == '1':\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", tmp_path, *TINY[:4]]
    huge = ["--set", "model.image_size=256", "--set", "train.batch_size=512"]
    began = time.monotonic()
    done = command(*LAUNCH, script, "bench/run.py", *words, *huge)
    assert done.returncode != 0 and time.monotonic() - began < 120
    assert "out of memory" in done.stderr and "train.micro_batch" in done.stderr
    assert status(tmp_path)["state"] == "failed" and not list(tmp_path.rglob("record.json"))


COUNT = """
import dataclasses, json, os, sys
import torch
from accelerate import Accelerator
from bench import models
from bench.data.batches import Share, TestBatches
from bench.data.store import open_store
from bench.evaluate import accuracy
from bench.recipes import Registry

torch.set_num_threads(1)
recipe = Registry().compose("deit_micro/digits/baseline", "quick", ["train.test_batch_size=7"])
accelerator, store = Accelerator(cpu=True), open_store(recipe.data, "data")
share = Share(accelerator.process_index, accelerator.num_processes)
student = models.create(recipe.model, 10, 3)
torch.manual_seed(0)
torch.nn.init.trunc_normal_(student.network.head.weight)
out = {}
for count in map(int, sys.argv[1:]):
    rows = {k: getattr(store.test, k)[:count] for k in ("sizes", "labels", "names")}
    fewer = dataclasses.replace(store.test, pixels=store.test.pixels[: count * 192], **rows)
    batches = TestBatches(recipe, dataclasses.replace(store, test=fewer), accelerator.device, share)
    percent, given = accuracy(student.network, batches, accelerator)
    out[count] = [percent, given.tolist()]
if accelerator.is_main_process:
    print(json.dumps(out))
"""


def test_two_processes_count_every_test_image_once(tmp_path):
    (tmp_path / "count.py").write_text(COUNT)
    sizes = ["1", "2", "3", "13", "14", "15", "28", "29", "359", "360"]
    one, two = (
        json.loads(
            command(*launch, tmp_path / "count.py", *sizes, check=True, env={"PYTHONPATH": str(ROOT)}).stdout.splitlines()[
                -1
            ]
        )
        for launch in ([], LAUNCH)
    )
    assert one == two
    assert all(len(given) == int(size) for size, (_, given) in one.items())
    assert len({percent for percent, _ in one.values()}) > 3  # an untrained network, but not one that always errs

"""Several processes: they stop together, resume together, fail together, and count every test image once."""

from __future__ import annotations

import json
import re

from tests.helpers.process import ROOT, TINY, Started, command, start_distributed

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_two_processes_killed_at_random_moments_end_like_uninterrupted_ones():
    # in a process of its own, since this one has met accelerate as one process
    done = command("-m", "tests.trials.kills", "--kills", "5", "--seed", "2", "--processes", "2", check=True)
    assert int(re.search(r"(\d+) kills", done.stdout)[1]) >= 5
    assert "0 differences, 0 failures, 0 wrong exit codes" in done.stdout


LITTLE_MEMORY_OF_ONE = """
import os, resource, runpy, sys, torch
if os.environ["RANK"] == "1":
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_one_process_that_fails_ends_the_run_with_its_error(cache, tmp_path):
    (tmp_path / "limited.py").write_text(LITTLE_MEMORY_OF_ONE)
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", tmp_path, *TINY[:4]]
    huge = ["--set", "model.image_size=96", "--set", "train.batch_size=512"]
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    done = command(*LAUNCH, tmp_path / "limited.py", "bench/run.py", *words, *huge, env=env)
    assert done.returncode != 0 and "out of memory" in done.stderr and "train.micro_batch" in done.stderr
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["state"] == "failed" and not list(tmp_path.rglob("record.json"))


ENDED = """
import runpy, sys, torch
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("a group is left" if torch.distributed.is_initialized() else "no group is left")
"""


def test_a_finished_run_ends_its_process_group(cache, tmp_path):
    (tmp_path / "ended.py").write_text(ENDED)
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", tmp_path, *TINY[:4]]
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    done = [
        one.completed()
        for one in start_distributed(tmp_path / "ended.py", ROOT / "bench/run.py", *words, processes=2, env=env)
    ]
    assert all(one.returncode == 0 and one.stdout.endswith("no group is left\n") for one in done), done


COUNT = """
import dataclasses, json, os, sys
sys.path[0] = os.getcwd()
import torch
from accelerate import Accelerator
from bench import models
from bench.config.registry import Registry
from bench.data.loaders import EvalLoader, Shard
from bench.data.store import open_dataset
from bench.train.evaluate import accuracy

torch.set_num_threads(1)
recipe = Registry().compose("deit_micro/digits/baseline", "quick", ["train.test_batch_size=7"])
accelerator, dataset = Accelerator(cpu=True), open_dataset(recipe.data, "data")
shard = Shard(accelerator.process_index, accelerator.num_processes)
student = models.create(recipe.model, 10, 3)
torch.manual_seed(0)
torch.nn.init.trunc_normal_(student.network.head.weight)
out = {}
for count in map(int, sys.argv[1:]):
    rows = {k: getattr(dataset.test, k)[:count] for k in ("sizes", "labels", "names")}
    fewer = dataclasses.replace(dataset.test, pixels=dataset.test.pixels[: count * 192], **rows)
    loader = EvalLoader(recipe, dataclasses.replace(dataset, test=fewer), accelerator.device, shard)
    percent, predictions = accuracy(student.network, loader, accelerator)
    out[count] = [percent, predictions.tolist()]
if accelerator.is_main_process:
    print(json.dumps(out))
"""


def test_two_processes_count_every_test_image_once(tmp_path):
    (tmp_path / "count.py").write_text(COUNT)
    sizes = ["1", "2", "3", "13", "14", "15", "28", "29", "359", "360"]
    alone = Started(tmp_path / "count.py", *sizes)
    done = [started.completed() for started in (alone, *start_distributed(tmp_path / "count.py", *sizes, processes=2))]
    assert [one.returncode for one in done] == [0, 0, 0], done
    one, two = (json.loads(main.stdout.splitlines()[-1]) for main in done[:2])
    assert one == two and not done[2].stdout  # only the main process prints
    assert all(len(predictions) == int(size) for size, (_, predictions) in one.items())
    assert len({percent for percent, _ in one.values()}) > 3  # an untrained network, but not one that is always wrong

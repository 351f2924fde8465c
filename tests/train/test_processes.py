"""Several processes: they stop start_distributed, go on start_distributed, fail start_distributed, and count every test image once."""

from __future__ import annotations

import json
import re
import time

from tests.helpers.process import TINY, Started, command, start_distributed

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_two_processes_killed_at_random_moments_end_as_if_they_had_not_been():
    # one of them is killed or told to stop; in a process of its own, since this one has met accelerate as one process
    done = command("-m", "tests.kill_trials", "--kills", "5", "--seed", "2", "--processes", "2", check=True)
    assert int(re.search(r"(\d+) kills", done.stdout)[1]) >= 5
    assert "0 differences, 0 failures, 0 wrong exit codes" in done.stdout


def test_one_process_that_fails_ends_the_run_with_its_error(cache, tmp_path):
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
    huge = ["--set", "model.image_size=96", "--set", "train.batch_size=512"]
    began = time.monotonic()
    done = command(*LAUNCH, script, "bench/run.py", *words, *huge, env={"LOCALITY_BENCH_CACHE": str(cache)})
    assert done.returncode != 0 and time.monotonic() - began < 120
    assert "out of memory" in done.stderr and "train.micro_batch" in done.stderr
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["state"] == "failed" and not list(tmp_path.rglob("record.json"))


COUNT = """
import dataclasses, json, os, sys
sys.path[0] = os.getcwd()
import torch
from accelerate import Accelerator
from bench import models
from bench.data.loaders import Shard, EvalLoader
from bench.data.store import open_dataset
from bench.train.evaluate import accuracy
from bench.config.registry import Registry

torch.set_num_threads(1)
recipe = Registry().compose("deit_micro/digits/baseline", "quick", ["train.test_batch_size=7"])
accelerator, store = Accelerator(cpu=True), open_dataset(recipe.data, "data")
share = Shard(accelerator.process_index, accelerator.num_processes)
student = models.create(recipe.model, 10, 3)
torch.manual_seed(0)
torch.nn.init.trunc_normal_(student.network.head.weight)
out = {}
for count in map(int, sys.argv[1:]):
    rows = {k: getattr(store.test, k)[:count] for k in ("sizes", "labels", "names")}
    fewer = dataclasses.replace(store.test, pixels=store.test.pixels[: count * 192], **rows)
    batches = EvalLoader(recipe, dataclasses.replace(store, test=fewer), accelerator.device, share)
    percent, given = accuracy(student.network, batches, accelerator)
    out[count] = [percent, given.tolist()]
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
    assert one == two and not done[2].stdout  # the main process alone speaks
    assert all(len(given) == int(size) for size, (_, given) in one.items())
    assert len({percent for percent, _ in one.values()}) > 3  # an untrained network, but not one that always errs

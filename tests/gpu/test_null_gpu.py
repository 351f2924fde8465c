"""What runs on a GPU asks of it, counted on a null GPU: no wait in a step, and records that count as no results."""

from __future__ import annotations

import pytest

from bench.runs.finished import NULL_GPU, run_from_folder
from tests.gpu.null_gpu import measure, run

# 16 batches of a recipe, whose id and settings are the arguments, and 16 steps: through the end of an epoch of 12.
STEPS = """
import sys
from bench.config.registry import Registry
from bench.train.speed_variant import Variant, random_dataset
from tests.gpu import null_gpu

settings = ["train.compile=off", "data.train_limit=1536", "train.batch_size=128"]
recipe = Registry().compose(sys.argv[1], "paper", [*settings, *sys.argv[2:]])
variant = Variant(recipe, random_dataset(recipe, 32))
assert str(variant.device) == "cuda"
variant.train(1)
null_gpu.reset()
variant.load(16)
null_gpu.report("input")
variant.train(16)
null_gpu.report("steps")
"""
CALLS = """
import torch
from tests.gpu import null_gpu

null_gpu.reset()
values = torch.zeros(8, device="cuda")
copied = torch.empty_like(values).copy_(values)
null_gpu.report("a memset and a copy")
values + values
null_gpu.report("a kernel")
torch.ones(8).to("cuda")
null_gpu.report("an upload that waits")
values[0].item()
torch.cuda.synchronize()
null_gpu.report("two waits")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    values + values
graph.replay()
null_gpu.report("a graph")
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        values[0].item()
except RuntimeError:
    pass
null_gpu.report("a wait in a capture")
"""
STEPS_IN_FP16 = """
from bench.config.registry import Registry
from bench.train.speed_variant import Variant, random_dataset

settings = ["train.compile=off", "train.precision=fp16", "data.train_limit=64"]
recipe = Registry().compose("deit_micro/digits/baseline", "quick", settings)
variant = Variant(recipe, random_dataset(recipe, 8))
variant.train(2)
print(variant.step.compiled, variant.step.compilation().found)
"""
MAX_INPUT_CALLS = 105  # launches, copies, memsets and uploads of a batch, uncompiled
DEIT = ["deit_tiny/cifar100/guided", "model.depth=2", "model.feature_layers=[blocks.0, blocks.1, blocks.1]"]


def test_every_kind_of_call_is_counted(null_gpu):
    assert measure(null_gpu, CALLS) == {
        "a memset and a copy": {"memsets": 1, "copies": 1},
        "a kernel": {"launches": 1},
        "an upload that waits": {"uploads": 1, "pageable_uploads": 1, "waits": 1},
        "two waits": {"downloads": 1, "waits": 2},
        "a graph": {"captures": 1, "captured": 1, "graph_launches": 1, "waits": 1},
        "a wait in a capture": {"captures": 1, "waits": 1, "refused": 1},
    }


@pytest.mark.parametrize("settings", [[], ["data.residence=host"], ["augment.rand_augment=null"]], ids=lambda s: "".join(s))
def test_a_step_does_not_wait_and_its_input_takes_few_launches(null_gpu, settings):
    counts = measure(null_gpu, STEPS, *DEIT, *settings)
    for part in counts.values():
        assert not {"waits", "pageable_uploads", "downloads", "refused"} & part.keys(), counts
    asked = sum(counts["input"].get(kind, 0) for kind in ("launches", "products", "copies", "memsets", "uploads"))
    assert asked / 16 <= MAX_INPUT_CALLS
    assert counts["steps"]["launches"] > counts["input"]["launches"] + 16 * 100  # 100 in a step: the student is there


def test_features_on_the_gpu_are_not_copied_there_each_step(null_gpu):
    counts = measure(null_gpu, STEPS, DEIT[0].replace("guided", "guided-offline"), *DEIT[1:])
    assert counts["steps"]["uploads"] <= counts["input"]["uploads"] + 16  # the indices of each batch


def test_a_run_says_that_it_is_no_result(null_gpu, tmp_path):
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", tmp_path]
    settings = ["train.epochs=1", "data.train_limit=512", "train.compile=off"]
    done = run(null_gpu, "bench/run.py", *words, *(word for setting in settings for word in ("--set", setting)))
    assert done.returncode == 0, done.stdout + done.stderr
    finished = run_from_folder(next(tmp_path.rglob("record.json")).parent)
    assert finished.record.hardware.device == NULL_GPU
    assert "null GPU" in finished.contradiction


def test_off_compiles_nothing_in_fp16_too(null_gpu):
    done = run(null_gpu, "-c", STEPS_IN_FP16)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "off 0"

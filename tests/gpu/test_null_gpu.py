"""What runs on a GPU asks of it, counted on a null GPU: no wait in a step, and records that count as no results."""

from __future__ import annotations

from bench.runs.finished import NULL_GPU, run_from_folder
from tests.gpu.null_gpu import measure, run

# Three steps of a recipe, whose id and settings are the arguments.
STEPS = """
import sys
from bench.config.registry import Registry
from bench.train.speed_variant import Variant, random_dataset
from tests.gpu import null_gpu

settings = ["train.compile=off", "data.train_limit=1024", "train.batch_size=128"]
recipe = Registry().compose(sys.argv[1], "paper", [*settings, *sys.argv[2:]])
variant = Variant(recipe, random_dataset(recipe, 32))
assert str(variant.device) == "cuda"
variant.train(3)
null_gpu.reset()
variant.train(3)
null_gpu.report("3 steps")
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


def test_a_step_does_not_wait(null_gpu):
    counts = measure(null_gpu, STEPS, *DEIT)["3 steps"]
    assert counts["launches"] > 300 and counts["uploads"] > 3
    assert not {"waits", "pageable_uploads", "downloads", "refused"} & counts.keys(), counts


def test_a_run_says_that_it_is_no_result(null_gpu, tmp_path):
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", tmp_path]
    settings = ["train.epochs=1", "data.train_limit=512", "train.compile=off"]
    done = run(null_gpu, "bench/run.py", *words, *(word for setting in settings for word in ("--set", setting)))
    assert done.returncode == 0, done.stdout + done.stderr
    finished = run_from_folder(next(tmp_path.rglob("record.json")).parent)
    assert finished.record.hardware.device == NULL_GPU
    assert "null GPU" in finished.contradiction

"""Training steps as CUDA graphs on the null GPU: how many are captured, what a step asks for, stop and resume, refusals.

Most tests capture modules that are not compiled, which takes seconds.
"""

from __future__ import annotations

import csv
import itertools
import json

import pytest
from accelerate import Accelerator

from bench.config.registry import Registry
from bench.data.store import open_dataset
from bench.train.checkpoint import Checkpoints
from bench.train.feature_cache import open_teacher
from bench.train.graph import WARM_UP_STEPS
from bench.train.loop import Training
from bench.train.request import Stopped
from tests.gpu.null_gpu import measure, run
from tests.helpers.own import write_own

# Steps with and without guidance, of a recipe, whose id, protocol and settings are the arguments. Epochs have 8 steps.
STEPS = """
import sys
from bench.config.registry import Registry
from bench.train.speed_variant import Variant, random_dataset
from tests.gpu import null_gpu

recipe, steps = Registry().compose(sys.argv[1], sys.argv[2], ["train.batch_size=64", *sys.argv[3:]]), 16
variant = Variant(recipe, random_dataset(recipe, 16))
null_gpu.reset()
for label, train in (("guided", variant.train), ("unguided", variant.train_unguided), ("guided again", variant.train)):
    train(4)
    null_gpu.report(f"{label}, first")
    train(steps)
    null_gpu.report(label)
variant.parts(1)
variant.flops()
null_gpu.report("parts")
assert (variant.step.captured, variant.step.capture_refused) == (2, None)
"""
# A run of bench/run.py with these arguments; a process of its own trains the teacher.
RUN = """
import runpy, sys
from tests.gpu import null_gpu

sys.argv[0] = "bench/run.py"
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert ended.code == 0
null_gpu.report("run")
"""
# Resume from the checkpoints in a folder and stop after some steps; the settings follow.
RESUME = """
import sys
from pathlib import Path
from bench.config.registry import Registry
from tests.gpu.test_null_gpu_graph import train_and_stop
from bench.train.launch import make_accelerator
from tests.gpu import null_gpu

recipe = Registry().compose("deit_micro/digits/guided", "quick", sys.argv[3:])
null_gpu.reset()
train_and_stop(recipe, Path(sys.argv[1]), int(sys.argv[2]), make_accelerator(recipe.train)[0])
null_gpu.report("resumed")
"""
WAIT = {"waits", "pageable_uploads", "downloads", "refused", "captures"}
SHORT = ["data.train_limit=256", "teacher.train.epochs=1"]  # epochs of 8 steps of 32 images


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def train_and_stop(recipe, folder, steps, accelerator):
    """Train on from the newest checkpoint, and stop after some steps. Returns the checkpoint."""
    dataset, asked = open_dataset(recipe.data, "data"), itertools.count(1)
    teacher = open_teacher(recipe, None, "untrained", dataset, accelerator.device)
    checkpoints = Checkpoints(folder, "a run", 1000)
    training = Training(recipe, dataset, accelerator, teacher, checkpoints=checkpoints, stop=lambda: next(asked) >= steps)
    with pytest.raises(Stopped):
        training.run()
    return checkpoints.newest()


def quick_run(method, folder, *settings):
    """The arguments of a run of bench/run.py."""
    words = ["--recipe", f"deit_micro/digits/{method}", "--protocol", "quick", "--results-dir", folder]
    return [*words, *(word for setting in (*SHORT, *settings) for word in ("--set", setting))]


def asked_in_steps(counts, label):
    """What is asked for in 16 steps, input included, but for graphs."""
    assert counts[label]["graph_launches"] == 16, counts
    assert not WAIT & counts[label].keys(), counts
    return sum(n for kind, n in counts[label].items() if kind != "graph_launches")


@pytest.mark.parametrize(
    ("recipe", "protocol"),
    [(f"deit_micro/digits/{method}", "quick") for method in ("guided", "guided-offline", "kd", "drloc", "mgd")]
    + [("deit_micro/digits/alg", "modern")],
)
def test_each_kind_of_step_is_captured_once_and_then_takes_one_launch(null_gpu, uncompiled, recipe, protocol):
    counts = measure(null_gpu, STEPS, recipe, protocol, "data.train_limit=512", "augment.rand_augment=null")
    for kind in ("guided", "unguided"):
        first = counts[f"{kind}, first"]
        assert (first["captures"], first["graph_launches"]) == (1, 1) and "refused" not in first
        assert first["captured"] > 100
    assert "captures" not in counts["guided again, first"] and "graph_launches" not in counts["parts"]
    for label in ("guided", "unguided", "guided again"):
        assert asked_in_steps(counts, label) / 16 < 60, counts


def test_a_compiled_run_has_one_graph_for_each_kind_of_epoch(null_gpu, tmp_path):
    settings = ["train.epochs=2", "guidance.schedule.until_epoch=1", "train.compile=graphs"]
    counts = measure(null_gpu, RUN, *quick_run("guided", tmp_path, *settings))["run"]
    record = json.loads(next(tmp_path.rglob("guided/*/record.json")).read_text())
    assert record["compile"] == "graphs"
    assert (counts["captures"], counts["graph_launches"]) == (2, 2 * (8 - WARM_UP_STEPS)) and "refused" not in counts


def test_adaptive_guidance_ends_without_guidance_in_a_graph_of_its_own(null_gpu, uncompiled, tmp_path):
    counts = measure(null_gpu, RUN, *quick_run("alg", tmp_path))["run"]
    rows = list(csv.DictReader(next(tmp_path.rglob("alg/*/history.csv")).open()))
    guided = [bool(row["guidance_loss"]) for row in rows]
    assert guided[0] and not guided[-1] and guided == sorted(guided, reverse=True)
    assert counts["captures"] == 2 and "refused" not in counts


def test_runs_go_on_with_and_without_graphs_from_the_same_checkpoints(null_gpu, uncompiled, tmp_path):
    settings = ["data.train_limit=256", "train.batch_size=32", "train.epochs=4"]
    recipe = Registry().compose("deit_micro/digits/guided", "quick", settings)
    before = train_and_stop(recipe, tmp_path, 5, Accelerator(cpu=True))
    counts = measure(null_gpu, RESUME, tmp_path, 10, *settings)["resumed"]
    assert (counts["captures"], counts["graph_launches"]) == (1, 10 - WARM_UP_STEPS) and "refused" not in counts
    state = Checkpoints(tmp_path, "a run", 1000).newest()
    assert (state["epoch"], state["step"]) == (1, 7)
    for ours, theirs in zip(state["optimizer"]["param_groups"], before["optimizer"]["param_groups"], strict=True):
        assert type(ours["lr"]) is float and {**ours, "lr": 0} == {**theirs, "lr": 0}
    after = train_and_stop(recipe, tmp_path, 3, Accelerator(cpu=True))
    assert (after["epoch"], after["step"]) == (2, 2)


@pytest.mark.parametrize("compile_setting", ["auto", "graphs"])
def test_a_step_that_cannot_be_captured_is_never_silent(null_gpu, uncompiled, tmp_path, compile_setting):
    own = write_own(tmp_path / "own")
    method = own / "guidance" / "logit_mse.py"
    method.write_text(method.read_text().replace("return F.", "student.logits.sum().item()\n        return F."))
    words = quick_run("logit_mse", tmp_path, "train.epochs=1", f"train.compile={compile_setting}")
    done = run(null_gpu, "bench/run.py", *words, "--recipes-dir", own)
    if compile_setting == "graphs":
        assert done.returncode == 2 and "train.compile: a step cannot be captured in a CUDA graph (" in done.stderr
        assert "Traceback" not in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "no CUDA graph (" in done.stderr + done.stdout
    record = json.loads(next((tmp_path / "local").rglob("logit_mse/*/record.json")).read_text())
    assert record["compile"] == "fell back"

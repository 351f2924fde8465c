"""`bench speed` counts and times what a run does. No test says how fast that is."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch

from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.models import create
from bench.train.speed import add_speed_options, measure
from bench.train.speed_methods import measure_methods, recipes_of_methods
from bench.train.speed_variant import Variant, random_dataset
from bench.train.step import compile_mode
from tests.helpers.own import write_own
from tests.helpers.process import ROOT, command, refused

registry = Registry()
SETTINGS = ["data.train_images=64", "data.train_limit=32", "train.batch_size=16"]


def multiplications(recipe: Recipe) -> int:
    """Of one image's forward through a plain vision transformer: its linear layers, patches and attention."""
    network, counted = create(recipe.model, 10, 0).network, []
    for module in network.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.register_forward_hook(
                lambda m, _, out: counted.append(m.weight.numel() * out.numel() // m.weight.shape[0])
            )
    size = recipe.model.image_size
    network(torch.zeros(1, 3, size, size))
    tokens, width = (size // recipe.model.patch_size) ** 2 + 1, network.embed_dim
    return sum(counted) + len(network.blocks) * 2 * tokens * tokens * width


def test_flops_are_those_of_the_layers():
    baseline = registry.compose("deit_micro/digits/baseline", "quick", SETTINGS)
    guided = registry.compose("deit_micro/digits/guided", "quick", [*SETTINGS, "teacher.train.batch_size=16"])
    flops = Variant(baseline, random_dataset(baseline, 8)).flops()
    assert flops["forward"] == pytest.approx(2 * multiplications(baseline), rel=1e-6)
    assert 2.5 < flops["forward and backward"] / flops["forward"] <= 3 and "teacher" not in flops
    variant = Variant(guided, random_dataset(guided, 8))
    more = variant.flops()
    assert flops["forward"] < more["forward"] < 1.1 * flops["forward"] and more["teacher"] > 0  # with projections
    weight = next(variant.step.task.parameters())
    before = weight.detach().clone()
    variant.train(3)  # through the end of an epoch of two
    assert not torch.equal(weight, before)


def test_the_command_measures_every_part(tmp_path):
    words = ["-m", "bench", "speed", "--recipe", "deit_micro/digits/guided", "--protocol", "quick", "--steps", "12"]
    words += ["--compare", "plain", "--set", "data.train_limit=64", "--set", "augment.rand_augment=rand-m9-mstd0.5-inc1"]
    words += ["--set", "train.precision=bf16", "--set", "data.workers=1", "--set", "train.batch_size=8"]
    done = command(*words, "--json", tmp_path / "speed.json", check=True)
    found = json.loads((tmp_path / "speed.json").read_text())
    precisions = {name: variant["precision"] for name, variant in found["variants"].items()}
    assert precisions == {"guided": "bf16", "baseline": "bf16", "plain": "fp32"} and found["steps"] == 12
    assert list(found["parts_ms"]) == ["input", "teacher", "forward", "backward", "optimiser"]
    for name, variant in found["variants"].items():
        assert variant["images_per_second"] == pytest.approx(1e3 * found["batch"] / variant["ms"])
        assert variant["range_ms"][0] <= variant["ms"] <= variant["range_ms"][1]
        assert f"{name:<10} " in done.stdout
    assert list(found["ratios"]) == ["baseline", "plain"]
    for other, ratio in found["ratios"].items():
        (low, high), (other_low, other_high) = (found["variants"][name]["range_ms"] for name in ("guided", other))
        assert low / other_high <= ratio <= high / other_low and f"{ratio:.3f} times a step of {other}" in done.stdout
    assert all(math.isfinite(v) and v > 0 for v in (found["utilisation"], found["matrix_flops"]))
    assert found["bf16_note"] is None  # it runs in bf16
    assert 0 < found["first_step"]["import_seconds"] < found["first_step"]["seconds"]


def test_features_of_an_untrained_teacher_are_removed(cache, monkeypatch, capfd):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    settings = ["data.train_limit=64", "train.batch_size=32", "train.micro_batch=16"]
    recipe = registry.compose("deit_micro/digits/guided-offline", "quick", settings)
    measure({"guided-offline": recipe}, "data", None, 1)
    assert "features" not in capfd.readouterr().out  # stdout has only the measurements
    assert [path.name for path in cache.iterdir()] == ["datasets"]


def options(*words):
    parser = argparse.ArgumentParser()
    add_speed_options(parser)
    return parser.parse_args(["--protocol", "quick", *words])


def test_methods_are_measured_beside_the_baseline_and_sorted():
    words = [word for text in (*SETTINGS, "teacher.train.batch_size=16") for word in ("--set", text)]
    recipes = recipes_of_methods(options("--recipe", "deit_micro/digits/kd", *words))
    assert list(recipes)[:2] == ["baseline", "kd"] and set(recipes) == set(registry.names("guidance"))
    chosen = {name: recipes[name] for name in ("baseline", "kd", "drloc")} | {"other": RecipeError("not possible")}
    report = measure_methods(chosen, "data", 8, 3)
    found = report.to_dict()
    methods, text = found["methods"], "\n".join(report.lines())
    assert set(methods) == {"baseline", "kd", "kd, after its stop", "drloc"} and found["left_out"] == {
        "other": "not possible"
    }
    assert (
        methods["baseline"]["ratio"] == 1
        and methods["drloc"]["guidance_parameters"] > methods["kd"]["guidance_parameters"] == 0
    )
    assert methods["drloc"]["ratio"] > 1  # about 3
    assert [one["ratio"] for one in methods.values()] == sorted(one["ratio"] for one in methods.values())
    for name, one in methods.items():
        assert one["ratio_range"][0] <= one["ratio"] <= one["ratio_range"][1] and one["ms"] > 0 and f"  {name} " in text
    assert "other is left out: not possible" in text and "CPU ms per step" in text


def test_own_methods_are_measured_and_impossible_ones_are_left_out(tmp_path):
    own = write_own(tmp_path / "DIR")
    few = ["--set", "model.feature_layers=[blocks.1]", "--set", "teacher.model.feature_layers=[stages.0,stages.1]"]
    recipes = recipes_of_methods(options("--recipe", "deit_micro/digits/baseline", "--recipes-dir", str(own), *few))
    assert recipes["logit_mse"].guidance.method == "logit_mse"
    assert all("the teacher 2" in str(recipes[name]) for name in ("guided", "review-kd"))
    with pytest.raises(RecipeError, match="--set guidance"):
        recipes_of_methods(options("--recipe", "deit_micro/digits/kd", "--set", "guidance.method=kd"))
    with pytest.raises(RecipeError, match="is a teacher"):
        recipes_of_methods(options("--recipe", "resnet8/digits"))


def test_a_method_whose_process_is_killed_is_left_out(tmp_path):
    own = write_own(tmp_path / "DIR")
    file = own / "guidance" / "logit_mse.py"
    killed = "    def forward(self, student, teacher, samples):\n        import os\n        os.kill(os.getpid(), 9)\n"
    file.write_text(file.read_text().replace("    def forward(self, student, teacher, samples):\n", killed))
    words = [word for text in (*SETTINGS, "teacher.train.batch_size=16") for word in ("--set", text)]
    recipes = recipes_of_methods(options("--recipe", "deit_micro/digits/baseline", "--recipes-dir", str(own), *words))
    with pytest.raises(RuntimeError, match=r"no method could be measured: logit_mse: .*terminated"):
        measure_methods({name: recipes[name] for name in ("baseline", "logit_mse")}, "data", 8, 1)
    found = measure_methods({name: recipes[name] for name in ("baseline", "logit_mse", "kd")}, "data", 8, 1).to_dict()
    assert "kd" in found["methods"] and "terminated" in found["left_out"]["logit_mse"]


def test_an_unguided_step_of_a_guided_run_runs_no_teacher_and_leaves_the_projections():
    recipe = registry.compose("deit_micro/digits/guided", "quick", [*SETTINGS, "teacher.train.batch_size=16"])
    variant = Variant(recipe, random_dataset(recipe, 8))
    variant.step._teacher.register_forward_hook(lambda *_: pytest.fail("the teacher is run"))
    before = [parameter.clone() for parameter in variant.step.task.guidance.parameters()]
    variant.train_unguided(2)
    assert all(map(torch.equal, before, variant.step.task.guidance.parameters()))


def test_noise_is_not_larger_than_needed():
    recipe = registry.compose("deit_tiny/cifar100/guided", "paper", ["data.train_limit=600"])
    assert len(random_dataset(recipe, 300).train.labels) == 600
    assert len(random_dataset(recipe, 8).train.labels) == 4096
    few = registry.compose("deit_tiny/tiny_imagenet/guided", "paper", ["data.subset=20"])
    assert random_dataset(few, 8).train.labels.max() == 19  # as many classes as the network has


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_a_variant_outlives_the_command(number):
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--steps", "100000", "--compare", "plain"]
    start = [sys.executable, "-m", "bench", "speed", *words, "--set", "data.workers=1"]
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert any("turn 1" in line for line in process.stderr)
        variants = psutil.Process(process.pid).children(recursive=True)  # with a data worker
        assert len(variants) >= 3
        process.send_signal(number)
        process.wait(30)
    _, alive = psutil.wait_procs(variants, timeout=30)
    assert not alive
    assert process.returncode == (-number if number == signal.SIGKILL else 75)


def test_a_signal_that_raised_nothing_stops_the_measurement_of_methods():
    words = [word for text in (*SETTINGS, "teacher.train.batch_size=16") for word in ("--set", text)]
    recipes = recipes_of_methods(options("--recipe", "deit_micro/digits/kd", "--protocol", "quick", *words))
    chosen = {name: recipes[name] for name in ("baseline", "kd", "guided")}
    report = measure_methods(chosen, "data", 8, 1, asked=lambda: True)
    assert set(report.methods) == {"baseline", "kd", "kd, after its stop"}
    assert report.left_out == {"guided": "stopped before it was measured"}


def test_a_stopped_measurement_of_methods_shows_what_it_has():
    words = ["--recipe", "deit_micro/digits/kd", "--protocol", "quick", "--methods", "--steps", "1", "--synthetic", "8"]
    settings = [word for text in (*SETTINGS, "teacher.train.batch_size=16") for word in ("--set", text)]
    start, own = [sys.executable, "-m", "bench", "speed", *words, *settings], {"start_new_session": True, "text": True}
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **own) as process:
        assert any(", 2 of " in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 75
    for part in ("  kd ", "  baseline ", "kd, after its stop", "guided is left out: stopped before it was measured"):
        assert part in out


def test_what_cannot_be_measured_is_refused(tmp_path):
    words = ["-m", "bench", "speed", "--recipe", "deit_micro/digits/guided", "--protocol", "quick"]
    refused(command(*words, "--steps", "0"), "--steps", "allowed from 1")
    refused(command(*words, "--synthetic", "0"), "--synthetic")
    refused(command(*words, env={"WORLD_SIZE": "2"}), "bench speed measures one process")
    missing = ["-m", "bench", "speed", "--recipe", "deit_micro/folder:nowhere/baseline", "--protocol", "quick"]
    refused(command(*missing, "--data-dir", tmp_path), "nowhere")  # the variant's process says so


@pytest.mark.parametrize(
    ("settings", "device", "world", "mode"),
    [
        ([], "cpu", 1, "off"),
        ([], "cuda", 1, "graphs"),
        ([], "cuda", 2, "default"),
        (["train.micro_batch=8"], "cuda", 1, "default"),
        (["train.compile=off"], "cuda", 1, "off"),
        (["train.compile=default"], "cpu", 1, "default"),
        (["train.compile=graphs"], "cpu", 1, "default"),
    ],
)
def test_compilation_is_for_gpus_and_graphs_for_single_processes(settings, device, world, mode):
    recipe = registry.compose("deit_micro/digits/guided", "quick", settings)
    assert compile_mode(recipe, torch.device(device), world) == mode

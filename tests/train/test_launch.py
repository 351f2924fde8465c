"""Processes, device, precision and threads of a run."""

from __future__ import annotations

import json
import os

import pytest
import torch

from bench.config.schema import RecipeError, Train
from bench.cores import CORES
from bench.train import launch
from bench.train.launch import bf16_note, choose_precision, choose_threads, make_accelerator
from bench.train.runner import environment_of_teacher
from tests.helpers.process import TINY, command, refused

BASELINE = ["bench/run.py", "--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir"]


@pytest.mark.parametrize(
    ("asked", "launcher", "used"),
    [
        ("auto", "no", "fp32"),
        ("auto", "bf16", "bf16"),
        ("bf16", "no", "bf16"),
        ("bf16", "bf16", "bf16"),
        ("fp32", "no", "fp32"),
    ],
)
def test_the_launcher_replaces_only_auto(monkeypatch, asked, launcher, used):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert choose_precision(Train(precision=asked), "cpu").used == used


@pytest.mark.parametrize(
    ("asked", "launcher", "words"),
    [
        ("fp32", "bf16", "the recipe says fp32, accelerate launch says bf16"),
        ("bf16", "fp16", "the recipe says bf16, accelerate launch says fp16"),
        ("fp16", "no", "fp16 needs a GPU"),
        ("auto", "fp8", "allowed are no, bf16, fp16"),
    ],
)
def test_an_impossible_precision_is_refused(monkeypatch, asked, launcher, words):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    with pytest.raises(RecipeError, match=words):
        choose_precision(Train(precision=asked), "cpu")


@pytest.mark.parametrize(
    ("environment", "settings", "threads"),
    [
        ({}, {}, 8),
        ({"OMP_NUM_THREADS": "1"}, {}, 8),  # as accelerate launch sets it
        ({"OMP_NUM_THREADS": "3", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}, {}, 4),
        ({CORES: "3"}, {}, 3),  # as a sweep sets it
        ({CORES: "6", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "2"}, {}, 3),
        ({CORES: "6"}, {"threads": 1}, 1),
    ],
)
def test_threads_are_the_recipes_or_the_share_of_the_cores(monkeypatch, environment, settings, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for name in ("OMP_NUM_THREADS", CORES, "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose_threads(Train(**settings)) == threads


@pytest.mark.parametrize("omp", [1, 2])
def test_a_run_and_its_teacher_use_and_record_the_threads_of_the_recipe_whatever_the_shell_says(tmp_path, omp):
    # the teacher is trained by a child process
    words = ["bench/run.py", "--recipe", "deit_micro/digits/guided", "--protocol", "quick", "--results-dir", tmp_path]
    variables = {"OMP_NUM_THREADS": str(omp), "LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}
    done = command(*words, *TINY, "--set", f"train.threads={3 - omp}", env=variables, check=True)
    threads = [json.loads(path.read_text())["hardware"]["threads"] for path in tmp_path.rglob("*-seed0/record.json")]
    assert threads == [3 - omp] * 2 and done.stdout.count(f", {3 - omp} thread") == 2


def test_deterministic_is_passed_to_torch():
    try:
        make_accelerator(Train(device="cpu", precision="fp32"))
        assert not torch.are_deterministic_algorithms_enabled()
        make_accelerator(Train(device="cpu", precision="fp32", deterministic=True))
        assert torch.are_deterministic_algorithms_enabled() and os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
        assert not torch.empty(1000).isnan().all()  # torch would fill new memory with NaN
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_processor_that_is_faster_in_bf16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert bf16_note("fp32", "cpu") is None
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(launch, "MATRIX_SIZE", 64)
    monkeypatch.setattr(launch, "MIN_GAIN", 0)
    assert "train.precision=bf16" in bf16_note("fp32", "cpu")
    monkeypatch.setattr(launch, "MIN_GAIN", 1e9)
    assert bf16_note("fp32", "cpu") is bf16_note("bf16", "cpu") is bf16_note("fp32", "cuda") is None


def test_what_the_surroundings_say_about_compilation_and_tf32_does_not_count():
    code = """if True:
        import torch
        from bench.config.schema import Train
        from bench.train.launch import make_accelerator
        accelerator, _ = make_accelerator(Train(device="cpu", precision="fp32"))
        print(accelerator.state.dynamo_plugin.backend.value, torch.get_float32_matmul_precision())
    """
    variables = {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    assert command("-c", code, env=variables, check=True, real=True).stdout.split() == ["NO", "highest"]


def test_a_teacher_has_the_device_of_the_launcher_and_no_process_group():
    launched = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "bf16", "WORLD_SIZE": "2", "HOME": "/root"}
    assert environment_of_teacher(launched) == {"ACCELERATE_USE_CPU": "true", "HOME": "/root"}


def test_a_device_that_this_machine_lacks_is_refused(tmp_path):
    missing = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    refused(command(*BASELINE, tmp_path, "--set", f"train.device={missing}"), "train.device", missing)


def test_a_launch_that_starts_fewer_processes_than_asked_for_is_refused(tmp_path):
    # what `accelerate launch --cpu --num_processes 2` leaves: one process, and an address to meet at
    launched = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    refused(command(*BASELINE, tmp_path, env=launched), "started one", "torchrun")
    refused(command(*BASELINE, tmp_path, "--num-processes", "2"), "2 processes were asked for, 1 started")


def test_accelerate_launch_runs_a_recipe(tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = command(*launch, *BASELINE, tmp_path, *TINY[:4], check=True)
    assert "epoch 1/1" in done.stdout and len(list(tmp_path.rglob("deit_micro/digits/baseline/*/record.json"))) == 1

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest
from conftest import ROOT, command

from bench.recipes import Registry
from bench.schema import RecipeError
from bench.sweep.local import slots
from bench.sweep.plan import plan

SUITE = """
protocol: quick
models: [deit_micro]
datasets: [digits]
guidance: [baseline, guided]
seeds: [0, 1]
set:
  train: {epochs: 1}
  data: {train_limit: 256}
  guide: {train: {epochs: 1}, data: {train_limit: 256}}
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A folder of recipes with the quick suite shortened, and with one whose guide cannot be trained."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "suites").mkdir()
    (folder / "suites" / "short.yaml").write_text(SUITE)
    broken = SUITE.replace("guide: {train: {", "guide: {train: {lr: 1.0e+30, ")
    (folder / "suites" / "broken.yaml").write_text(broken)
    (folder / "suites" / "wild.yaml").write_text(SUITE.replace("train: {epochs: 1}", "train: {epochs: 1, lr: 1.0e+30}", 1))
    return folder


def test_a_plan_has_each_guide_once_and_first(recipes, tmp_path):
    registry = Registry(recipes)
    todo = plan(registry, registry.suite("short"), tmp_path, seeds=3)
    assert [job.name for job in todo.jobs if job.is_guide] == ["resnet8/digits seed 0"] and todo.jobs[0].is_guide
    assert len(todo.jobs) == 1 + 2 * 3 and not todo.recorded
    baseline = plan(registry, registry.suite("short"), tmp_path, filters=["baseline"])
    assert [job.name for job in baseline.jobs] == ["deit_micro/digits/baseline seed 0", "deit_micro/digits/baseline seed 1"]
    with pytest.raises(RecipeError, match="no cell"):
        plan(registry, registry.suite("short"), tmp_path, filters=["cifar"])


def test_the_papers_plan_needs_no_data_and_no_gpu():
    done = command("-X", "importtime", "-m", "bench", "sweep", "paper", "--dry-run", check=True)
    assert "bench/run.py --recipe deit_tiny/cifar100/guided --suite paper --seed 0" in done.stdout
    assert done.stdout.count("--guide-only") == 4 and " torch" not in done.stderr


def test_slots_fill_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("bench.sweep.local.gpus", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [slot.cores for slot in slots(20)] == [(i,) for i in range(8)]
    assert [slot.cores for slot in slots(2)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert slots(2)[0].environment()["OMP_NUM_THREADS"] == "4"
    monkeypatch.setattr("bench.sweep.local.gpus", lambda: ["0", "3"])
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in slots(20)] == ["0", "3"]
    assert [slot.cores for slot in slots(20)] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_a_suite_runs_once_and_goes_on_where_it_stood(recipes, tmp_path):
    words = ["-m", "bench", "sweep", "short", "--recipes-dir", recipes, "--results-dir", tmp_path]
    first = command(*words, check=True)
    assert "0 cells recorded, 4 to run" in first.stdout and "[5/5]" in first.stdout and "## Last epoch" in first.stdout
    assert (tmp_path / "short" / "curves" / "deit_micro-digits.png").is_file()
    began = time.perf_counter()
    again = command(*words, check=True)
    assert "all 4 cells are recorded" in again.stdout and "[" not in again.stdout
    assert time.perf_counter() - began < 15
    shutil.rmtree(next(tmp_path.glob("runs/deit_micro/digits/guided/*-seed1")))
    third = command(*words, check=True)
    assert "3 cells recorded, 1 to run" in third.stdout and "deit_micro/digits/guided seed 1" in third.stdout


def test_a_failing_guide_fails_its_cells_and_no_others(recipes, tmp_path):
    words = ["-m", "bench", "sweep", "broken", "--recipes-dir", recipes, "--results-dir", tmp_path, "--seeds", "1"]
    done = command(*words)
    assert done.returncode == 3
    assert "deit_micro/digits/baseline seed 0: " in done.stdout
    assert "resnet8/digits seed 0: FAILED: resnet8/digits seed 0 diverged" in done.stdout
    assert "its guide could not be trained" in done.stderr and "not run" in done.stdout


def test_a_cell_that_diverges_is_an_outcome_and_not_run_again(recipes, tmp_path):
    words = ["-m", "bench", "sweep", "wild", "--recipes-dir", recipes, "--results-dir", tmp_path, "--seeds", "1"]
    done = command(*words, check=True)
    assert "deit_micro/digits/baseline seed 0: diverged  (" in done.stdout
    assert "| deit_micro | digits    | diverged   |" in done.stdout
    assert "2 cells recorded, 0 to run" in command(*words, check=True).stdout


def test_stopping_a_sweep_leaves_no_orphans(recipes, tmp_path):
    import signal
    import sys

    words = [sys.executable, "-m", "bench", "sweep", "short", "--recipes-dir", str(recipes), "--results-dir", str(tmp_path)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.perf_counter() + 60
    while not (logs := list(tmp_path.glob("runs/**/log.txt"))) and time.perf_counter() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75 and logs
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in listed

"""Whole sweeps of a short suite, with real runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.runs.folder import runs_dir
from tests.helpers.process import ROOT, command
from tests.trials.sweep_kills import SUITE, numbers


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A folder of recipes with a short suite, a longer one, one whose teacher diverges and one whose student does."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "suites").mkdir()
    for name, old, new in (
        ("short", "", ""),
        ("long", "epochs: 12", "epochs: 500"),
        ("bad_teacher", "teacher: {train: {", "teacher: {train: {lr: 1.0e+30, "),
        ("diverging", "train: {epochs: 12", "train: {epochs: 12, lr: 1.0e+30"),
    ):
        (folder / "suites" / f"{name}.yaml").write_text(SUITE.replace(old, new, 1))
    return folder


def sweep_words(recipes, results, suite="short") -> list[str]:
    return ["-m", "bench", "sweep", suite, "--recipes-dir", str(recipes), "--results-dir", str(results)]


def until(condition, seconds: float = 120):
    """The value of `condition` as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def status(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def test_kills_and_slots_change_no_number(recipes, tmp_path):
    # two slots, not disturbed
    first = command(*sweep_words(recipes, tmp_path / "a"), "--runs-per-gpu", "2", check=True)
    assert first.stdout.startswith("suite short, 2 runs: ") and "[3/3]" in first.stdout
    assert (tmp_path / "a" / "short" / "records.jsonl").is_file()
    again = command(*sweep_words(recipes, tmp_path / "a"), check=True)
    assert "suite short: all 2 runs are finished" in again.stdout and "[" not in again.stdout

    # one slot: a run is killed, then the sweep; the run that it leaves goes on, and the next sweep attaches to it
    words = [sys.executable, *sweep_words(recipes, tmp_path / "b"), "--runs-per-gpu", "1"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
    folder = until(lambda: next(runs_dir(tmp_path / "b").glob("deit_micro/digits/*/*-seed0"), None))
    # in its second epoch, so that the first is in a checkpoint
    victim = until(lambda: (found := status(folder / "status.json")).get("epoch", 0) >= 2 and found)
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: re.search(r"^\d{4}-\d\d-\d\d .*resumes after epoch", (folder / "log.txt").read_text(), re.MULTILINE))
    process.kill()
    process.wait()
    assert "died: ended by SIGKILL (see " in (tmp_path / "log").read_text()
    plan = ["-m", "bench", "plan", "--suite", "short", *words[5:], "--json"]
    runs = json.loads(command(*plan, check=True).stdout)["runs"]
    assert next(run["state"] for run in runs if run["id"] in str(folder)) in ("running", "finished")
    command(*words[1:], check=True)
    assert "error: " not in (folder / "log.txt").read_text()
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")


def test_a_failing_teacher_fails_its_runs_and_no_others(recipes, tmp_path):
    done = command(*sweep_words(recipes, tmp_path, "bad_teacher"))
    assert done.returncode == 3
    assert re.search(r"deit_micro/digits/baseline seed 0: \d", done.stdout)
    assert "resnet8/digits seed 0: FAILED: resnet8/digits seed 0 diverged" in done.stdout
    assert "error: deit_micro/digits/guided seed 0: its teacher could not be trained" in done.stderr


def test_a_run_that_diverges_is_finished_and_not_run_again(recipes, tmp_path):
    words = [*sweep_words(recipes, tmp_path, "diverging"), "--filter", "baseline"]
    assert "deit_micro/digits/baseline seed 0: diverged  (" in command(*words, check=True).stdout
    assert "suite diverging, 1 run: 1 diverged\n" in command(*words, check=True).stdout


def test_a_stopped_sweep_leaves_no_processes_and_can_be_resumed(recipes, tmp_path):
    words = sweep_words(recipes, tmp_path, "long")
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: any(status(path).get("epoch", 0) >= 2 for path in tmp_path.rglob("status.json")))
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopping: the runs save their state" in stdout and "the same command resumes" in stderr
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    done = command(*words, "--dry-run", check=True)
    assert "resumable" in done.stdout and "/500" in done.stdout
    assert "python bench/run.py --recipe deit_micro/digits/baseline --seed 0 --suite long" in done.stdout


def test_a_run_of_other_code_is_run_again_with_stale_only(recipes, tmp_path):
    words = [*sweep_words(recipes, tmp_path), "--filter", "baseline", "--seeds", "2"]
    command(*words, check=True)
    paths = sorted(runs_dir(tmp_path).glob("deit_micro/digits/baseline/*/record.json"))
    before = [path.read_text() for path in paths]
    paths[1].write_text(before[1].replace('"models.vit": 1', '"models.vit": 0'))
    kept = command(*words, check=True).stdout
    assert "recorded with other code: 1 run; --stale runs them again" in kept and "[" not in kept
    assert "- 1 of 2 runs is recorded with other code (models.vit 0, now 1): " in (tmp_path / "short/table.md").read_text()
    again = command(*words, "--stale", check=True).stdout
    assert "[1/1] deit_micro/digits/baseline seed 1: " in again
    assert paths[0].read_text() == before[0]
    assert numbers(tmp_path)
    folder, old = paths[1].parent, paths[1].parent.with_name(f"{paths[1].parent.name}.old1")
    new = json.loads(paths[1].read_text())
    assert new["numerics"]["models.vit"] == 1 and new["weights"] == json.loads(before[1])["weights"]
    assert json.loads((old / "record.json").read_text())["numerics"]["models.vit"] == 0
    assert (folder / "log.txt").read_text().count("epoch 12/12") == 2 and not (old / "log.txt").exists()
    assert "recorded with other code" not in command(*words, "--stale", "--dry-run", check=True).stdout

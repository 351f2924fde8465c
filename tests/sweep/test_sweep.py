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
from conftest import ROOT, command
from sweep_kills import SUITE, numbers


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A folder of recipes with the quick suite shortened, and with one whose teacher cannot be trained."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "suites").mkdir()
    (folder / "suites" / "short.yaml").write_text(SUITE)
    broken = SUITE.replace("teacher: {train: {", "teacher: {train: {lr: 1.0e+30, ")
    (folder / "suites" / "broken.yaml").write_text(broken)
    (folder / "suites" / "long.yaml").write_text(SUITE.replace("epochs: 12", "epochs: 500", 1))
    (folder / "suites" / "wild.yaml").write_text(SUITE.replace("train: {epochs: 12", "train: {epochs: 12, lr: 1.0e+30", 1))
    return folder


def swept(recipes, results, suite="short") -> list[str]:
    return ["-m", "bench", "sweep", suite, "--recipes-dir", str(recipes), "--results-dir", str(results)]


def until(true, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def status(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def test_kills_and_slots_change_no_number(recipes, tmp_path):
    # two slots, left alone
    first = command(*swept(recipes, tmp_path / "a"), "--runs-per-gpu", "2", check=True)
    assert "0 cells recorded, 2 to run" in first.stdout and "[3/3]" in first.stdout and "last epoch in %" in first.stdout
    assert (tmp_path / "a" / "short" / "curves" / "deit_micro-digits.png").is_file()
    began = time.perf_counter()
    again = command(*swept(recipes, tmp_path / "a"), check=True)
    assert "all 2 cells are recorded" in again.stdout and "[" not in again.stdout
    assert time.perf_counter() - began < 15

    # one slot: the run is killed, then the sweep, and what it leaves behind goes on and is taken up by the next
    words = [sys.executable, *swept(recipes, tmp_path / "b"), "--runs-per-gpu", "1"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
    folder = until(lambda: next(tmp_path.glob("b/runs/deit_micro/digits/*/*-seed0"), None))
    # the epoch before is in a checkpoint by then
    victim = until(lambda: (told := status(folder / "status.json")).get("epoch", 0) >= 2 and told)
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: "goes on after epoch" in (folder / "log.txt").read_text())
    process.kill()
    process.wait()
    assert "died: ended by SIGKILL (see " in (tmp_path / "log").read_text()
    plan = ["-m", "bench", "plan", "--suite", "short", *words[5:]]
    state = next(c for c in json.loads(command(*plan, "--json", check=True).stdout)["cells"] if c["id"] in str(folder))
    assert state["state"] in ("running", "recorded")
    last = command(*words[1:], check=True)
    assert "2 to run" in last.stdout or "1 to run" in last.stdout
    assert "being run by another process" not in (folder / "log.txt").read_text()
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")


def test_a_failing_teacher_fails_its_cells_and_no_others(recipes, tmp_path):
    done = command(*swept(recipes, tmp_path, "broken"))
    assert done.returncode == 3
    assert "deit_micro/digits/baseline seed 0: " in done.stdout
    assert "resnet8/digits seed 0: FAILED: resnet8/digits seed 0 diverged" in done.stdout
    assert "its teacher could not be trained" in done.stderr and "not run" in done.stdout


def test_a_cell_that_diverges_is_an_outcome_and_not_run_again(recipes, tmp_path):
    done = command(*swept(recipes, tmp_path, "wild"), "--filter", "baseline", check=True)
    assert "deit_micro/digits/baseline seed 0: diverged  (" in done.stdout
    assert re.search(r"deit_micro +digits +diverged", done.stdout)
    again = command(*swept(recipes, tmp_path, "wild"), "--filter", "baseline", check=True)
    assert "1 cells recorded, 0 to run" in again.stdout


def test_stopping_a_sweep_leaves_no_orphans_and_what_it_ran_can_go_on(recipes, tmp_path):
    words = swept(recipes, tmp_path, "long")
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until(lambda: any(status(path).get("epoch", 0) >= 2 for path in tmp_path.glob("runs/**/status.json")))
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "stopping: the runs save their state" in told and "the same command goes on" in told
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in listed
    done = command(*words, "--dry-run", check=True)
    assert "resumable" in done.stdout and "/500" in done.stdout
    assert "python bench/run.py --recipe deit_micro/digits/baseline --seed 0 --suite long" in done.stdout

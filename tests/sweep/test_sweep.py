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
from tests.helpers.commands import call
from tests.helpers.process import ROOT, command
from tests.trials.sweep_kills import SUITE, numbers


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A folder of recipes with a short suite, a longer one, one whose teacher diverges, one without a dataset, …"""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "suites").mkdir()
    for name, old, new in (
        ("short", "", ""),
        ("long", "epochs: 12", "epochs: 500"),
        ("bad_teacher", "teacher: {train: {", "teacher: {train: {lr: 1.0e+30, "),
        ("one_missing", "[digits]", "[digits, 'folder:pets']"),
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


def test_kills_and_slots_change_no_number(cache, tmp_path, monkeypatch):
    # a cache of its own: another test may have trained the same teacher, which would then not be trained here
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    recipes = tmp_path / "recipes"
    (recipes / "suites").mkdir(parents=True)
    # long enough that a run is still there when it is killed, also on a slow machine
    (recipes / "suites" / "short.yaml").write_text(SUITE.replace("epochs: 12", "epochs: 60", 1))
    # two slots, not disturbed
    first = command(*sweep_words(recipes, tmp_path / "a"), "--runs-per-gpu", "2", check=True)
    assert first.stdout.startswith("suite short, 2 runs: ") and "[3/3]" in first.stdout
    assert (tmp_path / "a" / "local" / "short" / "table.md").is_file() and os.listdir(tmp_path / "a") == ["local"]
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
    plan = ["-m", "bench", "plan", "short", *words[5:], "--json"]
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


def test_runs_whose_data_are_here_do_not_wait_for_a_missing_dataset(recipes, tmp_path):
    words = [*sweep_words(recipes, tmp_path, "one_missing"), "--data-dir", str(tmp_path)]
    done = command(*words)
    assert done.returncode == 3 and re.search(r"4 runs: .*2 cannot run", done.stdout)
    assert re.search(r"\[./[23]\] deit_micro/digits/baseline seed 0: \d", done.stdout)
    assert "error: suite one_missing: not all runs can run: dataset 'folder:pets': not in" in done.stderr


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
    table = (tmp_path / "local/short/table.md").read_text()
    assert "- 1 of 2 runs is left out, recorded with other code (models.vit 0, the others have 1)." in table
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


SHORT = ["train.epochs=1", "data.train_limit=128", "teacher.train.epochs=1", "teacher.data.train_limit=128"]
SHORT = [word for text in SHORT for word in ("--set", text)]


def test_recipes_are_compared_without_a_file(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    ids = ["deit_micro/digits/guided", "deit_micro/digits/baseline"]
    options = ["--protocol", "quick", *SHORT, "--results-dir", str(tmp_path / "results")]
    first = command("-m", "bench", "compare", *ids, *options, "--seeds", "1", check=True).stdout
    assert first.startswith("these recipes, 2 runs: ") and "[3/3]" in first and "over the baseline" in first
    assert re.search(r"deit_micro +digits +guided +[\d.]+ +[+-][\d.]+ +too few seeds", first)
    assert "Settings of this suite: train.epochs=1, data.train_limit=128" in first
    (folder,) = (tmp_path / "results" / "local").glob("compare-deit_micro-digits-*")
    files = {f"table.{kind}" for kind in ("md", "csv", "tex", "json")} | {"index.html", "overview.pdf", "curves"}
    assert files <= {path.name for path in folder.iterdir()}
    content = json.loads((folder / "table.json").read_text())
    assert [(cell["method"], cell["status"]) for cell in content["cells"]] == [
        ("baseline", "complete"),
        ("guided", "complete"),
    ]
    page = re.sub("</?span>", "", (folder / "index.html").read_text())
    assert "python -m bench compare deit_micro/digits/guided deit_micro/digits/baseline --protocol quick" in page
    links = re.findall(r"href=\"\./([^\"]+)", page)
    assert "table.csv" in links and all((folder / link).is_file() for link in links)

    def bench(verb, *words):
        return call(capsys, "bench", verb, *words, *options)

    again = bench("compare", *ids, "--seeds", "1", "--reference", "guided")[1]
    assert "2 runs: 2 finished" in again and "over guided" in again
    drawn = bench("report", *ids, "--reference", "guided")[1]
    assert "over guided" in drawn  # of the same folder, without training
    plan = bench("plan", *ids, "--seeds", "1", "--reference", "guided")[1]
    assert "2 runs: 2 finished" in plan and "in no suite" not in plan  # no suite was asked about
    suite = call(capsys, "bench", "plan", "quick", "--results-dir", tmp_path / "results")[1]
    assert "2 finished runs here are in no suite" in suite
    code, alone, _ = bench("report", ids[0])
    assert code == 0 and "there is nothing to compare with" in alone and "guided" in alone
    for words, sentence in (
        (["resnet8/digits"], "resnet8/digits is a teacher: only students are compared"),
        (["--reference", "kd"], "--reference kd: none of these recipes has this method; they have guided, baseline"),
        (["--suite", "quick"], "--protocol quick: suite quick has its own"),
    ):
        code, _, errors = bench("compare", *ids, *words)
        assert code == 2 and sentence in errors


def test_a_baseline_in_several_variants_is_trained_once(recipes, cache, tmp_path):
    text = SUITE + "vary: {teacher.seed: [0, 1]}\n"
    (recipes / "suites" / "varied.yaml").write_text(text.replace("epochs: 12", "epochs: 1"))
    done = command(*sweep_words(recipes, tmp_path, "varied"), check=True, env={"LOCALITY_BENCH_CACHE": str(cache)})
    assert done.stdout.startswith("suite varied, 3 runs: ") and "[5/5]" in done.stdout
    assert re.search(r"deit_micro/digits/guided teacher.seed=1 seed 0: [\d.]+ %", done.stdout)
    cells = json.loads((tmp_path / "local" / "varied" / "table.json").read_text())["cells"]
    assert [(cell["variant"], cell["method"], cell["seeds"]) for cell in cells] == [
        (f"teacher.seed={seed}", method, 1) for seed in (0, 1) for method in ("baseline", "guided")
    ]
    assert cells[0]["last_mean"] == cells[2]["last_mean"] and all(cells[i]["gain_seeds"] == 1 for i in (1, 3))

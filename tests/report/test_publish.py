"""`publish` and `merge`: what joins the published results, what is a reproduction, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.config import numerics
from bench.config.registry import Registry
from bench.data.store import current_fingerprint
from bench.report import output
from bench.report.records import REPRODUCTIONS, read_runs, records_path, write_runs
from bench.runs import record
from bench.runs.record import Code, DatasetSummary, Hardware
from tests.helpers.own import write_own
from tests.helpers.process import ROOT
from tests.helpers.synthetic import finish, make_run, quick_run, three_seeds

LAPTOP = {"hardware": Hardware("cpu", "Laptop", 1), "libraries": {"python": "3.12.0", "torch": "9"}}
DIRTY, UNKNOWN = Code("0.0.0", "f" * 40, True), Code("0.0.0", None, None)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Committed runs of three seeds. Figures take no time."""
    monkeypatch.setattr(output, "write_figures", lambda *_, **__: [])
    folder = tmp_path / "results"
    write_runs(three_seeds(), folder, "quick")
    return folder


def bench(*words: object) -> int:
    return main([str(word) for word in words])


def of_others(folder: Path, *runs, suite: str = "quick") -> Path:
    """The records.jsonl of somebody else's results."""
    write_runs(runs, folder / "their results", suite)
    return records_path(folder / "their results", suite)


def accuracies(runs) -> dict[tuple[str, int], float]:
    return {(run.record.id.rpartition("/")[2], run.record.seed): run.record.last_accuracy for run in runs}


def test_publish_takes_over_new_seeds_and_keeps_committed_ones(results, capsys):
    before = accuracies(read_runs(results, "quick"))
    finish(results, quick_run("guided", 3, (90.0, 98.0)))
    finish(results, quick_run("guided", 0, (90.0, 98.0), **LAPTOP))
    finish(results, quick_run("guided", 1, (90.0, 98.0)))  # another result of an equal machine
    assert bench("publish", "quick", "--results-dir", results) == 0
    said = capsys.readouterr().out
    assert "suite quick: 1 new run, 1 new reproduction" in said
    assert "guided seed 1: another run" in said and "98.00 %: the published one stays (publish --replace" in said
    assert accuracies(read_runs(results, "quick")) == {**before, ("guided", 3): 98.0}
    assert accuracies(read_runs(results, "quick", REPRODUCTIONS)) == {("guided", 0): 98.0}
    table = (results / "quick" / "table.md").read_text()
    (row,) = [
        line
        for line in table.partition("\n1 x Laptop, 1 thread, bf16 with python 3.12.0")[2].splitlines()
        if "98.00" in line
    ]
    assert [part.strip() for part in row.split("|")[4:-1]] == ["1", "98.00", "90.00", "+8.00"]
    assert "The same recipes on other machines" in (page := (results / "index.html").read_text()) and "+8.00" in page
    files = {path: path.read_bytes() for path in results.rglob("*.*")}
    assert bench("publish", "quick", "--results-dir", results) == 0
    assert files == {path: path.read_bytes() for path in results.rglob("*.*")}


def test_publish_takes_runs_that_another_suite_has(results, capsys):
    """`sweep --skip-published` leaves them out."""
    registry = Registry()
    suite = registry.suite("methods-small")
    recipes = {name: registry.compose(f"deit_micro/digits/{name}", suite=suite) for name in ("baseline", "guided", "kd")}
    write_runs([make_run(suite.name, recipe, [50.0]) for recipe in recipes.values()], results, suite.name)
    own = recipes["guided"].with_seed(1)
    finish(results, make_run("", own, [60.0]), own)
    assert bench("publish", "teachers-small", "--results-dir", results) == 0
    assert "suite teachers-small: 3 new runs" in capsys.readouterr().out
    found = accuracies(read_runs(results, "teachers-small"))
    assert found == {("baseline", 0): 50.0, ("guided", 0): 50.0, ("guided", 1): 60.0}
    # the images of a dataset have changed since another suite was published
    shutil.rmtree(results / "teachers-small")
    finish(results, make_run("", own, [60.0], dataset=DatasetSummary("f" * 64, 10, 1437, 360, None, "test")), own)
    assert bench("publish", "teachers-small", "--results-dir", results) == 0
    assert accuracies(read_runs(results, "teachers-small")) == {("baseline", 0): 50.0, ("guided", 1): 60.0}


def test_replace_lets_this_machine_count(results, capsys):
    finish(results, quick_run("guided", 0, (90.0, 98.0), **LAPTOP))
    finish(results, quick_run("guided", 1, (90.0, 97.0)))
    assert bench("publish", "--replace", "--results-dir", results, "quick") == 0  # words may follow the options
    assert "suite quick: 0 new runs, 0 new reproductions, 2 runs replaced\n" in capsys.readouterr().out
    runs = accuracies(read_runs(results, "quick"))
    assert (runs["guided", 0], runs["guided", 1], runs["guided", 2]) == (98.0, 97.0, 92.0)
    assert accuracies(read_runs(results, "quick", REPRODUCTIONS)) == {("guided", 0): 90.0}


def test_a_run_of_other_code_is_refused_and_a_committed_one_gives_way(tmp_path, results, capsys):
    old = {**quick_run("guided", 0).record.numerics, "guidance.locality": 0}
    write_runs([quick_run("guided", 0, (80.0, 70.0), numerics=old)], results, "quick")
    finish(results, quick_run("guided", 0))
    assert bench("publish", "quick", "--results-dir", results) == 0
    assert accuracies(read_runs(results, "quick")) == {("guided", 0): 90.0}
    assert not read_runs(results, "quick", REPRODUCTIONS)  # a number of other code reproduces nothing
    finish(results, quick_run("guided", 1, numerics=old))
    capsys.readouterr()
    assert bench("publish", "quick", "--results-dir", results) == 2
    said = capsys.readouterr().err
    assert "guided seed 1: it was recorded with other code (guidance.locality 0, now 1): run it again: python -m" in said
    assert f" -m bench sweep quick --stale --results-dir {results} (with your --data-dir" in said and "--force" not in said
    assert bench("merge", of_others(tmp_path, quick_run("guided", 2, numerics=old)), "--results-dir", results) == 2
    assert "guided seed 2: it was recorded with other code" in capsys.readouterr().err
    write_runs([quick_run("guided", 0, (80.0, 70.0), numerics=old)], results, "quick")
    file = of_others(tmp_path, quick_run("guided", 0, **LAPTOP))
    assert bench("merge", file, file, "--results-dir", results) == 0
    assert "suite quick: 0 new runs, 0 new reproductions, 1 run replaced\n" in capsys.readouterr().out
    assert accuracies(read_runs(results, "quick")) == {("guided", 0): 90.0}


NEW, OLD = ({**quick_run("guided", 0).record.numerics, "guidance.mine": f"sha256:{digit * 64}"} for digit in "1e")


@pytest.mark.parametrize("changes", [{}, LAPTOP], ids=["this machine", "another machine"])
@pytest.mark.parametrize("seed", [0, 7], ids=["a published seed", "a new seed"])
def test_runs_of_two_codes_never_stand_in_one_row(tmp_path, results, monkeypatch, seed, changes, capsys):
    """The file of a method is not here: the digests in the records alone say that its code was another."""
    monkeypatch.setattr(record, "numerics_versions", lambda _: {**NEW, "guidance.mine": numerics.NOT_HERE})
    published = three_seeds(numerics=NEW)[3:]
    write_runs(published, results, "quick")
    words = "guided seed {}: recorded with other code: guidance.mine sha256:{}, {} have sha256:{}"
    other = quick_run("guided", seed, (80.0, 95.0), numerics=OLD, **changes)
    assert bench("merge", of_others(tmp_path, other), "--results-dir", results) == 2
    said = words.format(seed, "e" * 8, "the published runs", "1" * 8)
    assert said in capsys.readouterr().err
    finish(results, other)
    assert bench("publish", "quick", "--results-dir", results) == 2 and said in capsys.readouterr().err
    assert bench("publish", "quick", "--replace", "--results-dir", results) == 2  # two of three would stay
    assert words.format(0 if seed else 1, "1" * 8, "other runs", "e" * 8) in capsys.readouterr().err
    assert read_runs(results, "quick") == published
    for number in range(3):
        finish(results, quick_run("guided", number, (80.0, 95.0), numerics=OLD))
    assert bench("publish", "quick", "--replace", "--results-dir", results) == 0
    assert {run.record.numerics["guidance.mine"][7] for run in read_runs(results, "quick")} == {"e"}
    write_runs([*published[1:], other], results, "quick")
    assert (
        bench("report", "--check", "--results-dir", results) == 1 and "recorded with other code" in capsys.readouterr().err
    )


def test_publish_names_the_missing_runs_and_refuses_changed_code(results, capsys):
    write_runs([], results, "quick")
    folder = finish(results, quick_run("guided", 0))
    assert bench("publish", "quick", "--results-dir", results) == 0
    said = capsys.readouterr().out
    assert (
        "suite quick lacks 5 runs:\n  deit_micro/digits/baseline seeds 0, 1, 2\n  deit_micro/digits/guided seeds 1, 2"
        in said
    )
    finish(results, quick_run("guided", 1, code=DIRTY))
    committed = records_path(results, "quick").read_bytes()
    assert bench("publish", "quick", "--results-dir", results) == 2
    said = capsys.readouterr().err
    assert "record deit_micro/digits/guided seed 1: it used code that differs from its commit" in said
    assert f"/guided --suite quick --seed 1 --results-dir {results} --force (with your --data-dir" in said
    assert records_path(results, "quick").read_bytes() == committed
    shutil.rmtree(folder.path.parent)
    assert bench("publish", "paper", "--results-dir", results) == 2
    assert "no run below" in capsys.readouterr().err


def test_a_run_that_could_not_be_read_again_is_not_published(results, capsys):
    folder = finish(results, quick_run("guided", 3))
    folder.write_record(dataclasses.replace(quick_run("guided", 3).record, epochs=5))
    committed = records_path(results, "quick").read_bytes()
    assert bench("publish", "quick", "--results-dir", results) == 2
    assert "guided seed 3: its history.epoch is not a list of 5 values" in capsys.readouterr().err
    assert records_path(results, "quick").read_bytes() == committed


def test_a_run_of_the_null_gpu_is_no_result(results, capsys):
    run = quick_run("guided", 3, hardware=Hardware("null GPU", "processor", 1))
    committed = records_path(results, "quick").read_bytes()
    finish(results, run)
    for words in (["publish", "quick"], ["merge", of_others(results.parent, run)], ["report", "quick"]):
        assert bench(*words, "--results-dir", results) == 2
        assert "guided seed 3: it ran on the null GPU of the tests, which computes nothing" in capsys.readouterr().err
    assert records_path(results, "quick").read_bytes() == committed and not (results / "local" / "quick").exists()


def test_committed_runs_of_no_recipe_of_a_changed_suite_are_named_and_kept(results, capsys):
    """A suite that is nobody's file here, with one variant, which the runs are not of and which cannot be trained."""
    runs = [dataclasses.replace(run, suite="theirs") for run in three_seeds()]
    write_runs(runs, results, "theirs")
    quick = (ROOT / "recipes" / "suites" / "quick.yaml").read_text()
    (results / "theirs" / "suite.yaml").write_text(f"{quick}vary: {{data.train_limit: [1]}}\n")
    assert bench("publish", "--results-dir", results) == 2
    words = f"its hash {runs[0].record.hash[:8]} is not that of a recipe of suite theirs"
    assert words in capsys.readouterr().err
    assert bench("publish", "theirs", "--results-dir", results) == 2
    assert "suite theirs: no run is of its recipes as they are now" in capsys.readouterr().err
    assert read_runs(results, "theirs") == runs


def test_two_machines_become_one_table(tmp_path, results, capsys):
    """Seeds of both count; where both have a seed, one counts and the other's difference is listed."""
    laptop = [quick_run("guided", 0, (90.0, 97.0), **LAPTOP), quick_run("guided", 3, (90.0, 96.0), **LAPTOP)]
    laptop.append(quick_run("baseline", 3, (80.0, 85.0), **LAPTOP))
    file = of_others(tmp_path, *laptop)
    assert bench("merge", file, "--results-dir", results) == 0
    assert "suite quick: 2 new runs, 1 new reproduction" in capsys.readouterr().out
    cells = json.loads((results / "quick" / "table.json").read_text())["cells"]
    assert [cell["seeds"] for cell in cells] == [4, 4]
    assert cells[1]["last_mean"] == (90 + 94 + 92 + 96) / 4  # the 97 of the laptop's seed 0 is in no mean
    assert "| 97.00        | 90.00       | +7.00 " in (results / "quick" / "table.md").read_text()
    files = {path: path.read_bytes() for path in results.rglob("*.*")}
    assert bench("merge", file, "--results-dir", results) == 0
    assert files == {path: path.read_bytes() for path in results.rglob("*.*")}
    assert bench("report", "--check", "--results-dir", results) == 1  # no figures were drawn, and nothing else is wrong
    assert {line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()} == {
        "not drawn from these records by this code"
    }


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (quick_run("guided", 5, hash="f" * 64), "its hash ffffffff is not that of its recipe"),  # as other `mismatches`
        (quick_run("guided", 5, code=DIRTY), "its author commits the changes"),
        (quick_run("guided", 0, (90.0, 99.0)), "has other results: 90.00 % against 99.00 %"),
    ],
)
def test_merge_refuses_what_is_not_a_result_of_this_code(tmp_path, results, run, words, capsys):
    committed = records_path(results, "quick").read_bytes()
    assert bench("merge", of_others(tmp_path, quick_run("guided", 7), run), "--results-dir", results) == 2
    assert words in capsys.readouterr().err and records_path(results, "quick").read_bytes() == committed


def test_an_unknown_suite_comes_with_its_definition(tmp_path, results, capsys):
    run = dataclasses.replace(quick_run("guided", 0), suite="theirs")
    file = of_others(tmp_path, run, suite="theirs")
    assert bench("merge", file, "--results-dir", results) == 2 and "unknown suite 'theirs'" in capsys.readouterr().err
    shutil.copy(ROOT / "recipes" / "suites" / "quick.yaml", file.with_name("suite.yaml"))
    assert bench("merge", file, "--results-dir", results) == 0
    assert read_runs(results, "theirs") == [run] and (results / "theirs" / "suite.yaml").is_file()
    moved = shutil.copy(file, tmp_path / "sent.jsonl")
    assert bench("merge", moved, "--suite", "theirs", "--results-dir", results) == 0
    none, empty = tmp_path / "none" / "records.jsonl", of_others(tmp_path)
    for path, words in ((none, "no such file"), (tmp_path, "no such file: name a records"), (empty, "has no records")):
        assert bench("merge", path, "--results-dir", results) == 2 and words in capsys.readouterr().err


def test_a_fresh_clone_stays_clean_after_a_sweep(tmp_path, cache):
    """A copy of this working tree in which all runs of suite quick are finished: a sweep changes no tracked file."""
    clone = tmp_path / "clone"
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)

    def git(*words: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        return subprocess.run(["git", *own, *words], cwd=clone, capture_output=True, text=True, check=True).stdout

    git("init")
    git("add", "--all")
    git("commit", "--quiet", "-m", "a")
    digits = Registry().compose("deit_micro/digits/guided", "quick").data
    for run in three_seeds(hardware=Hardware("cpu", "Laptop", 1)):
        dataset = dataclasses.replace(run.record.dataset, fingerprint=current_fingerprint(digits, "data"))
        finish(clone / "results", dataclasses.replace(run, record=dataclasses.replace(run.record, dataset=dataset)))
    environment = {**os.environ, "PYTHONPATH": str(clone), "LOCALITY_BENCH_CACHE": str(cache)}
    words = [sys.executable, "-m", "bench", "sweep", "quick"]
    done = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "accuracies beside the published ones of the same recipe and seed:" in done.stdout
    assert "other hardware, threads, libraries or precision" in done.stdout and "Laptop" in done.stdout
    assert (clone / "results" / "local" / "quick" / "table.md").is_file() and git("status", "--porcelain") == ""
    shutil.rmtree(clone / "results" / "local")
    words = [sys.executable, "-m", "bench", "sweep", "quick", "--skip-published"]
    done = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("suite quick, 6 runs: 6 published\n") and git("status", "--porcelain") == ""


def test_results_of_a_method_of_ones_own_are_drawn_without_its_file(tmp_path, results, capsys):
    own = write_own(tmp_path / "DIR")
    (own / "suites").mkdir()
    suite = "protocol: quick\nmodels: [my_vit]\ndatasets: [digits]\nguidance: [baseline, logit_mse]\nseeds: [0]\n"
    (own / "suites" / "mine.yaml").write_text(suite)
    for _, recipe in Registry(own).suite_recipes(Registry(own).suite("mine")):
        finish(results, make_run("mine", recipe, [50.0, 60.0]), recipe)
    words = ["publish", "mine", "--results-dir", results, "--recipes-dir", own]
    assert bench(*words) == 0 and len(read_runs(results, "mine")) == 2
    assert bench("report", *words[1:]) == 0 and "not compared" not in capsys.readouterr().out
    method = own / "guidance" / "logit_mse.py"
    source = method.read_text()
    method.write_text(source + "\n")
    assert bench(*words) == 2 and "it was recorded with other code" in (said := capsys.readouterr().err)
    assert f"sweep mine --stale --recipes-dir {own} --results-dir {results}" in said
    shutil.rmtree(own)
    assert bench("report", "mine", "--results-dir", results) == 0
    remark = "The file of guidance.logit_mse is not here, so its code was not compared."
    assert remark in capsys.readouterr().out and remark not in (results / "README.md").read_text()
    assert bench("publish", "--results-dir", results) == 0
    assert "other code" not in (results / "README.md").read_text() and "`logit_mse`" in (results / "README.md").read_text()


def test_a_run_whose_code_is_not_known_is_refused(results, tmp_path, capsys):
    before = records_path(results, "quick").read_bytes()
    run = quick_run("guided", 7, code=UNKNOWN)
    assert bench("merge", of_others(tmp_path, run), "--suite", "quick", "--results-dir", results) == 2
    finish(results, run)
    assert bench("publish", "quick", "--results-dir", results) == 2
    said = capsys.readouterr().err
    assert said.count("guided seed 7: its code is not known, since it did not run in a git checkout") == 2
    assert records_path(results, "quick").read_bytes() == before


def test_nothing_is_written_where_another_suite_is_damaged(results, capsys):
    before = records_path(results, "quick").read_bytes()
    finish(results, quick_run("guided", 7))
    records_path(results, "paper").parent.mkdir()
    records_path(results, "paper").write_text("{")
    assert bench("publish", "quick", "--results-dir", results) == 2
    assert "paper/records.jsonl line 1: not JSON" in capsys.readouterr().err
    assert records_path(results, "quick").read_bytes() == before


def test_a_folder_in_the_place_of_a_table_is_named(results, capsys):
    (results / "quick" / "table.md").mkdir()
    assert bench("publish", "--results-dir", results) == 2
    assert f"error: {results}/quick/table.md cannot be written: Is a directory" in capsys.readouterr().err

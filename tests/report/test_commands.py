from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.__main__ import main
from bench.cli import suite_of_ids
from bench.config.registry import Registry
from bench.report import committed
from bench.report.committed import check_committed, write_committed
from bench.report.local import write_local, write_selection
from bench.report.records import read_runs, records_path, write_runs
from bench.runs.record import DatasetSummary
from tests.helpers.synthetic import finish, make_run, quick_run, three_seeds

ROOT = Path(__file__).parents[2]
registry = Registry()
MINE = """\
protocol: quick
models: [deit_wee]
datasets: [digits]
guidance: [baseline, guided]
seeds: [0, 1]
vary: {teacher.seed: [0, 1]}
"""
TEXTS = ["quick/table.md", "quick/table.csv", "quick/table.tex", "quick/table.json", "index.html", "README.md"]


@pytest.fixture
def results(tmp_path):
    """A folder with committed runs."""
    folder = tmp_path / "results"
    write_runs(three_seeds(), folder, "quick")
    return folder


@pytest.fixture
def local(tmp_path):
    """A folder with the same runs as those of this machine."""
    folder = tmp_path / "results"
    for run in three_seeds():
        finish(folder, run)
    return folder


def test_check_accepts_what_was_written_and_names_what_was_changed(results, capsys):
    (results.parent / "README.md").write_text("<!-- table of quick: python -m bench publish --><!-- end of tables -->")
    write_committed(results, ["quick"])
    assert check_committed(results, ["quick"]) == []
    assert "92.00 ± 2.00" in (results.parent / "README.md").read_text()
    for name in [*TEXTS, "../README.md"]:
        content = (results / name).read_bytes()
        (results / name).write_bytes(
            content.replace(b"<!-- end of", b"93.00 <!-- end of") if b"<!-- end of" in content else b""
        )
        (problem,) = check_committed(results, ["quick"])
        assert Path(name).name in problem and "differs from what the records give" in problem
        (results / name).write_bytes(content)
    figure = next((results / "quick").rglob("*.png"))
    figure.write_bytes(b"")
    assert main(["report", "--check", "--results-dir", str(results)]) == 1
    assert figure.name in capsys.readouterr().err


def test_check_compares_the_definition_with_the_suites_file(results):
    write_committed(results, ["quick"])
    path = results / "quick" / "suite.yaml"
    definition = yaml.safe_load(path.read_text())
    assert definition == yaml.safe_load((ROOT / "recipes" / "suites" / "quick.yaml").read_text())
    path.write_text(yaml.safe_dump({**definition, "seeds": [0, 1]}))
    assert "suite.yaml: differs from recipes/suites/quick.yaml" in check_committed(results, ["quick"])[0]
    path.unlink()
    assert "suite.yaml: missing: `python -m bench publish quick`" in check_committed(results, ["quick"])[0]


def test_changed_records_make_every_file_differ(results):
    write_committed(results, ["quick"])
    path = records_path(results, "quick")
    lines = path.read_text()
    text = lines.replace('"last_accuracy": 90.0', '"last_accuracy": 91.0').replace(" 90.0]", " 91.0]")
    path.write_text(text)
    problems = "\n".join(check_committed(results, ["quick"]))
    for name in [*TEXTS, ".png", ".svg"]:
        assert name in problems
    path.write_text(text.replace('"last_accuracy": 91.0', '"last_accuracy": 92.0'))
    (problem,) = check_committed(results, ["quick"])
    assert "is not that of its history" in problem
    path.write_text(lines + lines.splitlines()[0] + "\n")
    assert "seed 0: is there twice" in check_committed(results, ["quick"])[0]
    path.unlink()
    assert "missing or empty" in check_committed(results, ["quick"])[0]


def test_other_versions_of_libraries_are_named(results, capsys, monkeypatch, tmp_path):
    write_committed(results, ["quick"])
    (tmp_path / "constraints.txt").write_text("Jinja2==0.1\npandas==0.2\n")
    monkeypatch.setattr(committed, "CONSTRAINTS", tmp_path / "constraints.txt")
    assert check_committed(results, ["quick"]) == [] and capsys.readouterr().out == ""
    (results / "quick" / "table.md").write_text("formatted in another way")
    assert check_committed(results, ["quick"]) == []
    words = capsys.readouterr().out
    assert "table.md: not compared" in words and "tested with 0.1" in words and "tested with 0.2" in words


def test_the_files_for_programs_hold_the_same_numbers(local):
    write_local(registry, local)
    folder = local / "local" / "quick"
    content = json.loads((folder / "table.json").read_text())
    guided = content["cells"][1]
    assert (guided["last_mean"], guided["gain_mean"], guided["verdict"]) == (92.0, 10.0, "better")
    assert [pair["gain"] for pair in content["pairs"]] == [0.0, 0.0, 0.0, 10.0, 12.0, 8.0]
    cells = pd.read_csv(folder / "table.csv")
    assert cells["gain_mean"].tolist()[1:] == [10.0] and cells["method"].tolist() == ["baseline", "guided"]


def test_a_report_of_this_machine_writes_below_local_alone_and_needs_no_torch(local):
    other = registry.compose("deit_micro/digits/guided", "quick", ["train.epochs=2"])
    finish(local, make_run("", other, [50.0, 60.0]), other)
    command = [sys.executable, "-X", "importtime", "-m", "bench", "report", "--results-dir", str(local)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "92.00 ± 2.00" in done.stdout and " torch" not in done.stderr
    assert "1 finished run here is in no suite: `python -m bench compare ID…`" in done.stdout
    assert [path.name for path in local.iterdir()] == ["local"]
    assert (local / "local" / "index.html").is_file() and len(read_runs(local / "local", "quick")) == 6


def test_a_report_of_a_suite_leaves_others_alone_but_for_those_that_were_drawn_before(local):
    suite = registry.suite("methods-small")
    recipe = registry.compose("deit_micro/digits/guided", suite=suite)
    finish(local, make_run("", recipe, [50.0]), recipe)
    drawn = [[report.suite.name for report in write_local(registry, local, ["quick"])]]
    assert [path.name for path in (local / "local").iterdir() if path.is_dir() and path.name != "runs"] == ["quick"]
    drawn += [[report.suite.name for report in write_local(registry, local, names)] for names in (["methods-small"], None)]
    assert drawn == [["quick"], ["methods-small"], ["methods-small", "quick", "teacher-bn-small", "teachers-small"]]
    write_local(registry, local, ["methods-small"])
    assert 'data-suite="quick"' in (local / "local" / "index.html").read_text()


def test_the_suite_with_the_most_students_and_datasets_comes_first():
    names = ["training-size", "quick", "methods-small-weights", "small", "teachers-small", "methods-photos", "paper"]
    ordered = ["paper", "small", "methods-photos", "training-size", "quick", "teachers-small", "methods-small-weights"]
    assert sorted(names, key=lambda name: registry.suite(name).reading_order) == ordered


def test_runs_of_this_machine_are_united_with_published_ones(results):
    finish(results, quick_run("guided", 3, (90.0, 98.0)))
    finish(results, quick_run("guided", 0, (90.0, 98.0), libraries={"torch": "9"}))
    (alone,) = write_local(registry, results)
    (together,) = write_local(registry, results, with_published=True)
    assert alone.cells["seeds"].tolist() == [0, 2] and together.cells["seeds"].tolist() == [3, 4]
    assert together.cells["last_mean"].tolist()[1] == (98 + 94 + 92 + 98) / 4  # seed 0 counts once: this machine's
    notes = " ".join(together.remarks)
    assert "5 of 7 runs are published ones." in notes
    assert "1 run was repeated on other machines; the largest difference is 8.00 points." in notes
    (row,) = together.reproductions.to_dict("records")
    assert row["where"].startswith("1 x Synthetic GPU, bf16 with ") and (row["there"], row["here"]) == (90.0, 98.0)


def test_published_runs_of_other_images_and_a_damaged_earlier_report_do_not_stop_a_report(results):
    other = DatasetSummary("f" * 64, 10, 1437, 360, None, "test")
    finish(results, quick_run("guided", 3, (90.0, 98.0), dataset=other))
    (results / "local" / "quick").mkdir()
    records_path(results / "local", "quick").write_text("of an earlier version\n")
    (report,) = write_local(registry, results, with_published=True)
    assert report.cells["seeds"].tolist() == [3, 1]  # of guided, this machine's alone
    assert [run.record.seed for run in read_runs(results / "local", "quick")] == [3]


def test_the_published_runs_of_other_suites_are_drawn_with_this_machines(tmp_path):
    """`sweep --skip-published` leaves them out, so the suite would lack its baseline."""
    suite = registry.suite("methods-small")
    recipes = {name: registry.compose(f"deit_micro/digits/{name}", suite=suite) for name in ("baseline", "guided", "kd")}
    write_runs([make_run(suite.name, recipe, [50.0]) for recipe in recipes.values()], tmp_path, suite.name)
    own = recipes["guided"].with_seed(1)
    finish(tmp_path, make_run("", own, [60.0]), own)
    (report,) = write_local(registry, tmp_path, ["teachers-small"], with_published=True)
    assert {*report.runs[["method", "seed"]].itertuples(index=False)} == {("baseline", 0), ("guided", 0), ("guided", 1)}
    assert any("2 of 3 runs are published ones." in remark for remark in report.remarks)
    alone = suite_of_ids([("deit_micro", "digits", name) for name in ("baseline", "kd")], suite)
    (report,), _ = write_selection(registry, [alone], tmp_path, with_published=True)
    assert sorted(report.runs["method"]) == ["baseline", "kd"]
    (tmp_path / suite.name / "records.jsonl").write_text("damaged")
    (report,) = write_local(registry, tmp_path, ["teachers-small"], with_published=True)
    assert {*report.runs["method"]} == {"guided"}


def test_suites_without_runs_of_their_own_are_drawn_if_they_are_named(tmp_path):
    suite = registry.suite("methods-small")
    recipe = registry.compose("deit_micro/digits/guided", suite=suite)
    write_runs([make_run(suite.name, recipe, [50.0])], tmp_path, suite.name)
    for names, drawn in ((None, ["methods-small"]), (["teachers-small"], ["teachers-small"])):
        assert [report.suite.name for report in write_local(registry, tmp_path, names, with_published=True)] == drawn


def test_local_runs_of_two_codes_are_counted_apart(tmp_path):
    """Those of the code that is here count; where its file is not here, or neither is of it, the newest."""
    now = quick_run("guided", 0).record.numerics
    cases = [({**now, "guidance.locality": 0}, now), (now, {**now, "guidance.locality": 0})]
    cases.append(({**now, "train": 0}, {**now, "guidance.locality": 0}))
    for number, versions in enumerate(cases):
        results = tmp_path / str(number)
        for seed, one in enumerate(versions):
            folder = finish(results, quick_run("guided", seed, (80.0, 90.0 + seed), numerics=one))
            os.utime(folder.path / "record.json", (seed, seed))
        (report,) = write_local(registry, results)
        assert report.runs["seed"].tolist() == [[1], [0], [1]][number]
        (remark,) = [
            text for text in report.notes if text.startswith("1 of 2 runs is left out, recorded with other code (")
        ]
        assert ("train" in remark) == (number == 2) and len(read_runs(results / "local", "quick")) == 2


def test_a_suite_of_ones_own_is_drawn_later_without_its_folder(tmp_path):
    own, results = tmp_path / "own", tmp_path / "results"
    for kind, name, text in (
        ("models", "deit_wee", (ROOT / "recipes/models/deit_micro.yaml").read_text().replace("depth: 4", "depth: 2")),
        ("suites", "mine", MINE),
    ):
        (own / kind).mkdir(parents=True)
        (own / kind / f"{name}.yaml").write_text(text)
    recipes = [recipe for _, recipe in Registry(own).suite_recipes(Registry(own).suite("mine"))]
    for number, recipe in enumerate(recipes):
        finish(results, make_run("mine", recipe, [50.0, 60.0 + number]), recipe)
    words = ["--results-dir", str(results)]
    assert main(["report", *words, "--recipes-dir", str(own)]) == 0
    files = {path: path.read_bytes() for path in (results / "local").rglob("*") if path.suffix in (".md", ".html", ".csv")}
    assert main(["publish", "mine", *words, "--recipes-dir", str(own)]) == 0
    assert main(["report", "--check", *words]) == 0
    shutil.rmtree(own)
    assert main(["report", *words]) == 0 and main(["publish", *words]) == 0 and main(["report", "--check", *words]) == 0
    assert files == {path: path.read_bytes() for path in files} and len(recipes) == 4
    cells = pd.read_csv(results / "mine" / "table.csv")
    assert cells["variant"].tolist() == ["teacher.seed=0", "teacher.seed=0", "teacher.seed=1", "teacher.seed=1"]
    assert cells["last_mean"].tolist()[1::2] == [61.0, 63.0]
    page = re.sub("<.*?>", "", (results / "index.html").read_text())
    assert "--suite mine --recipes-dir DIR" in page and "./run_all.sh mine --recipes-dir DIR" in page


def test_options_that_cannot_be(results, capsys):
    for options, words in (
        (["--figure-width", "0"], "--figure-width: got 0"),
        (["none"], "unknown suite"),
        (["paper"], "no run below"),
        (["deit_micro/digits/kd"], "no run of deit_micro/digits/kd has finished"),
        ([], "no run below"),
        (["--check", "--results-dir", str(results / "quick")], "no suite has published records"),
    ):
        assert main(["report", "--results-dir", str(results), *options]) == 2
        assert words in capsys.readouterr().err
    assert write_local(registry, results / "empty", ["quick"]) == [] and not (results / "empty").exists()

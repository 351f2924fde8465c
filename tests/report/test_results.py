"""`bench.results` and `bench.curves`: which runs have rows, once, and what is in them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.report.definition import write_definition
from bench.report.records import REPRODUCTIONS, write_runs
from bench.runs.folder import RunFolder
from bench.runs.record import HISTORY_COLUMNS, Hardware
from tests.helpers.synthetic import finish, make_run, quick_run, varied_suite

registry = Registry()
KEY = ["origin", "suite", "method", "seed"]


@pytest.fixture
def results(tmp_path):
    """Two committed runs; two local ones, one of which is committed too; and a local one of no suite, of one epoch."""
    write_runs([quick_run("baseline", 0), quick_run("guided", 0, (70.0, 80.0))], tmp_path, "quick")
    finish(tmp_path, quick_run("guided", 0, (80.0, 95.0)))
    finish(tmp_path, quick_run("baseline", 7))
    other = registry.compose("deit_micro/digits/kd", "quick", ["train.epochs=1"], seed=3)
    finish(tmp_path, make_run("", other, [50.0]), other)
    return tmp_path


def rows(frame):
    return list(frame[KEY].itertuples(index=False, name=None))


BASELINE, GUIDED = ("published", "quick", "baseline", 0), ("local", "quick", "guided", 0)
SEED_7, NO_SUITE = ("local", "quick", "baseline", 7), ("local", "", "kd", 3)


def test_every_run_has_one_row_and_says_where_it_is_from(results):
    frame = bench.results(results_dir=results)
    assert rows(frame) == [BASELINE, SEED_7, GUIDED, NO_SUITE]
    assert rows(bench.results("quick", results_dir=str(results))) == [BASELINE, SEED_7, GUIDED]
    assert rows(bench.results(results_dir=results, origin="local")) == [SEED_7, GUIDED, NO_SUITE]
    published = bench.results("quick", results_dir=results, origin="published")
    assert rows(published) == [BASELINE, ("published", "quick", "guided", 0)]
    assert frame["last_accuracy"].tolist() == [90.0, 90.0, 95.0, 50.0] and published["last_accuracy"].tolist() == [
        90.0,
        80.0,
    ]
    recipe = registry.compose("deit_micro/digits/guided", suite=registry.suite("quick"))
    assert frame["folder"][2] == str(RunFolder(results, recipe).path) and pd.isna(frame["folder"][0])
    section = Path("docs/records.md").read_text().split("## In Python")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", section))
    assert set(frame.columns) | set(bench.curves(results_dir=results).columns) <= documented


def test_curves_have_one_row_per_epoch_with_the_whole_history(results):
    frame = bench.curves(results_dir=results)
    assert [*frame["epoch"]] == [*range(1, 21)] * 3 + [1] and set(HISTORY_COLUMNS) <= set(frame.columns)
    assert frame[frame["method"] == "guided"]["test_accuracy"].tolist() == [80.0] + [95.0] * 19
    run, last = quick_run("baseline", 0), frame.iloc[1]
    assert [last[name] for name in HISTORY_COLUMNS if name != "guidance_loss"] == [
        run.history[name][1] for name in HISTORY_COLUMNS if name != "guidance_loss"
    ]
    assert frame["guidance_loss"].isna().tolist()[:40] == [value is None for value in run.history["guidance_loss"]] * 2
    kinds = frame.dtypes[list(HISTORY_COLUMNS)].astype(str).to_dict()
    assert kinds == {**dict.fromkeys(HISTORY_COLUMNS, "float64"), "epoch": "int64"}
    last_of_run = frame.groupby(["hash", "seed"])["test_accuracy"].last().sort_index()
    accuracies = bench.results(results_dir=results).set_index(["hash", "seed"])["last_accuracy"].sort_index()
    assert last_of_run.tolist() == accuracies.tolist()


def test_reproductions_have_a_row_for_each_machine_if_asked_for(results):
    there = [quick_run("guided", 0, (1.0, 85.0 + threads), hardware=Hardware("cpu", "Xeon", threads)) for threads in (1, 2)]
    before = rows(bench.results("quick", results_dir=results))
    write_runs(there, results, "quick", REPRODUCTIONS)
    frame = bench.results("quick", results_dir=results, origin="reproduction")
    assert frame["last_accuracy"].tolist() == [86.0, 87.0] and set(frame["origin"]) == {"reproduction"}
    assert rows(bench.results("quick", results_dir=results)) == before
    assert len(bench.curves(results_dir=results, origin="reproduction")) == 40


def test_committed_results_of_this_repository_are_found():
    frame = bench.results("quick", origin="published")
    means = frame.groupby("method")["last_accuracy"].agg(["mean", "count"])
    assert means["count"].tolist() == [3, 3] and means["mean"]["guided"] > means["mean"]["baseline"] > 85
    assert len(bench.curves("quick", origin="published")) == frame["epochs"].sum()


def test_a_suite_of_ones_own_recipes_is_found(tmp_path):
    own, results = tmp_path / "own", tmp_path / "results"
    (own / "suites").mkdir(parents=True)
    shutil.copyfile("recipes/suites/quick.yaml", own / "suites" / "mine.yaml")
    finish(results, quick_run("baseline", 0))
    assert rows(bench.results(results_dir=results, recipes_dir=own)) == [("local", "mine, quick", "baseline", 0)]
    assert len(bench.results("mine", results_dir=results, recipes_dir=[own])) == 1
    with pytest.raises(RecipeError, match="unknown suite 'mine'"):
        bench.results("mine", results_dir=results)
    write_runs([quick_run("baseline", 1)], results, "mine")  # committed by its author
    assert rows(bench.results("mine", results_dir=results)) == [
        ("local", "mine", "baseline", 0),
        ("published", "mine", "baseline", 1),
    ]


def test_varied_values_have_a_column(tmp_path):
    recipes, suite = varied_suite(tmp_path, "vary: {teacher.seed: [0, 1]}")
    for _, recipe in recipes.suite_recipes(suite):
        finish(tmp_path / "results", make_run("varied", recipe, [50.0]), recipe)
    for function in (bench.results, bench.curves):
        frame = function("varied", results_dir=tmp_path / "results", recipes_dir=tmp_path)
        found = sorted(frame[["method", "variant"]].drop_duplicates().itertuples(index=False, name=None))
        assert found == [("baseline", ""), ("guided", "teacher.seed=0"), ("guided", "teacher.seed=1")]


def test_rows_of_one_method_are_told_apart(tmp_path):
    (tmp_path / "own" / "suites").mkdir(parents=True)
    text = Path("recipes/suites/quick.yaml").read_text()
    text = text.replace("guided]", "guided, guided: {guidance.params.weight: [2.5, 25]}]")
    (tmp_path / "own" / "suites" / "mine.yaml").write_text(text)
    registry = Registry(tmp_path / "own")
    for _, recipe in registry.suite_recipes(registry.suite("mine")):
        finish(tmp_path / "results", make_run("mine", recipe, [50.0]), recipe)
    found = bench.results("mine", results_dir=tmp_path / "results", recipes_dir=tmp_path / "own")["method"]
    assert sorted(found) == ["baseline", "guided", "guided weight=25"]  # guided is the row with weight 2.5 too


def test_a_suite_that_is_in_no_recipes_has_its_own_runs_and_no_others_of_their_ids(tmp_path):
    (tmp_path / "own" / "suites").mkdir(parents=True)
    text = Path("recipes/suites/quick.yaml").read_text().replace("guided]", "guided, guided: {guidance.params.weight: 25}]")
    (tmp_path / "own" / "suites" / "mine.yaml").write_text(text)
    registry, results = Registry(tmp_path / "own"), tmp_path / "results"
    suite = registry.suite("mine")
    recipes = [recipe for _, recipe in registry.suite_recipes(suite)]
    others = [
        registry.compose(f"deit_micro/digits/{name}", "quick", [f"train.lr={lr}"])
        for name in ("baseline", "guided")
        for lr in (0.1, 0.2, 0.3, 0.4, 0.5)  # some have hashes that come before those of the suite
    ]
    del recipes[1]  # guided at its published weight is not run
    for recipe in [*recipes, *others]:
        finish(results, make_run("mine", recipe, [50.0]), recipe)
    write_definition(suite, results / "local" / "mine")  # as its last report did
    write_runs([make_run("mine", recipe, [50.0]) for recipe in recipes], results / "local", "mine")
    found = bench.results("mine", results_dir=results)
    assert sorted(found["hash"]) == sorted(recipe.hash for recipe in recipes)
    assert sorted(found["method"]) == ["baseline", "guided weight=25"]


def test_nothing_and_nonsense_give_a_sentence(results, tmp_path):
    for arguments, words in (
        ({"suite": "quik"}, "unknown suite 'quik'; known: cifar10, .*; did you mean 'quick'"),
        ({"suite": "paper"}, "no finished run of suite paper"),
        ({"results_dir": tmp_path / "none"}, "none: no finished run: is this the results folder"),
        ({"origin": "here"}, "origin: got 'here', allowed: 'local', 'published', 'reproduction' or None"),
        ({"recipes_dir": "nowhere"}, "--recipes-dir nowhere: no such folder"),
    ):
        for function in (bench.results, bench.curves):
            with pytest.raises(RecipeError, match=words):
                function(**{"results_dir": results, **arguments})
    path = next(results.rglob("guided/*/record.json"))
    path.write_text("{}")
    with pytest.raises(RecipeError, match=str(path)):
        bench.results(results_dir=results)

from __future__ import annotations

import dataclasses
import json

import pytest

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.report.records import local_runs, mismatches, read_runs, records_path, runs_in_no_suite, write_runs
from tests.helpers.synthetic import finish, make_run, quick_run, runs_of_suite

registry = Registry()
suite = registry.suite("quick")


def test_runs_are_read_as_they_were_written(tmp_path):
    paper = registry.suite("paper")
    runs = runs_of_suite(registry, paper, 70)
    assert any(run.record.diverged for run in runs) and any(run.record.teacher for run in runs)
    write_runs(runs, tmp_path, "paper")
    assert read_runs(tmp_path, "paper") == runs and mismatches(registry, paper, runs) == []
    assert read_runs(tmp_path, "quick") == []


def test_local_runs_are_those_of_the_suite_in_its_order(tmp_path):
    guided, baseline = quick_run("guided", 0), quick_run("baseline", 3)
    finish(tmp_path, guided)
    folder = finish(tmp_path, baseline).path
    folder.rename(folder.with_name(f"{folder.name}.old1"))  # a run that --force has renamed
    finish(tmp_path, baseline)
    other = registry.compose("deit_micro/digits/guided", "quick", ["train.epochs=2"])
    finish(tmp_path, make_run("", other, [50.0, 60.0]), other)
    finish(tmp_path, make_run("", other.teacher, [50.0, 60.0]), other.teacher)
    runs = local_runs(registry, suite, tmp_path)
    assert runs == [baseline, guided]
    assert len(runs_in_no_suite(registry, tmp_path)) == 1  # a teacher belongs to the runs that it guides


def test_only_changed_records_are_written(tmp_path):
    runs = [quick_run("baseline", 0), quick_run("guided", 0)]
    write_runs(runs, tmp_path, "quick")
    written = records_path(tmp_path, "quick").stat().st_mtime_ns
    write_runs(runs, tmp_path, "quick")
    assert records_path(tmp_path, "quick").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("nothing", "not JSON"),
        ("[1]", "not a record"),
        ("\xff", "cannot be read"),
        ({"schema": 1}, "an earlier version"),
        ({"seed": "0"}, "seed is"),
        ({"diverged": True}, "diverged and has accuracies"),
        ({"last_accuracy": 101.0}, "last_accuracy"),
        ({"history": None}, "history is missing"),
        ({"history": {"test_accuracy": [80.0]}}, "history.test_accuracy is not a list of 20 values"),
        ({"history": {"test_accuracy": [80.0] * 19 + [None]}}, "numbers from 0 to 100"),
        ({"history": {"epoch": [*range(1, 20), 21]}}, "history.epoch does not count from 1 to 20"),
        ({"history": {"lr": [0.1] * 19 + ["0.1"]}}, "history.lr has a value that is not a number"),
        ({"history": {"lr": [10**400] + [0.1] * 19}}, "history.lr has a value that is not a number"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(tmp_path, change, words):
    write_runs([quick_run("baseline", 0), quick_run("baseline", 1)], tmp_path, "quick")
    path = records_path(tmp_path, "quick")
    first, second = path.read_text().splitlines()
    if isinstance(change, dict):
        content = json.loads(second)
        history = change.get("history")
        second = json.dumps(content | change | ({"history": content["history"] | history} if history else {}))
    else:
        second = change
    path.write_bytes(f"{first}\n{second}\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=words) as caught:
        read_runs(tmp_path, "quick")
    assert str(path) in str(caught.value) and ("line 2" in str(caught.value) or change == "\xff")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {}}, "its seed is not that of its recipe"),
        ({"recipe": {"seed": 1}}, "its id is not that of its recipe"),
        ({"recipe": {"seed": 1, "id": "deit_micro/digits/guided"}}, "its recipe cannot be read"),
        ({"epochs": 300}, "is not that of its recipe"),
        ({"last_accuracy": 99.0}, "not that of its history"),
        ({"best_accuracy": 99.0}, "not that of its history"),
        ({"best_epoch": 1}, "its best epoch is not"),
        ({"teacher": None}, "its teacher is not that of its recipe"),
    ],
)
def test_a_record_that_contradicts_itself_is_named(tmp_path, change, words):
    run = quick_run("guided", 1)
    if "epochs" in change:  # of its recipe
        change = {"recipe": run.record.recipe | {"train": run.record.recipe["train"] | change}}
    changed = dataclasses.replace(run, record=dataclasses.replace(run.record, **change))
    (problem,) = mismatches(registry, suite, [changed])
    assert problem.startswith("record deit_micro/digits/guided seed 1: ") and words in problem
    finish(tmp_path, changed)
    with pytest.raises(RecipeError, match=words.replace("not that of its history", "not that of history.csv")):
        local_runs(registry, suite, tmp_path)


def test_records_of_other_recipes_do_not_pass_the_check():
    (problem,) = mismatches(registry, suite, [quick_run("guided", 0, hash="0" * 64)])
    assert "its hash 00000000 is not that of its recipe" in problem
    longer = registry.compose("deit_micro/digits/guided", "quick", ["train.epochs=2"])
    assert "is not its recipe's" in mismatches(registry, suite, [make_run("quick", longer, [50.0, 60.0])])[0]
    assert "not in suite quick" in mismatches(registry, suite, [quick_run("guided", 0, id="deit_tiny/digits/guided")])[0]


@pytest.mark.parametrize(("name", "content"), [("record.json", "[]"), ("record.json", "{"), ("history.csv", "epoch\n1\n")])
def test_a_damaged_local_run_is_named(tmp_path, name, content):
    folder = finish(tmp_path, quick_run("guided", 1))
    (folder.path / name).write_text(content)
    with pytest.raises(RecipeError, match=name):
        local_runs(registry, suite, tmp_path)


def test_a_run_that_was_cut_off_at_its_best_epoch_is_refused():
    run = quick_run("guided", 0, (50.0, 98.0, 90.0))
    history = {name: values[:2] for name, values in run.history.items()}
    record = dataclasses.replace(run.record, epochs=2, last_accuracy=98.0)
    (problem,) = mismatches(registry, suite, [dataclasses.replace(run, record=record, history=history)])
    assert "it has 2 of the 20 epochs of its recipe" in problem


def test_invented_runs_have_whole_numbers_of_images():
    few = dataclasses.replace(quick_run("guided", 0).record.dataset, test_images=120)
    run = quick_run("guided", 0, (55.84, 61.0), dataset=few)
    assert run.history["test_accuracy"] == [55.8333] + [60.8333] * 19 and mismatches(registry, suite, [run]) == []
    history = {**run.history, "test_accuracy": [55.84] + [60.8333] * 19}
    (problem,) = mismatches(registry, suite, [dataclasses.replace(run, history=history)])
    assert "55.84 % of 120 test images is not a whole number of images" in problem

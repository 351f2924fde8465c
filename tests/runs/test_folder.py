"""Run folders and records: names, what is read back, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.numerics import numerics_versions
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.runs.folder import RunFolder
from bench.runs.record import RECORD_SCHEMA, check_same_images, read_history, read_record, record_from_dict, stale_parts
from tests.helpers.synthetic import history_rows, make_run

RECIPE = Registry().compose("deit_micro/digits/guided", "quick")
RECORD = make_run("quick", RECIPE, [89.0, 91.0, 90.0]).record


def test_a_record_is_read_back_from_its_file(tmp_path):
    folder = RunFolder(tmp_path, RECIPE)
    assert folder.record(RECIPE) is None and not folder.is_recorded
    folder.write_record(RECORD)
    assert folder.record(RECIPE) == RECORD and folder.is_recorded
    assert folder.record(RECIPE.with_seed(1)) is None  # of exactly this recipe and seed
    later = {**json.loads((folder.path / "record.json").read_text()), "a_key_of_a_later_version": 1}
    assert record_from_dict(later, "it") == RECORD
    sized = dataclasses.replace(RECORD.dataset, image_size=(8, 8))
    baseline = dataclasses.replace(RECORD, teacher=None, dataset=sized)
    assert record_from_dict(json.loads(json.dumps(baseline.to_dict())), "it") == baseline


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema", RECORD_SCHEMA - 1, "move it away and run again; published records are then published anew"),
        ("schema", 99, "written by a later version of the suite (schema 99, this one reads 3): update the suite"),
        ("numerics", None, "numerics is None"),
        ("id", None, "id is None"),
        ("epochs", 0, "best_epoch is 2"),
        ("epochs", 3.5, "epochs is 3.5"),
        ("world_size", 0, "world_size is 0"),
        ("last_accuracy", None, "last_accuracy is None"),
        ("last_accuracy", 101, "last_accuracy is 101"),
        ("best_epoch", 21, "best_epoch is 21"),
        ("best_epoch", 0, "best_epoch is 0"),
        ("diverged", True, "it diverged and has accuracies"),
        ("teacher", {}, "teacher.key is None"),
        ("teacher.seconds", "long", "teacher.seconds is 'long'"),
        ("dataset.image_size", [8], "dataset.image_size is [8]"),
        ("dataset", 1, "dataset is 1"),
        ("dataset.test_images", 0, "dataset.test_images is 0"),
        ("hardware.threads", True, "hardware.threads is True"),
        ("recipe", [], "recipe is []"),
    ],
)
def test_a_record_that_is_not_one_is_refused_with_file_and_key(path, value, words):
    content = copy.deepcopy(RECORD.to_dict())
    *parents, name = path.split(".")
    inside = content
    for parent in parents:
        inside = inside[parent]
    inside[name] = value
    with pytest.raises(RecipeError) as caught:
        record_from_dict(content, "x/record.json")
    assert str(caught.value).startswith("x/record.json: ") and words in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "null", '{"schema": NaN}', "[" * 9999, '{"id": 1e999}', "\udcff"])
def test_a_file_that_is_not_a_record_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(RecipeError, match=rf"^{path}: "):
        read_record(path)


def test_nobody_knows_whether_a_file_that_is_not_here_has_changed():
    method = dataclasses.replace(RECIPE, guidance=dataclasses.replace(RECIPE.guidance, method="mine"))
    record = dataclasses.replace(RECORD, numerics={**numerics_versions(method), "guidance.mine": "sha256:1", "train": 0})
    assert [part.split()[0] for part in stale_parts(record, method)] == ["train"]


def test_a_record_with_other_accuracies_than_its_history_is_refused(tmp_path):
    run = make_run("quick", RECIPE, [89.0, 91.0, 90.0])
    folder = RunFolder(tmp_path, RECIPE)
    folder.write_history(history_rows(run))
    folder.write_record(RECORD)
    assert folder.record(RECIPE) == RECORD
    for changed in ({"last_accuracy": 90.5}, {"best_accuracy": 92.0}):
        folder.write_record(dataclasses.replace(RECORD, **changed))
        with pytest.raises(RecipeError, match=r"record.json: changed: its last or best accuracy"):
            folder.record(RECIPE)
    diverged = make_run("quick", RECIPE, [89.0, 91.0], diverged=True).record
    folder.write_record(diverged)
    assert folder.record(RECIPE) == diverged


def test_a_run_with_epochs_that_were_not_evaluated_contradicts_nothing():
    recipe = Registry().compose("deit_micro/digits/guided", "quick", ["train.evaluate_every=3"])
    run = make_run("quick", recipe, [80.0, 90.0])
    assert run.history["test_accuracy"][:3] == [None, None, 90.0] and run.contradiction is None


def test_a_record_of_other_images_is_refused():
    then = RECORD.dataset.fingerprint
    check_same_images(RECORD, then)
    check_same_images(RECORD, None)  # the dataset is not on this machine
    with pytest.raises(
        RecipeError, match=rf"recorded for other images \(fingerprint {then[:8]}, now 12345678\): .* --force"
    ):
        check_same_images(RECORD, "12345678" * 8)


def test_a_history_is_read_back(tmp_path):
    folder = RunFolder(tmp_path, RECIPE)
    values = {"lr": 0.1, "guidance_loss": None, "test_accuracy": 50.0, "images_per_second": 99.5}
    rows = [{"epoch": n, "train_loss": loss, **values} for n, loss in ((1, 2.5), (2, None))]
    rows[0]["test_accuracy"] = None  # not evaluated
    folder.write_history(rows)
    assert read_history(folder.path / "history.csv") == rows
    written = (folder.path / "history.csv").read_text()
    for text in ("", "epoch\n1\n", written.replace("2.5", "nan"), written.replace("50.0", "")):
        (folder.path / "history.csv").write_text(text)
        with pytest.raises(RecipeError, match=r"history\.csv: not the history of a run"):
            read_history(folder.path / "history.csv")


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=20) | st.sampled_from([b"[" * 9999, b"1", b"[]", b"null", b"{}"]))
def test_a_damaged_status_counts_as_not_begun(content, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("results"), RECIPE)
    folder.write_status("running", epoch=1, epochs=3)
    assert folder.status()["state"] == "running" and folder.status()["epoch"] == 1
    (folder.path / "status.json").write_bytes(content)
    assert folder.status() == {}


def test_an_archived_run_keeps_its_files_under_a_free_name(tmp_path):
    folder = RunFolder(tmp_path, RECIPE)
    for number in (1, 2):
        folder.write_record(RECORD)
        folder.archive()
        assert folder.path.with_name(f"{folder.path.name}.old{number}").is_dir() and not folder.path.exists()


@pytest.mark.parametrize("name", ["..", ".", "", "a b", "%2e%2e", "~", "x\\y", "a\0b"])
def test_no_id_reaches_outside_the_results_folder(tmp_path, name):
    for id_ in (f"{name}/{name}/{name}", f"{name}/digits/guided", f"deit_micro/{name}/guided", f"deit_micro/digits/{name}"):
        with pytest.raises(RecipeError, match="is not an id"):
            RunFolder(tmp_path, dataclasses.replace(RECIPE, id=id_))


@pytest.mark.parametrize(
    ("then", "parts"),
    [
        ({}, []),
        (
            {"guidance.locality": 0, "models.resnet_cifar": 7},
            ["guidance.locality 0, now 1", "models.resnet_cifar 7, now 1"],
        ),
        ({"models.vit": "sha256:" + 64 * "a"}, ["models.vit sha256:aaaaaaaa, now 1"]),
        ({"train": None}, ["train none, now 1"]),
        ({"models.gone": 1}, ["models.gone 1, now none"]),
    ],
)
def test_a_record_is_stale_if_a_component_has_changed(then, parts):
    versions = {name: version for name, version in {**RECORD.numerics, **then}.items() if version is not None}
    assert sorted(stale_parts(dataclasses.replace(RECORD, numerics=versions), RECIPE)) == parts

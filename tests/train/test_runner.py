"""Runs as users start them, in processes of their own: what they leave, and when they are run again."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil

import pytest
from safetensors.torch import load_file

from bench import models
from bench.config.numerics import numerics_versions
from bench.config.registry import Registry
from bench.data.store import open_dataset
from bench.guidance import create
from bench.runs.folder import RunFolder
from bench.runs.record import HISTORY_COLUMNS, RECORD_SCHEMA
from bench.storage import sha256
from bench.train import teacher_cache
from bench.train.teacher_cache import TeacherCache
from tests.helpers import generated
from tests.helpers.process import ROOT, TINY, Started, command, refused

RUN = ["bench/run.py", "--protocol", "quick", *TINY]
SETTINGS = [word for word in TINY if word != "--set"]


def recipe_of(method, seed=0):
    return Registry().compose(f"deit_micro/digits/{method}", "quick", SETTINGS, seed=seed)


@pytest.fixture(scope="module")
def guided(decoded, tmp_path_factory):
    """Results, cache and outputs of two guided runs, started together, that need a teacher that is not trained yet."""
    results, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache")
    shutil.copytree(decoded, cache, dirs_exist_ok=True)
    words = [*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", results, "--tracker", "tensorboard"]
    both = [Started(*words, "--seed", seed, env={"LOCALITY_BENCH_CACHE": str(cache)}) for seed in (0, 1)]
    done = [started.completed() for started in both]
    assert [one.returncode for one in done] == [0, 0], [one.stdout + one.stderr for one in done]
    return results, cache, [one.stdout for one in done]


def test_two_guided_runs_started_together_train_one_teacher(guided):
    results, cache, outputs = guided
    assert (
        sum(len(re.findall(r"resnet8/digits seed 0: [\d.]+ % after", one)) for one in outputs) == 1
    )  # one of them trained it
    assert len(list((cache / "teachers").glob("*/record.json"))) == 1
    one, other = (RunFolder(results, recipe).record(recipe) for recipe in (recipe_of("guided"), recipe_of("guided", 1)))
    assert one.teacher == other.teacher and one.teacher.id == "resnet8/digits"
    (weights,) = (cache / "teachers").glob("*/model.safetensors")
    assert one.teacher.weights == sha256(weights) and one.dataset.class_names == tuple("0123456789")


def test_the_files_of_a_run(guided):
    results, _, outputs = guided
    recipe = recipe_of("guided")
    folder = results / "local" / "runs" / "deit_micro" / "digits" / "guided" / f"{recipe.hash[:8]}-seed0"
    assert RunFolder(results, recipe).path == folder
    record = RunFolder(results, recipe).record(recipe)
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert tuple(rows[0]) == HISTORY_COLUMNS and len(rows) == record.epochs == 1
    assert record.last_accuracy == pytest.approx(float(rows[-1]["test_accuracy"]), abs=1e-4)
    assert (record.id, record.protocol, record.seed, record.hash) == (recipe.id, "quick", 0, recipe.hash)
    assert (record.best_epoch, record.world_size, record.settings) == (1, 1, SETTINGS)
    assert record.recipe == recipe.to_dict()
    assert record.parameters == sum(p.numel() for p in models.create(recipe.model, 10, 0).parameters())
    assert record.flops_per_image > 2 * record.parameters  # each weight is used for every token
    text = (folder / "record.json").read_text()
    assert json.loads(text)["schema"] == RECORD_SCHEMA
    assert str(results) not in text and str(ROOT) not in text  # no path of a machine
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    student, teacher = models.create(recipe.model, 10, 0), models.create(recipe.teacher.model, 10, 0)
    student.network.load_state_dict(load_file(folder / "model.safetensors"))  # under the student's own names
    methods = create(recipe.guidance, student.shapes, teacher.shapes, 0, student.groups)
    methods.load_state_dict(load_file(folder / "guidance.safetensors"))
    (events,) = (folder / "trackers" / "locality-bench").glob("events.*")
    assert b"guidance_loss" in events.read_bytes()
    assert len(list(results.rglob("trackers"))) == 2  # of the two seeds, not of the teacher
    assert "1 process on cpu" in outputs[0] and "precision fp32" in outputs[0] and "1 thread)" in outputs[0]


def test_a_finished_run_is_not_run_again_unless_forced(guided):
    results, cache, _ = guided
    words = [*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", results]
    again = command(*words, env={"LOCALITY_BENCH_CACHE": str(cache)}, check=True)
    assert "is finished" in again.stdout and "epoch" not in again.stdout
    folder = RunFolder(results, recipe_of("guided"))
    before = (folder.path / "record.json").read_bytes()
    forced = command(*words, "--force", env={"LOCALITY_BENCH_CACHE": str(cache)}, check=True)
    assert "epoch 1/1" in forced.stdout
    assert (folder.path.with_name(folder.path.name + ".old1") / "record.json").read_bytes() == before
    assert folder.record(recipe_of("guided")).last_accuracy == json.loads(before)["last_accuracy"]


def test_a_run_of_other_code_is_run_again_if_stale_ones_are_asked_for(guided, tmp_path):
    results, cache = (shutil.copytree(folder, tmp_path / folder.name) for folder in guided[:2])
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    words = [*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", results]
    recipe = recipe_of("guided")
    folder = RunFolder(results, recipe)
    record = folder.record(recipe)
    assert record.numerics == numerics_versions(recipe) and "guidance.locality" in record.numerics
    assert "is finished" in command(*words, "--stale", env=env, check=True).stdout  # it is not stale
    other = dataclasses.replace(record, numerics={**record.numerics, "models.resnet_cifar": 0})
    folder.write_record(other)
    for path in (RunFolder(results, recipe.teacher).path, *(cache / "teachers").glob("*[0-9a-f]")):
        path = path / "record.json"
        path.write_text(path.read_text().replace('"models.resnet_cifar": 1', '"models.resnet_cifar": 0'))
    cached = TeacherCache(recipe.teacher, record.dataset.fingerprint)
    # as the cache of that code names it
    (cache / "teachers" / cached.key).rename(cache / "teachers" / f"{cached.key[:-16]}{'0' * 16}")
    done = command(*words, env=env, check=True)
    sentence = "is recorded with other code (models.resnet_cifar 0, now 1): --stale runs it again"
    assert sentence in done.stdout and "epoch" not in done.stdout and folder.record(recipe) == other
    again = command(*words, "--stale", env=env, check=True).stdout
    assert "resnet8/digits is the teacher of this recipe and is trained first" in again and again.count("epoch 1/1") == 2
    assert folder.record(recipe).numerics == record.numerics and folder.record(recipe).weights == record.weights
    assert (folder.path.with_name(f"{folder.path.name}.old1") / "record.json").is_file()
    assert folder.record(recipe).teacher.key == cached.key


def test_checkpoints_that_a_killed_process_left_are_removed_when_its_finished_run_is_asked_for(guided):
    results, cache, _ = guided
    folder = RunFolder(results, recipe_of("guided", 1)).path
    (folder / "checkpoint-000001-00000000.pt").write_bytes(b"x")
    words = [*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", results, "--seed", "1"]
    command(*words, env={"LOCALITY_BENCH_CACHE": str(cache)}, check=True)
    assert not list(folder.glob("checkpoint-*"))


def test_a_finished_run_of_other_images_is_refused_until_forced(tmp_path):
    photos = generated.write("folder", tmp_path, classes=3, train=12, test=4, size=16)
    words = ["bench/run.py", "--recipe", "deit_micro/folder:photos/baseline", "--data-dir", tmp_path]
    words += ["--results-dir", tmp_path / "r"]
    for setting in ("train.epochs=1", "train.batch_size=12", "data.workers=0"):
        words += ["--set", setting]
    first = command(*words, check=True)
    assert "36 training images, evaluated on 12 test images, 3 classes" in first.stdout
    assert "is finished" in command(*words, check=True).stdout
    generated.write("folder", tmp_path, classes=3, train=12, test=4, size=16, seed=1)
    refused(command(*words), "recorded for other images", "--force")
    assert "epoch 1/1" in command(*words, "--force", check=True).stdout
    records = list((tmp_path / "r").rglob("record.json"))
    assert len(records) == 2 and not any(str(photos) in path.read_text() for path in records)  # no path of a machine


def test_a_teacher_trained_on_its_own_serves_guided_runs(cache, tmp_path):
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    words = ["bench/run.py", "--protocol", "quick", "--results-dir", tmp_path / "results"]
    alone = ["--recipe", "resnet8/digits", "--seed", "7", "--set", "train.epochs=1", "--set", "data.train_limit=256"]
    refused(command(*words, *alone, "--set", "seed=7"), "--seed")
    one_of_two = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}  # as a launcher starts it
    refused(command(*words, *alone, env={**env, **one_of_two}), "trained by one process, not 2")
    command(*words, *alone, env=env, check=True)
    teacher = ["--set", "teacher.train.epochs=1", "--set", "teacher.data.train_limit=256", "--set", "teacher.seed=7"]
    teacher_only = [*words, "--recipe", "deit_micro/digits/guided", "--teacher-only", *teacher]
    (cached,) = (cache / "teachers").glob("*/record.json")
    trained = cached.read_bytes()
    assert "teacher resnet8/digits seed 7: in the cache, " in command(*teacher_only, env=env, check=True).stdout
    assert cached.read_bytes() == trained
    command(*teacher_only, "--force", env=env, check=True)
    assert cached.read_bytes() != trained
    done = command(*words, "--recipe", "deit_micro/digits/guided", *teacher, *TINY[:4], env=env, check=True)
    assert "is trained first" not in done.stdout and "teacher resnet8/digits" in done.stdout


def test_a_baseline_has_no_teacher_to_train(tmp_path):
    words = [*RUN[:3], "--results-dir", tmp_path, "--teacher-only", "--recipe", "deit_micro/digits/baseline"]
    refused(command(*words), "--teacher-only: deit_micro/digits/baseline has no teacher")


def test_teachers_of_other_datasets_seeds_or_code_are_other_teachers(monkeypatch):
    recipe = recipe_of("guided").teacher
    other = Registry().compose("deit_micro/digits/guided", "quick", [*SETTINGS, "teacher.seed=1"]).teacher
    keys = {TeacherCache(recipe, fingerprint).key for fingerprint in ("a", "b")} | {TeacherCache(other, "a").key}
    monkeypatch.setattr(teacher_cache, "numerics_versions", lambda recipe: {**numerics_versions(recipe), "data": 2})
    keys.add(TeacherCache(recipe, "a").key)
    assert len(keys) == 4


def test_a_damaged_teacher_is_trained_again(guided, tmp_path, monkeypatch):
    results, cache, _ = guided
    shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of("guided")
    cached = TeacherCache(recipe.teacher, open_dataset(recipe.teacher.data, "data").fingerprint)
    whole = cached.weights.read_bytes()
    one_bit = whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:]
    record = cached.folder / "record.json"
    text = record.read_bytes()
    damages = [(cached.weights, damaged) for damaged in (whole[:-1], one_bit, b"")]
    for path, damaged in [*damages, *((record, damaged) for damaged in (text[:100], b"", b"{}", b"[1]"))]:
        assert cached.exists()
        before = path.read_bytes()
        path.write_bytes(damaged)
        assert not cached.exists()
        path.write_bytes(before)
    cached.weights.write_bytes(one_bit)
    done = command(*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", tmp_path / "results", check=True)
    assert "is damaged and is trained again" in done.stderr and "resnet8/digits seed 0:" in done.stdout
    assert cached.weights.read_bytes() == whole
    expected = RunFolder(results, recipe).record(recipe).last_accuracy
    assert RunFolder(tmp_path / "results", recipe).record(recipe).last_accuracy == expected


def test_damaged_features_are_computed_again(guided, tmp_path):
    shutil.copytree(guided[1], tmp_path / "cache")  # with the teacher
    env = {"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}
    words = [*RUN, "--recipe", "deit_micro/digits/guided-offline", "--results-dir", tmp_path / "results"]
    command(*words, env=env, check=True)
    (stage,) = (tmp_path / "cache" / "features").glob("*/stage0.npy")
    whole = stage.read_bytes()
    stage.write_bytes(whole[: len(whole) // 2])
    done = command(*words, "--seed", "1", env=env, check=True)
    assert "are damaged and are computed again" in done.stderr and stage.read_bytes() == whole

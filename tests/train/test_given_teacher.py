"""Runs whose teacher is read from a file, from the export of a trained one to the student's record."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

import bench
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import RecipeError, TeacherPass
from bench.runs.finished import run_from_folder
from bench.share.export import teacher_folder
from bench.storage import sha256
from bench.train.teacher import Teacher
from bench.train.teacher_cache import TeacherCache
from tests.helpers.commands import assert_sentence, call
from tests.helpers.process import ROOT, TINY, command, refused, start_distributed

GUIDED = "deit_micro/digits/guided"
RUN = ["bench/run.py", "--protocol", "quick", "--recipe", GUIDED, *TINY[:4]]


@pytest.fixture(scope="module")
def exported(decoded, tmp_path_factory):
    """(folder of a guided run that trained its teacher, export of this teacher, what was printed of it)."""
    results, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache")
    shutil.copytree(decoded, cache, dirs_exist_ok=True)
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    command(*RUN, *TINY[4:], "--results-dir", results, env=env, check=True)
    (run,) = results.glob(f"local/runs/{GUIDED}/*-seed0")
    shutil.rmtree(results / "local" / "runs" / "resnet8")  # so it is in the cache alone
    to = tmp_path_factory.mktemp("weights") / "teacher"
    return run, to, command("-m", "bench", "export", run, "--teacher", "--to", to, env=env, check=True).stdout


@pytest.fixture
def options(exported):
    """The options that the export printed."""
    return shlex.split(next(line for line in exported[2].splitlines() if line.startswith("  --set")))


def result(folder):
    """(history without the speed, record) of a run."""
    rows = [line.rpartition(",")[0] for line in (folder / "history.csv").read_text().splitlines()]
    return rows, json.loads((folder / "record.json").read_text())


def test_a_student_is_the_same_whether_its_teacher_was_trained_or_read(exported, options, cache, tmp_path, monkeypatch):
    run, teacher, _ = exported
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    copied = shutil.copytree(teacher, tmp_path / "copy")
    options = [word.replace(str(teacher), str(copied)) for word in options]
    done = command(*RUN, *options, "--results-dir", tmp_path / "results", env=env, check=True)
    assert "is trained first" not in done.stdout and not list((tmp_path / "results").rglob("runs/resnet8"))
    (own,) = (tmp_path / "results").glob(f"local/runs/{GUIDED}/*-seed0")
    (rows, record), (expected_rows, expected) = result(own), result(run)
    assert rows == expected_rows and record["weights"] == expected["weights"] and record["hash"] != expected["hash"]
    summary, trained = record["teacher"], expected["teacher"]
    assert (summary["weights"], summary["select"]) == (trained["weights"], "given") and summary["hash"] != trained["hash"]
    assert summary["last_accuracy"] == summary["best_accuracy"] == trained["last_accuracy"]
    assert [summary[name] for name in ("seed", "epochs", "seconds")] == [None] * 3
    assert str(tmp_path) not in (own / "record.json").read_text()  # no path of a machine
    assert run_from_folder(own).contradiction is None  # it can be published
    shutil.rmtree(copied)
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    weights = bench.load_pair(own).teacher.state_dict()  # from the cache
    assert all(
        (value == weights[name]).all()
        for name, value in load_file(teacher / "model.safetensors").items()
        if name in weights
    )
    with pytest.raises(RecipeError, match="its teacher was read from a file, so share that file"):
        teacher_folder(own)
    again = command(*RUN, *options, "--results-dir", tmp_path / "results", env=env, check=True)
    assert "is finished" in again.stdout  # which needs no file
    refused(command(*RUN, *options, "--force", "--results-dir", tmp_path / "results", env=env), "is not here")


def test_the_printed_line_of_a_recipe_means_the_printed_options(exported, options):
    registry, (_, teacher, printed) = Registry(), exported
    line = yaml.safe_load(printed.splitlines()[-1])
    by_file = [f"teacher.{name}={value}" for name, value in line["teacher"].items()]
    assert registry.compose(GUIDED, "quick", by_file) == registry.compose(GUIDED, "quick", options[1::2])
    assert line["teacher"]["sha256"] == sha256(teacher / "model.safetensors")
    assert f"--set teacher.sha256={line['teacher']['sha256']}" in (teacher / "README.md").read_text()


def test_two_processes_evaluate_it_once(exported, options, cache, tmp_path):
    words = [ROOT / RUN[0], *RUN[1:], *options, "--results-dir", tmp_path]
    started = start_distributed(*words, processes=2, env={"LOCALITY_BENCH_CACHE": str(cache)})
    done = [one.completed() for one in started]
    assert all(one.returncode == 0 for one in done), done
    (folder,) = tmp_path.glob(f"local/runs/{GUIDED}/*-seed0")
    assert result(folder)[1]["teacher"]["last_accuracy"] == result(exported[0])[1]["teacher"]["last_accuracy"]


def test_all_commands_say_the_same_of_a_file_that_is_not_here(exported, options, tmp_path, capsys):
    words = ["--protocol", "quick", options[0], f"teacher.weights={tmp_path}/gone", *options[2:]]
    outputs = {"run.py": call(capsys, "run.py", "--recipe", GUIDED, *words, "--results-dir", tmp_path)}
    for verb in ("plan", "doctor", "sweep"):
        outputs[verb] = call(capsys, "bench", verb, GUIDED, *words, "--results-dir", tmp_path)
    sentence = f"teacher.weights: {tmp_path}/gone is not here: name the file model.safetensors of a trained teacher"
    assert all(sentence in out + err for _, out, err in outputs.values()), outputs
    assert {name: code for name, (code, _, _) in outputs.items()} == {"run.py": 2, "plan": 0, "doctor": 1, "sweep": 2}


def test_with_the_file_nothing_but_students_is_planned(exported, options, tmp_path, capsys):
    code, out, _ = call(capsys, "bench", "plan", GUIDED, "--protocol", "quick", *options, "--results-dir", tmp_path)
    assert code == 0 and "3 runs: 3 to run" in out and "resnet8" not in out
    code, _, err = call(capsys, "run.py", *RUN[1:], *options, "--teacher-only", "--results-dir", tmp_path)
    assert code == 2 and "--teacher-only: the teacher of deit_micro/digits/guided is read from teacher.weights" in err


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["teacher.model.name=resnet14"], "its weights are not those of resnet14"),
        (["data.subset=4"], "its weights are of a resnet8 with 10 classes, and 4 are needed"),
    ],
)
def test_weights_of_another_network_are_refused(exported, options, tmp_path, capsys, settings, sentence):
    words = [*options, *(word for text in settings for word in ("--set", text)), "--results-dir", tmp_path]
    code, _, err = call(capsys, "run.py", "--recipe", GUIDED, "--protocol", "quick", *words)
    assert code == 2 and sentence in err
    assert_sentence(err, "teacher.weights")
    assert not list(tmp_path.rglob("status.json"))  # nothing has begun
    code, _, err = call(capsys, "bench", "doctor", GUIDED, "--protocol", "quick", *words)
    assert code == 1 and sentence in err


def test_the_number_of_classes_is_checked_again_once_the_dataset_is_decoded(exported):
    recipe = Registry().compose(GUIDED, "quick").teacher
    with pytest.raises(RecipeError, match="of a resnet8 with 10 classes, and 4 are needed"):
        Teacher(recipe, 4, exported[1] / "model.safetensors", TeacherPass())


def test_a_file_that_is_no_network_is_refused(exported, tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("not a network")
    words = ["--set", f"teacher.weights={path}", "--set", f"teacher.sha256={sha256(path)}", "--results-dir", tmp_path]
    code, _, err = call(capsys, "run.py", "--recipe", GUIDED, "--protocol", "quick", *words)
    assert code == 2 and "its weights cannot be read" in err
    assert_sentence(err, "teacher.weights")


def test_a_damaged_copy_in_the_cache_is_replaced(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path))
    _, teacher, _ = exported
    recipe = recipe_from_dict(result(exported[0])[1]["recipe"], "record").teacher
    keys = [f"teacher.weights={teacher}", f"teacher.sha256={sha256(teacher / 'model.safetensors')}"]
    cache = TeacherCache(Registry().compose(GUIDED, "quick", keys).teacher, "fingerprint")
    assert not cache.exists() and cache.key != TeacherCache(recipe, "fingerprint").key
    cache.add_file(teacher / "model.safetensors")
    assert cache.exists()
    save_file({}, cache.weights)
    assert not cache.exists()

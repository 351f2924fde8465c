"""The runner as its users start it: processes of their own, real files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import generated
import psutil
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from bench.config.registry import Registry
from bench.config.schema import RecipeError, Train
from bench.data.store import open_dataset
from bench.guidance import create
from bench.models import create as create_model
from bench.runs.folder import RunFolder
from bench.runs.record import HISTORY_COLUMNS
from bench.share.verify import verify
from bench.train.checkpoint import read
from bench.train.launch import choose_precision, choose_threads, make_accelerator
from bench.train.teacher_cache import TeacherCache
from tests.helpers.process import ROOT, TINY, Started, command, refused

RUN = ["bench/run.py", "--protocol", "quick", *TINY]
SETTINGS = [word for word in TINY if word != "--set"]


def recipe_of(arm, seed=0):
    return Registry().compose(f"deit_micro/digits/{arm}", "quick", SETTINGS, seed=seed)


@pytest.fixture(scope="module")
def guided(decoded, tmp_path_factory):
    """Two guided runs of different seeds, started start_distributed, that need a teacher nobody has trained."""
    results, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache")
    shutil.copytree(decoded, cache, dirs_exist_ok=True)
    words = [*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", results, "--tracker", "tensorboard"]
    both = [Started(*words, "--seed", seed, env={"LOCALITY_BENCH_CACHE": str(cache)}) for seed in (0, 1)]
    done = [started.completed() for started in both]
    assert [one.returncode for one in done] == [0, 0], [one.stdout + one.stderr for one in done]
    return results, cache, [one.stdout for one in done]


def test_two_guided_runs_started_start_distributed_train_one_teacher(guided):
    results, cache, outputs = guided
    assert sum(output.count("resnet8/digits seed 0:") for output in outputs) == 1  # trained once, by one of them
    assert len(list((cache / "teachers").glob("*/record.json"))) == 1
    records = [RunFolder(results, recipe_of("guided", seed)).record(recipe_of("guided", seed)) for seed in (0, 1)]
    assert records[0]["teacher"] == records[1]["teacher"] and records[0]["teacher"]["id"] == "resnet8/digits"


def test_what_a_run_leaves(guided):
    results, _, outputs = guided
    recipe = recipe_of("guided")
    folder = results / "runs" / "deit_micro" / "digits" / "guided" / f"{recipe.hash[:8]}-seed0"
    assert RunFolder(results, recipe).path == folder
    record = json.loads((folder / "record.json").read_text())
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert tuple(rows[0]) == HISTORY_COLUMNS and len(rows) == record["epochs"] == 1
    assert record["last_accuracy"] == pytest.approx(float(rows[-1]["test_accuracy"]), abs=1e-4)
    assert (record["schema"], record["id"], record["protocol"], record["seed"]) == (1, recipe.id, "quick", 0)
    assert (record["hash"], record["best_epoch"], record["world_size"]) == (recipe.hash, 1, 1)
    assert record["parameters"] == sum(p.numel() for p in create_model(recipe.model, 10, 0).parameters())
    assert record["flops_per_image"] > 2 * record["parameters"]  # each weight meets every token
    assert str(results) not in json.dumps(record) and str(ROOT) not in json.dumps(record)  # no path of a machine
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    student, teacher = create_model(recipe.model, 10, 0), create_model(recipe.teacher.model, 10, 0)
    student.network.load_state_dict(load_file(folder / "model.safetensors"))  # under the student's own names
    projections = create(recipe.guidance, student.shapes, teacher.shapes, 0)
    projections.load_state_dict(load_file(folder / "guidance.safetensors"))
    (events,) = (folder / "trackers" / "locality-bench").glob("events.*")
    assert b"guidance_loss" in events.read_bytes()
    assert len(list(results.rglob("trackers"))) == 2  # the seeds', and not the teacher's
    assert "1 process on cpu" in outputs[0] and "precision fp32" in outputs[0] and "1 thread)" in outputs[0]


def test_verify_gives_the_recorded_predictions_and_finds_what_was_changed(guided, tmp_path):
    recipe = recipe_of("guided")
    for name in ("whole", "weights", "record"):
        shutil.copytree(RunFolder(guided[0], recipe).path, tmp_path / name)
    done = command("-m", "bench", "verify", tmp_path / "whole", check=True)
    assert "same kind of device and libraries" in done.stdout and "predictions differ" not in done.stdout
    weights = load_file(tmp_path / "weights" / "model.safetensors")
    weights["head.bias"] += torch.linspace(0, 5, 10)
    save_file(weights, tmp_path / "weights" / "model.safetensors")
    done = command("-m", "bench", "verify", tmp_path / "weights")
    assert done.returncode == 1 and "do not give what is recorded" in done.stderr
    assert "predictions differ: image " in done.stdout  # by name
    text = (tmp_path / "record" / "record.json").read_text()
    (tmp_path / "record" / "record.json").write_text(text.replace('"epochs": 1,', '"epochs": 2,'))
    refused(command("-m", "bench", "verify", tmp_path / "record"), "is not that of its recipe")
    refused(command("-m", "bench", "verify", tmp_path), "no finished run")
    whole = json.loads(text)
    for name in ("recipe", "dataset", "libraries", "hardware", "last_accuracy"):
        content = {key: value for key, value in whole.items() if key != name}
        (tmp_path / "record" / "record.json").write_text(json.dumps(content))
        with pytest.raises(RecipeError, match=f"not a record: {name} is None"):
            verify(tmp_path / "record", "data")
    (tmp_path / "record" / "record.json").write_text(json.dumps({**whole, "recipe": {"model": {"nonsense": 1}}}))
    with pytest.raises(RecipeError, match=r"record\.json: model\.nonsense: is no key"):
        verify(tmp_path / "record", "data")


def test_a_recorded_run_is_not_run_again_unless_forced(guided):
    results, cache, _ = guided
    words = [*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", results]
    again = command(*words, env={"LOCALITY_BENCH_CACHE": str(cache)}, check=True)
    assert "is recorded" in again.stdout and "epoch" not in again.stdout
    folder = RunFolder(results, recipe_of("guided"))
    before = (folder.path / "record.json").read_bytes()
    forced = command(*words, "--force", env={"LOCALITY_BENCH_CACHE": str(cache)}, check=True)
    assert "epoch 1/1" in forced.stdout
    assert (folder.path.with_name(folder.path.name + ".old1") / "record.json").read_bytes() == before
    record = folder.record(recipe_of("guided"))
    assert record["last_accuracy"] == json.loads(before)["last_accuracy"]


def test_a_folder_with_other_images_is_not_taken_for_the_recorded_one(tmp_path):
    photos = generated.write("folder", tmp_path, classes=3, train=12, test=4, size=16)
    words = ["bench/run.py", "--recipe", "deit_micro/folder:photos/baseline", "--data-dir", tmp_path]
    words += ["--results-dir", tmp_path / "r"]
    for setting in ("train.epochs=1", "train.batch_size=12", "data.workers=0"):
        words += ["--set", setting]
    first = command(*words, check=True)
    assert "36 images to train on, evaluated on 12 test images, 3 classes" in first.stdout
    assert "is recorded" in command(*words, check=True).stdout
    generated.write("folder", tmp_path, classes=3, train=12, test=4, size=16, seed=1)
    refused(command(*words), "recorded for other images", "--force")
    assert "epoch 1/1" in command(*words, "--force", check=True).stdout
    records = list((tmp_path / "r").rglob("record.json"))
    assert len(records) == 2 and not any(str(photos) in path.read_text() for path in records)  # no path of a machine


def test_a_teacher_is_a_recipe_of_its_own_and_serves_guided_runs(cache, tmp_path):
    settings = ["--set", "train.epochs=1", "--set", "data.train_limit=256", "--set", "seed=7"]
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    refused(command("bench/run.py", "--recipe", "resnet8/digits", "--protocol", "quick", *settings), "seed")
    words = ["--protocol", "quick", "--results-dir", tmp_path / "results"]
    alone = ["--recipe", "resnet8/digits", "--seed", "7", *settings[:4]]
    command("bench/run.py", *words, *alone, env=env, check=True)
    teachers = ["--set", "teacher.train.epochs=1", "--set", "teacher.data.train_limit=256", "--set", "teacher.seed=7"]
    done = command(
        "bench/run.py", *words, "--recipe", "deit_micro/digits/guided", *teachers, *TINY[:4], env=env, check=True
    )
    one_of_two = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}  # as a launcher starts it
    refused(command(*RUN[:1], *words, *alone, "--force", env={**env, **one_of_two}), "trained by one process, not 2")
    assert "is trained first" not in done.stdout and "teacher resnet8/digits" in done.stdout


def test_teachers_of_other_datasets_or_seeds_are_other_teachers(guided):
    recipe = recipe_of("guided").teacher
    keys = {TeacherCache(recipe, fingerprint).key for fingerprint in ("a", "b")}
    other = Registry().compose("deit_micro/digits/guided", "quick", [*SETTINGS, "teacher.seed=1"]).teacher
    assert len(keys | {TeacherCache(other, "a").key}) == 3


def test_no_id_reaches_outside_the_results_folder(tmp_path):
    recipe = recipe_of("guided")
    for name in ("..", ".", "a b", "%2e%2e", "x:y", "~"):
        object.__setattr__(recipe, "id", f"{name}/{name}/{name}")
        path = RunFolder(tmp_path, recipe).path
        assert path.resolve().is_relative_to(tmp_path / "runs") and len(path.relative_to(tmp_path).parts) == 5


@pytest.mark.parametrize(
    ("asked", "launcher", "used"),
    [
        ("auto", "no", "fp32"),
        ("auto", "bf16", "bf16"),
        ("bf16", "no", "bf16"),
        ("bf16", "bf16", "bf16"),
        ("fp32", "no", "fp32"),
    ],
)
def test_the_launcher_replaces_only_auto(monkeypatch, asked, launcher, used):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert choose_precision(Train(precision=asked), "cpu").used == used


@pytest.mark.parametrize(("asked", "launcher"), [("fp32", "bf16"), ("bf16", "fp16"), ("fp16", "no"), ("auto", "fp8")])
def test_precisions_that_cannot_be_are_refused(monkeypatch, asked, launcher):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    with pytest.raises(RecipeError):
        choose_precision(Train(precision=asked), "cpu")


def test_a_device_that_is_not_there_is_refused(tmp_path):
    missing = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    words = ["--recipe", "deit_micro/digits/baseline", "--set", f"train.device={missing}", "--results-dir", tmp_path]
    refused(command("bench/run.py", *words), "train.device", missing)


def test_a_teacher_that_fails_ends_its_run_with_a_sentence(tmp_path):
    words = ["--recipe", "deit_micro/digits/guided", "--protocol", "quick", "--results-dir", tmp_path, *TINY]
    done = command("bench/run.py", *words, "--set", "teacher.train.lr=1.0e+30")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "resnet8/digits seed 0 diverged" in done.stderr
    assert "the teacher resnet8/digits could not be trained" in done.stderr


def test_accelerate_launch_runs_a_recipe(tmp_path):
    words = ["bench/run.py", "--recipe", "deit_micro/digits/baseline", "--protocol", "quick", *TINY[:4]]
    done = command(
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", *words, "--results-dir", tmp_path, check=True
    )
    assert "epoch 1/1" in done.stdout and len(list(tmp_path.glob("runs/deit_micro/digits/baseline/*/record.json"))) == 1


@pytest.mark.parametrize(
    ("environment", "settings", "threads"),
    [
        ({}, {}, None),
        ({"OMP_NUM_THREADS": "1"}, {}, None),  # the user's own
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, {}, 8),
        ({"OMP_NUM_THREADS": "3", "ACCELERATE_MIXED_PRECISION": "no"}, {}, None),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"}, {}, 4),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, {"threads": 1}, 1),
    ],
)
def test_launchers_do_not_leave_the_cores_idle(monkeypatch, environment, settings, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for name in ("OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert choose_threads(Train(**settings)) == threads


def test_deterministic_is_what_torch_is_told():
    try:
        make_accelerator(Train(device="cpu", precision="fp32"))
        assert not torch.are_deterministic_algorithms_enabled()
        make_accelerator(Train(device="cpu", precision="fp32", deterministic=True))
        assert torch.are_deterministic_algorithms_enabled() and os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_says_so_and_starts_again(tmp_path, sent):
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", str(tmp_path)]
    words += ["--set", "data.train_limit=256", "--set", "train.epochs=6"]
    started = Started("bench/run.py", *words)
    assert started.says("epoch ")
    started.send_signal(sent)
    assert started.wait(60) == 75
    recipe = Registry().compose("deit_micro/digits/baseline", "quick", ["data.train_limit=256", "train.epochs=6"])
    folder = RunFolder(tmp_path, recipe)
    assert folder.status()["state"] == "stopped" and folder.record(recipe) is None
    again = command("bench/run.py", *words, "--force", check=True)
    assert "goes on after epoch" in again.stdout and not list(folder.path.parent.glob("*.old*"))  # nothing is recorded yet


def test_a_batch_of_more_images_than_there_are_names_its_key_before_anything_is_trained(tmp_path):
    generated.write("folder", tmp_path, classes=3, train=4, test=1, size=16)
    words = [
        "bench/run.py",
        "--recipe",
        "deit_micro/folder:photos/guided",
        "--data-dir",
        tmp_path,
        "--results-dir",
        tmp_path,
    ]
    refused(command(*words), "train.batch_size: got 128, but there are 12 training images")
    done = command(*words, "--set", "train.batch_size=12")
    refused(done, "teacher.train.batch_size: got 128, but there are 12 training images", "--set teacher.train.batch_size=N")
    assert not (tmp_path / "runs").exists()


def test_a_stop_signal_to_the_whole_group_leaves_the_state(tmp_path):
    # as a scheduler, a sweep or Ctrl-C sends it: the data workers get it too
    words = ["--recipe", "deit_micro/digits/baseline", "--results-dir", str(tmp_path)]
    settings = ("train.epochs=500", "train.batch_size=32", "data.train_limit=256", "data.workers=1", "data.pipeline=pil")
    words += [word for setting in settings for word in ("--set", setting)]
    started = Started("bench/run.py", *words, new_session=True)
    assert started.says("epoch ")
    os.killpg(started.pid, signal.SIGTERM)
    assert started.wait(60) == 75
    assert len(list(tmp_path.rglob("checkpoint-*.pt"))) == 1


# A command that may take 600 MiB more than its imports.
LITTLE_MEMORY = """
import resource, runpy, sys
import accelerate, timm, torch
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_running_out_of_memory_gives_a_sentence(tmp_path):
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", str(tmp_path)]
    huge = ["--set", "model.image_size=256", "--set", "train.batch_size=1024", "--set", "train.epochs=1"]
    (tmp_path / "limited.py").write_text(LITTLE_MEMORY)
    done = command(tmp_path / "limited.py", "bench/run.py", *words, *huge)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert "out of memory" in done.stderr and "train.micro_batch" in done.stderr


def test_a_run_that_diverges_is_recorded_so_and_keeps_its_state(tmp_path):
    settings = ["train.lr=1.0e+30", "train.epochs=3", "train.warmup_epochs=2", "train.warmup_lr=1.0e-4"]
    settings += ["data.train_limit=128", "train.checkpoint_seconds=0"]
    words = ["bench/run.py", "--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", tmp_path]
    words += [word for setting in settings for word in ("--set", setting)]
    recipe = Registry().compose("deit_micro/digits/baseline", "quick", settings)
    folder = RunFolder(tmp_path, recipe)
    first = command(*words)
    assert first.returncode == 3 and "diverged" in first.stderr and "Traceback" not in first.stderr
    record = folder.record(recipe)
    assert record["diverged"] and record["last_accuracy"] is None and folder.status()["state"] == "diverged"
    assert [row["train_loss"] is None for row in folder.history()] == [False] * (record["epochs"] - 1) + [True]
    weights = load_file(folder.diverged_weights)
    assert not all(torch.isfinite(w).all() for w in weights.values()) and not folder.weights.exists()
    checkpoint = read(max(folder.path.glob("checkpoint-*.pt")))
    assert all(torch.isfinite(w).all() for w in checkpoint["task"].values())  # from here it can be watched
    before = (folder.path / "record.json").read_bytes()
    again = command(*words)
    assert again.returncode == 3 and again.stderr == first.stderr and (folder.path / "record.json").read_bytes() == before
    # a record of another recipe whose hash begins alike: a run into the same folder sets it aside
    folder.write_record({**record, "hash": record["hash"][:8] + "0" * 56})
    other = (folder.path / "record.json").read_bytes()
    assert command(*words).returncode == 3 and folder.record(recipe)["hash"] == recipe.hash
    assert (folder.path.with_name(f"{folder.path.name}.old1") / "record.json").read_bytes() == other


# A command that may not write files of more than some bytes: the system refuses the write that has no room.
LIMITED = """
import resource, runpy, sys
del sys.argv[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(0)), resource.RLIM_INFINITY))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_disk_that_is_full_ends_the_run_with_a_sentence_and_loses_nothing(decoded, tmp_path):
    env = {"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}
    words = [*RUN[:3], "--recipe", "deit_micro/digits/baseline", "--results-dir", tmp_path / "results"]
    words += ["--set", "data.train_limit=128", "--set", "train.epochs=3", "--set", "train.checkpoint_seconds=0"]

    (tmp_path / "limited.py").write_text(LIMITED)

    def disk_full(limit, writing):
        done = command(tmp_path / "limited.py", limit, *words, env=env)
        assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("error: ") and "File too large" in line and writing in line
        assert not list(tmp_path.rglob("*.tmp"))

    disk_full(100_000, "digits")  # the decoded pixels take more
    shutil.rmtree(tmp_path / "cache")
    shutil.copytree(decoded, tmp_path / "cache")
    disk_full(400_000, "checkpoint-")
    assert "goes on" not in command(*words, env=env, check=True).stdout
    records = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    words += ["--seed", "1"]
    words[words.index("train.checkpoint_seconds=0")] = "train.checkpoint_seconds=60"
    disk_full(400_000, "model.safetensors")
    assert len(records) == 1 and all(path.read_bytes() == content for path, content in records.items())
    command(*words, env=env, check=True)
    assert len(list(tmp_path.rglob("record.json"))) == 2


def test_results_that_cannot_be_written_are_refused_before_the_teacher_is_trained(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir(mode=0o555)
    if os.geteuid() == 0:
        folder = Path("/sys/results")  # where root cannot write either
    words = [*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", folder]
    env = {"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}
    refused(command(*words, env=env), "--results-dir", "cannot be written")
    assert not (tmp_path / "cache" / "teachers").exists()
    refused(command("-m", "bench", "sweep", "quick", "--results-dir", folder, env=env), "cannot be written")
    env = {"LOCALITY_BENCH_CACHE": str(folder / "cache")}
    refused(command("-m", "bench", "data", "prepare", "digits", env=env), "cannot be written")
    speed = ["-m", "bench", "speed", "--recipe", "deit_micro/digits/baseline", "--protocol", "quick"]
    refused(command(*speed, env=env), "cannot be written")
    done = command(*RUN[:3], "--recipe", "deit_micro/digits/baseline", "--results-dir", tmp_path / "other", env=env)
    assert done.returncode == 3 and "Traceback" not in done.stderr and "cannot be written" in done.stderr


def test_a_damaged_teacher_is_made_anew(guided, tmp_path, monkeypatch):
    results, cache, _ = guided
    shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of("guided")
    kept = TeacherCache(recipe.teacher, open_dataset(recipe.teacher.data, "data").fingerprint)
    for path in (kept.weights, kept.folder / "record.json"):
        whole = path.read_bytes()
        one_bit = whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:]
        for damaged in (whole[:-1], one_bit, b"") if path == kept.weights else (whole[:100], b"", b"{}", b"[1]"):
            assert kept.exists()
            path.write_bytes(damaged)
            assert not kept.exists()
            path.write_bytes(whole)
    whole = kept.weights.read_bytes()
    kept.weights.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    done = command(*RUN, "--recipe", "deit_micro/digits/guided", "--results-dir", tmp_path / "results", check=True)
    assert "is damaged and is made anew" in done.stderr and "resnet8/digits seed 0:" in done.stdout
    assert kept.weights.read_bytes() == whole
    expected = RunFolder(results, recipe).record(recipe)["last_accuracy"]
    assert RunFolder(tmp_path / "results", recipe).record(recipe)["last_accuracy"] == expected


def test_damaged_features_are_made_anew(guided, tmp_path):
    shutil.copytree(guided[1], tmp_path / "cache")  # with the teacher
    env = {"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}
    words = [*RUN, "--recipe", "deit_micro/digits/guided-offline", "--results-dir", tmp_path / "results"]
    command(*words, env=env, check=True)
    (stage,) = (tmp_path / "cache" / "features").glob("*/stage0.npy")
    whole = stage.read_bytes()
    stage.write_bytes(whole[: len(whole) // 2])
    done = command(*words, "--seed", "1", env=env, check=True)
    assert (
        "is damaged" not in done.stdout and "are damaged and are made anew" in done.stderr and stage.read_bytes() == whole
    )


def test_a_data_worker_that_dies_ends_the_run_with_a_sentence(tmp_path):
    settings = ("train.epochs=500", "train.batch_size=32", "data.train_limit=256", "data.workers=1", "data.pipeline=pil")
    words = ["--recipe", "deit_micro/digits/baseline", "--results-dir", str(tmp_path)]
    words += [word for setting in settings for word in ("--set", setting)]
    started = Started("bench/run.py", *words)
    assert started.says("epoch ")
    for worker in psutil.Process(started.pid).children():
        worker.kill()
    done = started.completed()
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "DataLoader worker" in done.stderr and "data.workers=0" in done.stderr


def test_a_second_process_on_the_same_run_says_so(tmp_path):
    folder = RunFolder(tmp_path, Registry().compose("deit_micro/digits/baseline", "quick", SETTINGS[:2])).path
    folder.parent.mkdir(parents=True)
    words = [*RUN[:3], *TINY[:4], "--recipe", "deit_micro/digits/baseline", "--results-dir", tmp_path]
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        done = command(*words)
        assert done.returncode == 75 and done.stderr.startswith("error: ") and "is being run by another" in done.stderr
    assert "epoch 1/1" in command(*words, check=True).stdout

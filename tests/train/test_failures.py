"""Runs that are stopped, that fail, or that cannot begin: exit codes, sentences, and what is left to resume from."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from bench.config.registry import Registry
from bench.runs.folder import RunFolder
from bench.runs.record import read_history
from bench.train.checkpoint import read
from tests.helpers import generated
from tests.helpers.own import write_own
from tests.helpers.process import TINY, Started, command, refused

BASELINE = ["bench/run.py", "--recipe", "deit_micro/digits/baseline", "--protocol", "quick"]
GUIDED = ["bench/run.py", "--recipe", "deit_micro/digits/guided", "--protocol", "quick"]
WORKERS = ["train.epochs=500", "train.batch_size=32", "data.train_limit=256", "data.workers=1", "data.pipeline=pil"]


def options(*assignments):
    return [word for assignment in assignments for word in ("--set", assignment)]


def failed(done, *words):
    """Assert that a run ended with exit code 3 and one error that holds these words."""
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: ") and all(w in line for w in words))
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_its_state_and_resumes(tmp_path, number):
    assignments = ["data.train_limit=256", "train.epochs=6"]
    words = [*BASELINE, "--results-dir", tmp_path, *options(*assignments)]
    started = Started(*words)
    assert started.says("epoch ")
    started.send_signal(number)
    assert started.wait(60) == 75 and "the same command resumes" in started.stderr
    recipe = Registry().compose("deit_micro/digits/baseline", "quick", assignments)
    folder = RunFolder(tmp_path, recipe)
    assert folder.status()["state"] == "stopped" and folder.record(recipe) is None
    again = command(*words, "--force", check=True)
    assert "resumes after epoch" in again.stdout
    assert not list(folder.path.parent.glob("*.old*"))  # nothing was finished that --force would set aside


def test_a_stop_signal_that_a_library_turns_into_an_error_is_a_stop(tmp_path):
    """Ctrl-C while a run is set up, in code that catches KeyboardInterrupt, as the import of numpy does."""
    method = write_own(tmp_path / "DIR") / "guidance" / "logit_mse.py"
    method.write_text(
        "import signal\n\n"
        + method.read_text().partition("def build(")[0]
        + """
def build(*arguments):
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        raise ImportError("numpy._core.multiarray failed to import")
"""
    )
    words = ["--protocol", "quick", *TINY, "--recipes-dir", tmp_path / "DIR", "--results-dir", tmp_path]
    done = command("bench/run.py", "--recipe", "deit_micro/digits/logit_mse", *words)
    assert (done.returncode, done.stderr) == (75, "stopped; the same command starts it again\n")


def test_a_stop_signal_to_the_whole_group_leaves_the_state(tmp_path):
    # from a scheduler, a sweep or Ctrl-C: the data workers receive it too
    words = [*BASELINE[:3], "--results-dir", tmp_path, *options(*WORKERS)]
    started = Started(*words, new_session=True)
    assert started.says("epoch ")
    os.killpg(started.pid, signal.SIGTERM)
    assert started.wait(60) == 75
    assert len(list(tmp_path.rglob("checkpoint-*.pt"))) == 1


def test_a_data_worker_that_dies_ends_the_run_with_a_sentence(tmp_path):
    started = Started(*BASELINE[:3], "--results-dir", tmp_path, *options(*WORKERS))
    assert started.says("epoch ")
    for worker in psutil.Process(started.pid).children():
        worker.kill()
    failed(started.completed(), "DataLoader worker", "data.workers=0")


def test_a_second_process_on_the_same_run_says_so(tmp_path):
    words = [*BASELINE, *TINY[:4], "--results-dir", tmp_path]
    folder = RunFolder(tmp_path, Registry().compose(BASELINE[2], "quick", [TINY[1], TINY[3]])).path
    folder.parent.mkdir(parents=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        done = command(*words)
        assert done.returncode == 75 and done.stderr.startswith("error: ") and "is being run by another" in done.stderr
    assert "epoch 1/1" in command(*words, check=True).stdout


def test_a_teacher_that_fails_ends_its_run_with_a_sentence(tmp_path):
    words = [*GUIDED, "--results-dir", tmp_path, *TINY]
    done = command(*words, "--set", "teacher.train.lr=1.0e+30")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "resnet8/digits seed 0 diverged" in done.stderr
    assert "the teacher resnet8/digits could not be trained" in done.stderr


def test_a_batch_larger_than_the_dataset_is_refused_before_anything_is_trained(tmp_path):
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
    refused(done, "teacher.train.batch_size: got 128, but there are 12 training images", "set a smaller one")
    assert not (tmp_path / "local").exists()


# a command that may use 600 MiB more than its imports
LITTLE_MEMORY = """
import resource, runpy, sys
import accelerate, timm, torch
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20),) * 2)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_running_out_of_memory_gives_a_sentence(tmp_path):
    (tmp_path / "limited.py").write_text(LITTLE_MEMORY)
    huge = options("model.image_size=256", "train.batch_size=1024", "train.epochs=1")
    done = command(tmp_path / "limited.py", *BASELINE, "--results-dir", tmp_path, *huge)
    failed(done, "out of memory", "train.micro_batch")


def test_a_run_that_diverges_is_recorded_and_keeps_its_state(tmp_path):
    assignments = ["train.lr=1.0e+30", "train.epochs=3", "train.warmup_epochs=2", "train.warmup_lr=1.0e-4"]
    assignments += ["data.train_limit=128", "train.checkpoint_seconds=0"]
    words = [*BASELINE, "--results-dir", tmp_path, *options(*assignments)]
    recipe = Registry().compose("deit_micro/digits/baseline", "quick", assignments)
    folder = RunFolder(tmp_path, recipe)
    first = command(*words)
    failed(first, "diverged")
    record = folder.record(recipe)
    assert record.diverged and record.last_accuracy is None and folder.status()["state"] == "diverged"
    losses = [row["train_loss"] for row in read_history(folder.path / "history.csv")]
    assert [loss is None for loss in losses] == [False] * (record.epochs - 1) + [True]
    weights = load_file(folder.diverged_weights)
    assert not all(torch.isfinite(w).all() for w in weights.values()) and not folder.weights.exists()
    _, state = read(max(folder.path.glob("checkpoint-*.pt")))
    assert all(torch.isfinite(w).all() for w in state["task"].values())  # the last finite state
    before = (folder.path / "record.json").read_bytes()
    again = command(*words)
    assert again.returncode == 3 and again.stderr == first.stderr and (folder.path / "record.json").read_bytes() == before
    # a record of another recipe whose hash begins alike: a run into the same folder sets it aside
    folder.write_record(dataclasses.replace(record, hash=record.hash[:8] + "0" * 56))
    other = (folder.path / "record.json").read_bytes()
    assert command(*words).returncode == 3 and folder.record(recipe).hash == recipe.hash
    assert (folder.path.with_name(f"{folder.path.name}.old1") / "record.json").read_bytes() == other


# a command that may not write files of more than some bytes: the system refuses the write, as on a full disk
LITTLE_DISK = """
import resource, runpy, sys
del sys.argv[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(0)), resource.RLIM_INFINITY))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_full_disk_ends_the_run_with_a_sentence_and_loses_nothing(decoded, tmp_path):
    (tmp_path / "limited.py").write_text(LITTLE_DISK)
    env = {"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}
    words = [*BASELINE, "--results-dir", tmp_path / "results", *options("data.train_limit=128", "train.epochs=3")]
    each_epoch, seldom = options("train.checkpoint_seconds=0"), [*options("train.checkpoint_seconds=60"), "--seed", "1"]

    def disk_full(limit, writing, *more):
        line = failed(command(tmp_path / "limited.py", limit, *words, *more, env=env), writing)
        assert "File too large" in line and not list(tmp_path.rglob("*.tmp"))

    disk_full(100_000, "digits", *each_epoch)  # the decoded pixels need more
    shutil.rmtree(tmp_path / "cache")
    shutil.copytree(decoded, tmp_path / "cache")
    disk_full(400_000, "checkpoint-", *each_epoch)
    command(*words, *each_epoch, env=env, check=True)
    records = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    disk_full(400_000, "model.safetensors", *seldom)
    assert len(records) == 1 and all(path.read_bytes() == content for path, content in records.items())
    command(*words, *seldom, env=env, check=True)
    assert len(list(tmp_path.rglob("record.json"))) == 2


def test_folders_that_cannot_be_written_are_refused_before_the_teacher_is_trained(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir(mode=0o555)
    if os.geteuid() == 0:
        folder = Path("/sys/results")  # where root cannot write either
    env = {"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}
    refused(command(*GUIDED, *TINY, "--results-dir", folder, env=env), "--results-dir", "cannot be written")
    assert not (tmp_path / "cache" / "teachers").exists()
    refused(command("-m", "bench", "sweep", "quick", "--results-dir", folder, env=env), "cannot be written")
    env = {"LOCALITY_BENCH_CACHE": str(folder / "cache")}
    refused(command("-m", "bench", "data", "prepare", "digits", env=env), "cannot be written")
    refused(command("-m", "bench", "speed", *BASELINE[1:], env=env), "cannot be written")
    failed(command(*BASELINE, "--results-dir", tmp_path / "other", env=env), "cannot be written")

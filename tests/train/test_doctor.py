from __future__ import annotations

import pytest
import torch

from bench.train.loop import doctor
from tests.helpers.process import command, refused


def examine(*words):
    return command("-m", "bench", "doctor", *words)


def test_the_doctor_says_what_there_is_and_that_quick_runs_here(tmp_path):
    done = examine("quick", "--results-dir", tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    for words in ("torch 2", "cores" if not torch.cuda.is_available() else "GPU 0", "GiB free", "digits (", "2 recipes"):
        assert words in done.stdout


def test_what_cannot_run_here_is_named_with_its_remedy(tmp_path):
    done = examine("deit_tiny/chaoyang/guided", "--data-dir", tmp_path)
    assert done.returncode == 1 and "ask its authors" in done.stderr
    missing = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    done = examine("deit_tiny/cifar10/guided", "--set", f"train.device={missing}")
    assert done.returncode == 1 and f"{missing} was asked for, and this machine has none" in done.stderr
    refused(examine("deit_tony/cifar10/guided"), "deit_tony")
    refused(examine("slow"), "slow")


@pytest.mark.parametrize(
    ("requirement", "words"),
    [("torch>=99", "torch 2"), ("nosuchlibrary>=1", "nosuchlibrary is missing: pip install")],
)
def test_libraries_that_do_not_fit_are_named(monkeypatch, requirement, words):
    monkeypatch.setattr("tomllib.loads", lambda _: {"project": {"dependencies": [requirement]}})
    _, problems = doctor._libraries()
    assert len(problems) == 1 and words in problems[0] and "pip install" in problems[0]


def test_little_disk_and_folders_that_cannot_be_written_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**29}))
    _, problems = doctor._folders(tmp_path, tmp_path)
    assert [p.split(" has ")[1][:6] for p in problems] == ["0.5 Gi", "0.5 Gi"] and "LOCALITY_BENCH_CACHE" in problems[0]
    monkeypatch.setattr("os.access", lambda *_: False)
    _, problems = doctor._folders(tmp_path, tmp_path)
    assert "cannot be written" in problems[0] and "--results-dir" in problems[1]

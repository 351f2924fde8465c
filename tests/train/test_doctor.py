"""`python -m bench doctor`."""

from __future__ import annotations

import pytest
import torch

from bench.__main__ import main
from tests.helpers.process import command, refused


def examine(capsys, *words):
    """Exit code, stdout and stderr of the command, in this process."""
    code = main(["doctor", *map(str, words)])
    return (code, *capsys.readouterr())


def test_a_machine_on_which_quick_runs(capsys, tmp_path):
    code, out, err = examine(capsys, "quick", "--results-dir", tmp_path)
    assert code == 0 and not err, out + err
    for words in ("torch 2", "cores" if not torch.cuda.is_available() else "GPU 0", "GiB free", "digits (", "2 recipes"):
        assert words in out


def test_what_cannot_run_here_is_named_with_its_remedy(capsys, tmp_path):
    code, _, err = examine(capsys, "deit_tiny/chaoyang/guided", "--data-dir", tmp_path)
    assert code == 1 and "ask its authors" in err
    code, out, err = examine(capsys, "deit_micro/folder:mine/baseline", "--protocol", "quick", "--data-dir", tmp_path)
    assert (
        code == 1
        and "folder:mine (no)" in out
        and "1 threads each (train.threads: 1)" in out
        and len(err.splitlines()) == 1
    )
    missing = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    code, _, err = examine(capsys, "deit_tiny/cifar10/guided", "--set", f"train.device={missing}")
    assert code == 1 and f"{missing} was asked for, and this machine has none" in err
    refused(command("-m", "bench", "doctor", "deit_tony/cifar10/guided"), "deit_tony")
    refused(command("-m", "bench", "doctor", "slow"), "slow")


@pytest.mark.parametrize(
    ("requirement", "words"),
    [("torch>=99", "torch 2"), ("nosuchlibrary>=1", "nosuchlibrary is missing: pip install -c constraints.txt")],
)
def test_libraries_that_do_not_fit_are_named(monkeypatch, capsys, requirement, words):
    monkeypatch.setattr("tomllib.loads", lambda _: {"project": {"dependencies": [requirement]}})
    code, _, err = examine(capsys)
    assert code == 1 and words in err and "pip install" in err


def test_a_full_disk_and_folders_that_cannot_be_written_are_named(monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**29}))
    code, _, err = examine(capsys)
    cache, results = err.splitlines()
    assert code == 1 and "0.5 GiB left" in cache and "0.5 GiB left" in results and "LOCALITY_BENCH_CACHE" in cache
    monkeypatch.setattr("os.access", lambda *_: False)
    code, _, err = examine(capsys)
    cache, results = err.splitlines()
    assert code == 1 and "cannot be written" in cache and "--results-dir" in results

"""Every test has a cache of its own session, so nothing that a user has trained or decoded is read or written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from warm import Started

os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported, which test modules do before any fixture runs
ROOT = Path(__file__).parents[1]
# What makes a run of the quick recipes last a second: one epoch of four steps, for the student and for its teacher.
TINY = [
    *("--set", "train.epochs=1", "--set", "data.train_limit=512"),
    *("--set", "teacher.train.epochs=1", "--set", "teacher.data.train_limit=512"),
]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["LOCALITY_BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)  # two workers share two cores


@pytest.fixture(scope="session")
def decoded(tmp_path_factory):
    """A cache that holds the decoded digits alone, to be copied: decoding them imports more than it does."""
    from bench.data.store import open_dataset
    from bench.config.registry import Registry

    cache = tmp_path_factory.mktemp("decoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALITY_BENCH_CACHE", str(cache))
        open_dataset(Registry().compose("deit_micro/digits/baseline", "quick").data, "data")
    return cache


@pytest.fixture
def cache(decoded, tmp_path):
    """A cache of a test's own, with the decoded digits and no teacher."""
    return shutil.copytree(decoded, tmp_path / "cache")


def command(
    *words: str, cwd: Path = ROOT, check: bool = False, env: dict[str, str] | None = None, real: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a Python command line from the repository's root; its streams come back as text.

    One that needs torch is a child of the fork server in warm.py, unless a `real` process is asked for, or variables are
    given that are read when libraries are imported.
    """
    words = [str(word) for word in words]
    if not real and needs_torch(words) and not IMPORTED & set(env or ()):
        done = Started(*words, cwd=cwd, env=env).completed()
    else:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **(env or {})},
        )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


IMPORTED = {"OMP_NUM_THREADS", "PYTHONPATH", "HF_HUB_OFFLINE"}


def needs_torch(words: list[str]) -> bool:
    """Whether a command line imports torch: the commands that do not are as quick as they are."""
    verbs = ("data", "doctor", "verify")
    module, verb = (words[1], words[2]) if words[0] == "-m" else ("", "")
    return (
        words[0].endswith(".py")
        or module == "tests.kill_trials"
        or (module == "bench" and (verb in verbs or "--parameters" in words))
    )


def refused(done, *words: str):
    """The command answered with exit code 2 and one sentence that holds these words."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]

"""Every test has a cache of its own session, so nothing that a user has trained or decoded is read or written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported, which test modules do before any fixture runs
ROOT = Path(__file__).parents[1]
# What makes a run of the quick recipes last a second: one epoch of four steps, for the student and for its guide.
TINY = [
    *("--set", "train.epochs=1", "--set", "data.train_limit=512"),
    *("--set", "guide.train.epochs=1", "--set", "guide.data.train_limit=512"),
]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["LOCALITY_BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)  # two workers share two cores


def command(*words: str, cwd: Path = ROOT, check: bool = False, env: dict[str, str] | None = None):
    """Run a Python command line from the repository's root; its streams come back as text."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(env or {})},
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def refused(done, *words: str):
    """The command answered with exit code 2 and one sentence that holds these words."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]

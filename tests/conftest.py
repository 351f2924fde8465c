"""Fixtures of all tests. Every test session has a cache of its own: nothing that a user has trained is read or written."""

from __future__ import annotations

import logging
import os
import shutil

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported, by test modules, before any fixture runs

from bench.config.registry import Registry
from bench.data.store import open_dataset


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["LOCALITY_BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_NUM_THREADS"] = "1"  # two pytest workers share two cores
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _as_before():
    """Undo what commands do that tests run in this process: `cli.set_up_logging`, and the number of threads."""
    yield
    torch.set_num_threads(1)
    log = logging.getLogger("bench")
    log.handlers, log.propagate = [], True
    log.setLevel(logging.INFO)


@pytest.fixture(scope="session")
def decoded(tmp_path_factory):
    """A cache that holds the decoded digits alone, to be copied, since decoding imports large libraries."""
    cache = tmp_path_factory.mktemp("decoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALITY_BENCH_CACHE", str(cache))
        open_dataset(Registry().compose("deit_micro/digits/baseline", "quick").data, "data")
    return cache


@pytest.fixture
def cache(decoded, tmp_path):
    """A cache for one test, with the decoded digits and no teacher."""
    return shutil.copytree(decoded, tmp_path / "cache")

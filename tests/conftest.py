"""Every test has a cache of its own session, so nothing that a user has trained or decoded is read or written."""

from __future__ import annotations

import os
import shutil

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported, which test modules do before any fixture runs


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
    from bench.config.registry import Registry
    from bench.data.store import open_dataset

    cache = tmp_path_factory.mktemp("decoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALITY_BENCH_CACHE", str(cache))
        open_dataset(Registry().compose("deit_micro/digits/baseline", "quick").data, "data")
    return cache


@pytest.fixture
def cache(decoded, tmp_path):
    """A cache of a test's own, with the decoded digits and no teacher."""
    return shutil.copytree(decoded, tmp_path / "cache")

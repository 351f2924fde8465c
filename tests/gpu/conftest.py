"""The null GPU for tests. They are skipped where it cannot be built, unless BENCH_NULL_GPU=required."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.gpu import null_gpu as stub


@pytest.fixture(scope="session")
def null_gpu(tmp_path_factory) -> Path:
    """The library of a null GPU, for `null_gpu.run` and `null_gpu.measure`."""
    if problem := stub.missing():
        (pytest.fail if os.environ.get("BENCH_NULL_GPU") == "required" else pytest.skip)(problem)
    return stub.build(tmp_path_factory.mktemp("null_gpu"))

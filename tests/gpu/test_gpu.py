"""A GPU against the CPU. Skipped where there is none that computes; tests/gpu/correctness.py does the work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.gpu.correctness import ON_IMAGES, ON_RUNS, Runs, problem, train

pytestmark = pytest.mark.skipif(problem() is not None, reason=f"nothing to compare with the CPU: {problem()}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs that are compared."""
    return train(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("check", ON_IMAGES, ids=lambda check: check.__name__)
def test_images(check: Callable[[torch.device], str]):
    check(torch.device("cuda"))


@pytest.mark.parametrize("check", ON_RUNS, ids=lambda check: check.__name__)
def test_runs(check: Callable[[Runs], str], runs: Runs):
    check(runs)

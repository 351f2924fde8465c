"""Locality-guidance benchmark: vision transformers on small datasets, with and without a small CNN to teacher them.

The method is from "Locality Guidance for Improving Vision Transformers on Tiny Datasets" (ECCV 2022, arXiv 2207.10026).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which takes torch
    from bench.share.load import Loaded

__version__ = "0.1.0"


def load(path: str | os.PathLike[str]) -> Loaded:
    """The trained network of a run: its own folder below results/runs, or one that `python -m bench export` wrote.

        loaded = bench.load("results/runs/deit_micro/digits/guided/…")
        classes = loaded.model(loaded.transform(image)[None]).argmax(1)

    Returns:
        (model, transform, record, classes): the model in evaluation mode on the CPU, [batch, 3, size, size] to logits
        [batch, classes]; the transform, a PIL image to [3, size, size] float32, as the run evaluated its images.

    Raises:
        bench.config.schema.RecipeError: in one sentence, that the folder holds no finished run, one that diverged, damaged files,
            the weights of another run, or a record of a newer version.
    """
    from pathlib import Path

    from bench.share.load import load as load_run

    return load_run(Path(path))

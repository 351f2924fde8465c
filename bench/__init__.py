"""Locality-guidance benchmark: vision transformers on small datasets, with and without guidance by a small CNN.

The method is from "Locality Guidance for Improving Vision Transformers on Tiny Datasets" (ECCV 2022, arXiv 2207.10026).

    runs = bench.results("quick")      # a data frame, one row per run
    epochs = bench.curves("quick")     # one row per epoch
    loaded = bench.load(folder)        # the trained network of a run
    classes = loaded.model(loaded.transform(image)[None]).argmax(1)
    pair = bench.load_pair(folder)     # student, teacher and projections of a guided run
    maps = pair.feature_maps(image)
    attention = bench.attention_maps(loaded.model, loaded.transform(image)[None])
    inside = bench.analyze(folders)    # attention distances and CKA of runs
    images = bench.predictions(folder) # label and predicted class of each evaluated image
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.analysis import analyze
    from bench.evaluated_images import predictions
    from bench.models.attention import attention_maps
    from bench.report.results import curves, results
    from bench.share.load import load
    from bench.share.pair import load_pair

__version__ = "0.2.0"
__all__ = ["__version__", "analyze", "attention_maps", "curves", "load", "load_pair", "predictions", "results"]

_MODULES = {  # imported on first use, since they import torch or pandas
    "analyze": "bench.analysis",
    "attention_maps": "bench.models.attention",
    "curves": "bench.report.results",
    "load": "bench.share.load",
    "load_pair": "bench.share.pair",
    "predictions": "bench.evaluated_images",
    "results": "bench.report.results",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")

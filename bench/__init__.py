"""Locality-guidance benchmark: vision transformers on small datasets, with and without guidance by a small CNN.

The method is from "Locality Guidance for Improving Vision Transformers on Tiny Datasets" (ECCV 2022, arXiv 2207.10026).

    loaded = bench.load("results/local/runs/deit_micro/digits/guided/…")
    classes = loaded.model(loaded.transform(image)[None]).argmax(1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.share.load import load

__version__ = "0.2.0"
__all__ = ["__version__", "load"]

_MODULES = {"load": "bench.share.load"}  # imported on first use, since they import torch


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")

"""Locality-guidance benchmark: vision transformers on small datasets, with and without a small CNN to guide them.

The method is from "Locality Guidance for Improving Vision Transformers on Tiny Datasets" (ECCV 2022, arXiv 2207.10026).
"""

__version__ = "0.1.0"

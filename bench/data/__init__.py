"""Datasets, in the order of their use: sources (where files come from), store (decoded pixels), augment, loaders."""

NUMERICS = 1  # raised when results change: bench/config/numerics.py

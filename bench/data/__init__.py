"""Datasets, in the order of their use: sources (where files come from), store (decoded pixels), augment, loaders."""

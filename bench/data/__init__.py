"""Datasets: where they come from (sources), how they are kept (store), and how they reach the model (augment, batches)."""

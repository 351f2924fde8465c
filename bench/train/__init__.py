"""Training: from a recipe to a record. Reading order: runner, loop, step, task, teacher."""

NUMERICS = 1  # raised when results change: bench/config/numerics.py

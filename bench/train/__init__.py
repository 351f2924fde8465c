"""Training: from a recipe to a record. Reading order: runner, loop, step, task, teacher."""

"""The predicted classes of a run beside the labels, as a data frame: `bench.predictions`."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from bench.share.load import read_run, recorded_dataset, recorded_predictions


def predictions(path: str | os.PathLike[str], data_dir: str | os.PathLike[str] = "data") -> pd.DataFrame:
    """What a run predicted for each image that it was evaluated on, one row per image.

    Args:
        path: the folder of a run below results/local/runs.
        data_dir: local datasets.

    Columns: `image` (its name in the dataset), `label` and `predicted` (numbers of classes, from 0; `bench.load(path)` has
    their `class_names`).

    Raises:
        RecipeError: the folder has no finished run with predictions (an export has none), the run diverged, or the dataset
            is missing or has other images.
    """
    folder = Path(path)
    record, recipe = read_run(folder)
    evaluated = recorded_dataset(folder, record, recipe, data_dir).evaluation(recipe.data)
    names, labels = (values[evaluated.indices] for values in (evaluated.images.names, evaluated.images.labels))
    return pd.DataFrame({"image": names, "label": labels, "predicted": recorded_predictions(folder, len(labels))})

"""`python -m bench verify RUN`: whether the kept weights of a run give the accuracy that its record says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.config.parse import short_repr
from bench.config.schema import RecipeError
from bench.data.eval_loader import EvalLoader
from bench.data.store import open_dataset
from bench.runs import environment
from bench.share.load import read_run, read_weights, rebuild
from bench.train.evaluate import predict
from bench.train.launch import choose_device

ALLOWED = 0.1  # percentage points between devices or library versions, whose arithmetic differs


def verify(run: Path, data_dir: str | Path) -> tuple[list[str], list[str]]:
    """Evaluate the kept weights of a run anew.

    On the same kind of device and with the same libraries every prediction must be the recorded one; elsewhere the images
    that differ are named, and the accuracy may differ by 0.1 points.

    Args:
        run: its folder, with record.json.

    Returns:
        (what was compared, problems), in sentences.

    Raises:
        RecipeError: the folder holds no finished run, or the dataset is not here.
    """
    record, recipe = read_run(run)
    if not isinstance(record.get("libraries"), dict):
        raise RecipeError(f"{run / 'record.json'}: not a record: libraries is {short_repr(record.get('libraries'))}")
    store = open_dataset(recipe.data, data_dir)
    recorded_on = str(record["dataset"].get("fingerprint"))
    if store.fingerprint != recorded_on:
        raise RecipeError(
            f"{run}: recorded on other images (fingerprint {recorded_on[:8]}) than {recipe.data.name} has here"
            f" ({store.fingerprint[:8]})"
        )
    device = torch.device(choose_device(recipe.train))
    network = rebuild(recipe, store.classes(recipe.data), read_weights(run), run).to(device)
    try:
        recorded = np.load(run / "predictions.npy", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for files that are not its own
        raise RecipeError(f"{run / 'predictions.npy'}: cannot be read ({type(error).__name__})") from error
    given, right = (tensor.cpu().numpy() for tensor in predict(network, EvalLoader(recipe, store, device), device))
    accuracy, key = round(100 * float((given == right).mean()), 4), f"{recipe.select}_accuracy"
    problems = []
    if len(recorded) != len(given):
        raise RecipeError(f"{run}: {len(recorded)} predictions for {len(given)} images")
    part = store.evaluation(recipe.data)
    differ = [str(name) for name in part.images.names[part.indices[recorded != given]]]
    same = (
        record["libraries"] == environment.libraries()
        and record["hardware"].get("device") == environment.hardware(device)["device"]
    )
    lines = [
        f"{recipe.id} seed {recipe.seed}: recorded {record[key]:.4f} %, now {accuracy:.4f} % of {len(given):,} images",
        "same kind of device and libraries" if same else f"other device or libraries: {ALLOWED} points are allowed",
    ]
    if differ:
        lines.append(f"{len(differ)} predictions differ: {', '.join(differ[:20])}{' …' * (len(differ) > 20)}")
    if (same and differ) or abs(accuracy - record[key]) > (0.00005 if same else ALLOWED):
        problems.append(f"{run}: the kept weights do not give what is recorded")
    return lines, problems

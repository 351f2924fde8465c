"""`python -m bench verify RUN`: evaluates the weights of a run again and compares with its record."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bench.cli import DONE, PROBLEMS, add_recipes_dir
from bench.data.loaders import EvalLoader
from bench.runs import environment
from bench.share.load import Folders, read_run, recorded_dataset, recorded_predictions, trained_network
from bench.train.evaluate import predict
from bench.train.launch import choose_device, hardware, set_arithmetic

TOLERANCE_POINTS = 0.1  # of accuracy, between devices or library versions, whose arithmetic differs
ROUNDING_POINTS = 0.00005  # of the compared accuracies
MAX_LISTED_IMAGES = 20


def add_verify_options(parser: argparse.ArgumentParser) -> None:
    """The options of `verify`."""
    parser.add_argument("run", metavar="RUN", help="its folder, as results/local/runs/deit_micro/digits/guided/…")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
    add_recipes_dir(parser)


def run_verify(arguments: argparse.Namespace) -> int:
    """Print the comparison; PROBLEMS if the weights do not give what is recorded."""
    lines, is_same = verify(Path(arguments.run), arguments.data_dir, arguments.recipes_dir)
    print("\n".join(lines))
    if is_same:
        return DONE
    print(f"{arguments.run}: the weights do not give what is recorded", file=sys.stderr)
    return PROBLEMS


def verify(run: Path, data_dir: str | Path, recipes_dir: Folders = ()) -> tuple[list[str], bool]:
    """Evaluate the weights of a run again and compare with its record.

    On the same kind of GPU or processor and with the same libraries, every prediction must equal the recorded one.
    Otherwise the images whose predictions differ are listed, and the accuracy may differ by `TOLERANCE_POINTS`.

    Returns:
        (what was compared, in sentences; whether the result is the recorded one).

    Raises:
        RecipeError: the folder has no finished run, or the dataset is missing or has other images.
    """
    record, recipe = read_run(run, recipes_dir)
    network = trained_network(run, recipe, record.dataset.classes)
    dataset = recorded_dataset(run, record, recipe, data_dir)
    device = torch.device(choose_device(recipe.train))
    threads = record.hardware.threads if device.type == record.hardware.device == "cpu" else recipe.train.threads
    set_arithmetic(replace(recipe.train, threads=threads))
    network = network.to(device)
    subset = dataset.evaluation(recipe.data)
    recorded = recorded_predictions(run, len(subset.indices))
    predictions, targets = (t.cpu().numpy() for t in predict(network, EvalLoader(recipe, dataset, device), device))
    accuracy = round(100 * float((predictions == targets).mean()), 4)
    expected = record.accuracy
    differing = [str(name) for name in subset.images.names[subset.indices[recorded != predictions]]]
    there, here = record.hardware, hardware(device)
    same_machine = there == here if device.type == "cpu" else there.device == here.device
    same = same_machine and record.libraries == environment.libraries()
    tolerance = ROUNDING_POINTS if same else TOLERANCE_POINTS
    lines = [
        f"{recipe.id} seed {recipe.seed}: recorded {expected:.4f} %, now {accuracy:.4f} % of {len(predictions):,} images",
        "same hardware and libraries" if same else f"other hardware or libraries: {tolerance} points are allowed",
    ]
    if differing:
        more = " …" if len(differing) > MAX_LISTED_IMAGES else ""
        lines.append(f"{len(differing)} predictions differ: {', '.join(differing[:MAX_LISTED_IMAGES])}{more}")
    return lines, abs(accuracy - expected) <= tolerance and not (same and differing)

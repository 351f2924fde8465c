"""Sentences on what differs from the published protocol, and between the runs of one suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from bench.config.schema import Recipe
from bench.config.suite import Suite


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 epoch, 2 epochs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def protocol_note(suite: Suite, recipes: Mapping[str, Recipe], settings: Mapping[str, str]) -> str:
    """The protocol's name, its main settings unless it is `paper`, and the settings of the suite itself."""
    own = f" Settings of this suite: {', '.join(f'{key}={value}' for key, value in settings.items())}." if settings else ""
    if suite.protocol == "paper":
        return f"Protocol: paper (arXiv 2207.10026).{own}"
    train = [recipe.train for recipe in recipes.values()]
    epochs = sorted({part.epochs for part in train})
    unit = "epoch" if epochs == [1] else "epochs"
    return (
        f"Protocol: {suite.protocol}, not the published one: {_listed(epochs)} {unit}, batch size"
        f" {_listed(sorted({part.batch_size for part in train}))}, image size"
        f" {_listed(sorted({recipe.model.image_size for recipe in recipes.values()}))} px.{own}"
    )


def deviations(suite: Suite, recipes: Mapping[str, Recipe], runs: pd.DataFrame) -> list[str]:
    """How the runs differ from the released code; empty for another protocol, which is another experiment.

    docs/protocol.md has the whole list, with reasons.
    """
    if suite.protocol != "paper":
        return []
    out = [
        "Each sample has its own random augmentation; in the released code all loader workers drew the same numbers.",
        "The headline is the last epoch; published numbers are of the best test epoch.",
    ]
    if used := sorted(set(runs["precision"]) - {"fp32"}):
        out.append(f"Trained in {', '.join(used)} (evaluated in fp32); published: fp32.")
    if (runs["teacher_select"] == "last").any():
        out.append("The teacher has the weights of its last epoch; published: of its best test epoch.")
    if any(recipes[name].data.pipeline == "batched" for name in set(runs["id"]) if name in recipes):
        out.append("Images are augmented on the device, by the published distributions; published: by timm with Pillow.")
    if (runs["world_size"] > 1).any():
        out.append("Batch norm (the teacher's, CvT's) uses the batch of all processes; published: of each GPU.")
    return out


def comparison_notes(runs: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing: other test images, runs that differ, changed code, diverged runs."""
    out = []
    evaluated_on = set(runs["evaluated_on"])
    if "holdout" in evaluated_on:
        out.append("Not the test set: with data.holdout, accuracy is measured on held-out training images.")
    if "share" in evaluated_on:
        out.append("A dataset without its own test set is evaluated on data.test_share of each class.")
    for dataset, own in runs.groupby("dataset", sort=False):
        for column, word in (("precision", "precision"), ("fingerprint", "images")):
            if len(kinds := own[column].unique()) > 1:
                out.append(f"Runs on {dataset} differ in {word}: {', '.join(kind[:8] for kind in kinds)}.")
    if diverged := int(runs["diverged"].sum()):
        out.append(f"{count(diverged, 'run')} of {len(runs)} diverged and {'is' if diverged == 1 else 'are'} left out.")
    if dirty := int(runs["dirty"].fillna(False).sum()):
        out.append(f"{dirty} of {count(len(runs), 'run')} used code that was not committed.")
    return out


def _listed(values: Iterable[int]) -> str:
    return " or ".join(map(str, values))

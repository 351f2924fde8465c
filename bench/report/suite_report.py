"""All that the tables, figures and page of one suite are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.cli import count
from bench.config.names import EVALUATED_ON, split_id
from bench.config.params import PUBLISHED_EPOCHS
from bench.config.registry import Registry
from bench.config.schema import Recipe
from bench.config.suite import BASELINE, Suite, SuiteEntry, changes_results
from bench.report.definition import suite_recipes
from bench.report.frame import CELL, RUN, curves_frame, guidance_of, runs_frame
from bench.report.overall import overall_notes
from bench.report.papers import published_frame
from bench.report.reproductions import reproduction_notes, reproductions_frame
from bench.report.stats import cells_frame, guessing, pairs_frame
from bench.runs.finished import FinishedRun
from bench.runs.record import stale_parts

FEW_METHODS = 6  # of a cell that are shown in the order of the suite, and have colours of their own


@dataclass(frozen=True)
class SuiteReport:
    """A suite with its runs and what follows from them.

    recipes: the entries of the suite with their recipes, seed 0; within a cell the reference is first.
    runs, curves: see bench/report/frame.py; a run is there once for each entry that it belongs to.
    pairs, cells: see bench/report/stats.py.
    published: see `papers.published_frame`. reproductions: see `reproductions_frame`.
    settings: {key: value as text} that the suite sets over its protocol.
    protocol_note: a sentence with the protocol's name, and its main settings unless they are the published ones.
    settings_note: sentences with `settings` and the varied keys, "" without them.
    notes: further sentences that a reader must know before comparing.
    """

    suite: Suite
    recipes: list[tuple[SuiteEntry, Recipe]]
    runs: pd.DataFrame
    curves: pd.DataFrame
    pairs: pd.DataFrame
    cells: pd.DataFrame
    published: pd.DataFrame
    reproductions: pd.DataFrame
    settings: dict[str, str]
    protocol_note: str
    settings_note: str
    notes: list[str]

    @property
    def reference(self) -> str:
        """What gains are over, in words."""
        return "the baseline" if self.suite.reference == BASELINE else self.suite.reference

    @property
    def measure(self) -> str:
        """What accuracies are: "test accuracy", or "held-out accuracy" with `data.holdout`."""
        return "held-out accuracy" if (self.runs["evaluated_on"] == "holdout").any() else "test accuracy"

    @property
    def ranked_cells(self) -> pd.DataFrame:
        """`cells` as a reader wants them: where a cell has more than FEW_METHODS methods, the reference is first and the
        others are sorted, see `by_gain`."""
        order: list[object] = []
        for _, own in self.cells.groupby(CELL, sort=False):
            if len(own) > FEW_METHODS:
                gains = own["gain_mean"].mask(own["method"] == self.suite.reference, np.inf)
                own = own.iloc[by_gain(gains.set_axis(own["method"]))]
            order += list(own.index)
        return self.cells.loc[order]

    @property
    def distinct_runs(self) -> pd.DataFrame:
        """The runs, each once."""
        return self.runs.drop_duplicates(["id", "hash", "seed"])

    @property
    def remarks(self) -> list[str]:
        """The notes on protocol and settings, the other ones, and what the runs were made with."""
        protocol = " ".join(filter(None, (self.protocol_note, self.settings_note)))
        return [protocol, *self.notes, self.code_note]

    @property
    def code_note(self) -> str:
        """A sentence with the libraries and commits that the runs were made with."""
        libraries, commits = self.runs["libraries"], self.runs["commit"].dropna().str[:7].unique()
        used = {name: libraries.str[name].dropna().astype(str).unique() for name in ("torch", "timm")}
        versions = [f"{name} {' and '.join(found)}" for name, found in used.items() if len(found)]
        code = [f"code {', '.join(commits)}"] if len(commits) else []
        return f"The runs were made with {', '.join([*versions, *code]) or 'unknown code'}."

    def dataset_label(self, dataset: str) -> str:
        """A dataset's name, and how many classes its runs have if not all: "tiny_imagenet, 20 of 200 classes"."""
        runs = self.runs[self.runs["dataset"] == dataset]
        total = next(recipe.data.classes for one, recipe in self.recipes if split_id(one.id)[1] == dataset)
        some = total and total > runs["classes"].max()  # false without runs
        return f"{dataset}, {_numbers(runs['classes'])} of {total} classes" if some else dataset

    def images_note(self, dataset: str) -> str:
        """The images of a dataset that its runs have, and what an accuracy on them can show; "" without runs."""
        runs = self.runs[self.runs["dataset"] == dataset]
        if runs.empty:
            return ""
        classes = self.dataset_label(dataset).partition(", ")[2] or f"{_numbers(runs['classes'])} classes"
        trained, images = (_numbers(runs[name]) for name in ("train_images", "test_images"))
        kind = " or ".join(EVALUATED_ON.get(one, one) for one in runs["evaluated_on"].unique())
        chance = " or ".join(f"{100 * value:.2f} %" for value in sorted(guessing(runs).unique()))
        return (
            f"{classes}, {trained} training images, evaluated on {images} {kind} images. Guessing gives"
            f" {chance}. With this many test images, an accuracy has a standard error of up to"
            f" {50 / np.sqrt(runs['test_images'].min()):.1f} points; intervals leave it out."
        )


def by_gain(gains: pd.Series) -> np.ndarray:
    """The positions that sort gains by method: the largest first, missing ones last.

    Methods of one guidance stay together in their given order. Their largest gain decides where the group stands.
    """
    names = gains.index.map(guidance_of)
    best = gains.groupby(names, sort=False).max().sort_values(ascending=False, kind="stable")
    return best.index.get_indexer(names).argsort(kind="stable")


def build_suite_report(
    registry: Registry, suite: Suite, finished: Sequence[FinishedRun], reproductions: Sequence[FinishedRun] = ()
) -> SuiteReport:
    """The report of a suite from its runs, of which there must be at least one, and reproductions of them."""
    recipes = suite_recipes(registry, suite, finished)
    placed = _placed(recipes, finished)
    runs = runs_frame(placed)
    of_runs = [*RUN, "diverged", "guidance_stop_epoch"]
    curves = curves_frame(runs[of_runs], [run for run, _ in placed])[[*of_runs, "epoch", "test_accuracy"]]
    pairs, published = pairs_frame(runs, curves, suite.reference), published_frame(registry, (one for _, one in recipes))
    cells = cells_frame(suite, recipes, runs, pairs, published)
    settings = {key: str(given.value) for key, given in suite.overrides if key != "teacher.weights"}  # a path of a machine
    others = reproductions_frame(runs, pairs, _placed(recipes, reproductions), suite.reference)
    distinct = runs.drop_duplicates(["id", "hash", "seed"])
    notes = [
        *overall_notes(suite, cells, pairs),
        *_deviations(suite, recipes, distinct),
        *_scaling_note(recipes),
        *_comparison_notes(distinct),
        *_chance_notes(suite, cells),
        *_pairing_notes(suite, cells),
        *_stale_note((recipe for _, recipe in recipes), finished),
        *reproduction_notes(others),
    ]
    said = _protocol_note(suite, recipes), _settings_note(suite, settings)
    return SuiteReport(suite, recipes, runs, curves, pairs, cells, published, others, settings, *said, notes)


def _placed(
    recipes: Sequence[tuple[SuiteEntry, Recipe]], runs: Iterable[FinishedRun]
) -> list[tuple[FinishedRun, SuiteEntry]]:
    """Runs with the entries that they belong to, in the order of the entries."""
    by_recipe: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        by_recipe.setdefault(run.key[:2], []).append(run)
    return [(run, one) for one, recipe in recipes for run in by_recipe.get((one.id, recipe.hash), ())]


def _settings_note(suite: Suite, settings: Mapping[str, str]) -> str:
    own = [f"Settings of this suite: {', '.join(f'{key}={value}' for key, value in settings.items())}."] if settings else []
    alone = [values[0][0][0] for values in suite.vary if len(values[0]) == 1]
    varied = [f"Varied: {', '.join(alone)}."] if alone else []
    for values in suite.vary:
        if len(values[0]) > 1:
            variants = (" ".join(f"{key}={given.value}" for key, given in variant) for variant in values)
            varied.append(f"Varied together: {'; '.join(variants)}.")
    return " ".join([*own, *varied])


def _protocol_note(suite: Suite, recipes: Sequence[tuple[SuiteEntry, Recipe]]) -> str:
    if _is_published(suite):
        return "Protocol: paper (arXiv 2207.10026)."
    is_other = ", not the published one" if suite.protocol != "paper" else " (arXiv 2207.10026), with other settings"
    train = [recipe.train for _, recipe in recipes]
    epochs = _listed(part.epochs for part in train)
    return (
        f"Protocol: {suite.protocol}{is_other}: {epochs} {'epoch' if epochs == '1' else 'epochs'}, batch size"
        f" {_listed(part.batch_size for part in train)}, image size"
        f" {_listed(recipe.model.image_size for _, recipe in recipes)} px."
    )


def _is_published(suite: Suite) -> bool:
    """Whether a suite is of the published protocol, in whichever precision."""
    changed = [path for path in (*dict(suite.overrides), *suite.varied) if changes_results(path)]
    return suite.protocol == "paper" and all(path.endswith("train.precision") for path in changed)


def _listed(values: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(values))))


def _deviations(suite: Suite, recipes: Sequence[tuple[SuiteEntry, Recipe]], runs: pd.DataFrame) -> list[str]:
    """How the runs differ from the released code; empty for other settings, which are another experiment.

    docs/protocol.md has the whole list, with reasons.
    """
    if not _is_published(suite):
        return []
    out = [
        "Each sample has its own random augmentation; in the released code all loader workers drew the same numbers.",
        "The headline is the last epoch; published numbers are of the best test epoch.",
    ]
    if used := sorted(set(runs["precision"]) - {"fp32"}):
        out.append(f"Trained in {', '.join(used)} (evaluated in fp32); published: fp32.")
    if (runs["teacher_select"] == "last").any():
        out.append("The teacher has the weights of its last epoch; published: of its best test epoch.")
    if any(recipe.data.pipeline == "batched" for one, recipe in recipes if (runs["id"] == one.id).any()):
        out.append("Images are augmented on the device, by the published distributions; published: by timm with Pillow.")
    if (runs["world_size"] > 1).any():
        out.append("Batch norm (the teacher's, CvT's) uses the batch of all processes; published: of each GPU.")
    return out


def _scaling_note(recipes: Sequence[tuple[SuiteEntry, Recipe]]) -> list[str]:
    """A sentence with the constants in epochs that are scaled to the length of the runs, if there are such."""
    found: dict[tuple[str, str], set[int]] = {}
    lengths = {recipe.train.epochs for _, recipe in recipes if recipe.guidance and recipe.train.epochs != PUBLISHED_EPOCHS}
    for one, recipe in recipes:
        if recipe.guidance is not None and recipe.train.epochs in lengths:
            for path, epochs in recipe.guidance.scaled_epochs(recipe.train.epochs).items():
                found.setdefault((split_id(one.id)[2], path.rpartition(".")[2]), set()).add(epochs)
    if not found:
        return []
    parts = ", ".join(f"{name} {key} {_listed(epochs)}" for (name, key), epochs in found.items())
    return [f"Constants in epochs are scaled from {PUBLISHED_EPOCHS} epochs to {_listed(lengths)}: {parts}."]


def _comparison_notes(runs: pd.DataFrame) -> list[str]:
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
    if fell_back := int(runs["fell_back"].sum()):
        out.append(
            f"{fell_back} of {count(len(runs), 'run')} fell back from compilation and took longer than such hardware needs:"
            " the table of runs shows which."
        )
    if dirty := int(runs["dirty"].fillna(False).sum()):
        out.append(f"{dirty} of {count(len(runs), 'run')} used code that was not committed.")
    return out


def _chance_notes(suite: Suite, cells: pd.DataFrame) -> list[str]:
    """Where gains are over runs of the reference that learned next to nothing."""
    failed = cells[(cells["method"] == suite.reference) & (cells["chance_seeds"] > 0)]
    reference = "The baseline" if suite.reference == BASELINE else suite.reference
    return [
        f"{reference} of {' '.join(filter(None, (row.model, row.variant)))} on {row.dataset} ends at chance (not clearly"
        f" above guessing) with {row.chance_seeds} of {count(row.gain_seeds, 'seed')}: gains over it include these failed"
        " trainings."
        for row in failed.itertuples()
    ]


def _numbers(values: pd.Series) -> str:
    return " or ".join(f"{value:,}" for value in sorted(values.unique()))


def _stale_note(recipes: Iterable[Recipe], runs: Sequence[FinishedRun]) -> list[str]:
    """A sentence about runs that are recorded with other code, if there are such."""
    now, records = {recipe.hash: recipe for recipe in recipes}, [run.record for run in runs]
    changed = [parts for one in records if one.hash in now and (parts := stale_parts(one, now[one.hash]))]
    if not changed:
        return []
    names = "; ".join(dict.fromkeys(part for parts in changed for part in parts))
    verb = "is" if len(changed) == 1 else "are"
    said = f"{len(changed)} of {count(len(runs), 'run')} {verb} recorded with other code ({names})"
    return [f"{said}: `sweep --stale` runs {'it' if len(changed) == 1 else 'them'} again."]


def _pairing_notes(suite: Suite, cells: pd.DataFrame) -> list[str]:
    """Where there is no gain although there are runs: no reference in a cell, or runs that were computed otherwise."""
    out = []
    alone = [cell for cell, own in cells.groupby(CELL, sort=False) if suite.reference not in set(own["method"])]
    if alone:
        names = ", ".join(f"{model} on {dataset}" for model, dataset in dict.fromkeys(cell[:2] for cell in alone))
        out.append(f"Without {suite.reference} there is nothing to compare with, so there are no gains: {names}.")
    if unpaired := [text for text in cells["unpaired"] if text]:
        reasons = {part.partition(": other ")[2] for text in unpaired for part in text.split("; ")}
        out.append(
            f"Runs that differ from those of {suite.reference} in {', '.join(sorted(reasons))} are not paired: no gain is"
            " computed from them."
        )
    return out

"""What guidance changes inside students: their attention distances and CKA, by the functions in measures.py."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.cli import count
from bench.config.names import EVALUATED_ON, split_id
from bench.config.parse import flatten
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import BASELINE
from bench.data.loaders import unaugmented
from bench.data.subsets import Subset
from bench.models import default_feature_layers
from bench.models.features import FeatureExtractor, block_names
from bench.rng import Stream, generator
from bench.runs.record import Record
from bench.share.load import Folders, NoTrainedNetwork, read_run, recorded_dataset, trained_network
from bench.share.measures import block_distances, centred_gram, cka
from bench.share.pair import trained_teacher
from bench.train.teacher import Teacher

TEACHER = "teacher"
MIN_IMAGES = 16  # of a minibatch; the unbiased estimator needs four
ATTENTION_IMAGES = 16  # at once: the attention of DeiT-Ti at 224 px takes 6 MB an image


class AttentionRow(NamedTuple):
    """The mean attention distance of a head, in px of the student's input."""

    method: str
    seed: int
    block: int  # from 0
    layer: str  # the module of the block
    head: int
    distance_px: float
    uniform_px: float  # if all keys had the same attention


class SimilarityRow(NamedTuple):
    """The CKA of a block's map and a map of the teacher, or of the same seed's run of another method."""

    method: str
    seed: int
    block: int
    layer: str
    other: str  # "teacher" or a method
    other_block: int  # from 0; of a teacher, which of its feature layers
    other_layer: str
    cka: float


class Analysis(NamedTuple):
    """The result of `analyze_runs`: what `report.analysis.Findings` has, with rows in place of its data frames."""

    subject: str
    reference: str
    attention: list[AttentionRow]
    similarity: list[SimilarityRow]
    compared: dict[str, int]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class _Run:
    folder: Path
    record: Record
    recipe: Recipe
    method: str  # its label
    student: FeatureExtractor  # its maps are the outputs of all blocks

    @property
    def name(self) -> str:
        return f"{self.method} seed {self.recipe.seed}"


def analyze_runs(
    folders: Sequence[Path],
    images: int,
    data_dir: str | Path,
    device: torch.device,
    recipes_dir: Folders,
    say: Callable[[str], None],
) -> Analysis:
    """Attention distances and CKA of runs of one student on one dataset, in fp32, on images that they were evaluated on.

    Runs without a trained network are left out. The teacher is that of the first run that has one. The images are the same
    for all runs, in a fixed random order. A minibatch is about as large as the training batch of the run with that teacher,
    since a teacher with `bn: batch` uses the statistics of the minibatch.

    Args:
        say: receives progress messages.

    Raises:
        RecipeError: no run is finished, a folder is not that of a run, or the runs are not of one student and the same
            images.
    """
    runs, notes = _load(folders, device, recipes_dir)
    first, methods = runs[0], [run.method for run in runs]
    reference = BASELINE if BASELINE in methods else methods[0]
    guided = next((run for run in runs if run.recipe.teacher is not None), None)
    teacher = None
    if guided is None:
        notes.append("No run has a teacher: give a guided run too for the similarity to its teacher.")
    else:
        try:
            teacher = trained_teacher(guided.folder, guided.recipe, guided.record).to(device)
        except RecipeError as error:  # its weights are not here, or it is a teacher of logits alone, without maps
            notes.append(f"The similarity to the teacher is missing: {error}.")
    subset = recorded_dataset(first.folder, first.record, first.recipe, data_dir).evaluation(first.recipe.data)
    if len(subset) < MIN_IMAGES:
        raise RecipeError(f"{first.folder}: evaluated on {len(subset)} images, and {MIN_IMAGES} are needed")
    order = generator(0, Stream.ORDER).permutation(len(subset))[:images]
    batch = max((guided or first).recipe.train.batch_size, MIN_IMAGES)
    batches = [subset.indices[part] for part in np.array_split(order, max(1, round(len(order) / batch)))]
    others = {run.recipe.seed: run for run in runs if run.method == reference}
    pairs = [(run, TEACHER, TEACHER, teacher.network) for run in runs if teacher is not None]
    for run in runs:
        if (other := others.get(run.recipe.seed)) not in (None, run):
            pairs.append((run, other.name, other.method, other.student))
    matrices = {}
    if pairs:
        grams = _grams(runs, guided, teacher, subset, batches, device, say)
        matrices = cka(grams, [(run.name, other) for run, other, *_ in pairs])
    attention, problems = _attention_rows(runs, subset, np.concatenate(batches), device, say)
    notes += problems
    similarity = [
        SimilarityRow(
            run.method, run.recipe.seed, block, layer, method, *theirs, matrices[run.name, other][block, theirs[0]].item()
        )
        for run, other, method, network in pairs
        for block, layer in enumerate(run.student.feature_layers)
        for theirs in enumerate(network.feature_layers)
    ]
    for run in runs if teacher is not None else ():
        if (own := run.record.teacher) is not None and own.weights != guided.record.teacher.weights:
            which = own.id if own.seed is None else f"{own.id} seed {own.seed}"
            notes.append(
                f"{run.name} was guided by another teacher ({which}) than the one compared with here, that of"
                f" {guided.name}."
            )
    if not attention and not similarity:
        raise RecipeError(f"{first.folder}: nothing can be computed. {' '.join(notes)}")
    model, dataset, _ = split_id(first.recipe.id)
    where = EVALUATED_ON[first.record.dataset.evaluated_on]
    subject = f"{model} on {dataset}: {len(order):,} {where} images of {first.recipe.model.image_size} px"
    compared = _compared(guided, teacher) if teacher is not None else {}
    return Analysis(subject, reference, attention, similarity, compared, notes)


def _load(folders: Sequence[Path], device: torch.device, recipes_dir: Folders) -> tuple[list[_Run], list[str]]:
    """The runs, each once, and a sentence on each that has no trained network.

    Raises RecipeError if no run has a trained network, or if the runs are not of one student and the same images.
    """
    found, left_out = {}, []
    for folder in folders:
        try:
            record, recipe = read_run(folder, recipes_dir)
        except NoTrainedNetwork as error:
            left_out.append(error)
            continue
        found.setdefault((recipe.hash, recipe.seed), (folder, record, recipe))
        if recipe.model.role == "teacher":
            raise RecipeError(f"{folder}: the run of a teacher: name runs of students, guided ones bring their teacher")
    if not found:
        raise left_out[0]
    runs = list(found.values())
    first = _same(*runs[0][1:])
    for folder, record, recipe in runs[1:]:
        if differing := [what for what, value in _same(record, recipe).items() if value != first[what]]:
            raise RecipeError(
                f"{folder}: {recipe.id} has {differing[0]} than {runs[0][0]}, {runs[0][2].id}: all runs must be of one"
                " student, with one image size, and evaluated on the same images"
            )
    methods = method_labels([recipe for *_, recipe in runs])
    out = []
    for (folder, record, recipe), method in zip(runs, methods, strict=True):
        network = trained_network(folder, recipe, record.dataset.classes, record.weights)
        student = FeatureExtractor(network, recipe.model, (), block_names(network, recipe.model)).eval().to(device)
        out.append(_Run(folder, record, recipe, method, student.requires_grad_(False)))
    return out, [f"Left out: {error}." for error in left_out]


def _same(record: Record, recipe: Recipe) -> dict[str, object]:
    """What all runs must have in common, by words for what differs."""
    data, of = recipe.data, record.dataset
    student = dataclasses.replace(recipe.model, feature_layers=(), drop_path_rate=0.0)
    images = (of.fingerprint, of.evaluated_on, data.subset, data.holdout, data.test_share)
    return {"another student": student, "other images": images}


def method_labels(recipes: Sequence[Recipe]) -> list[str]:
    """The method of each recipe; where several recipes have one, with the keys that differ, as `kd alpha=0.5`."""
    of_method = defaultdict(dict)
    for recipe in recipes:
        content = recipe.to_dict()
        keys = flatten(content, recipe.id, tuple(content)).items()
        own = {name: given.value for name, given in keys if name not in ("hash", "teacher.hash", "seed")}
        of_method[split_id(recipe.id)[2]][recipe.hash] = own
    labels = []
    for recipe in recipes:
        method = split_id(recipe.id)[2]
        own, others = of_method[method][recipe.hash], of_method[method].values()
        differing = [name for name in own if any(other.get(name) != own[name] for other in others)]
        settings = (f"{name.removeprefix('guidance.params.')}={own[name]}" for name in differing)
        labels.append(" ".join([method, *settings]))
    return labels


@torch.no_grad()
def _grams(
    runs: Sequence[_Run],
    guided: _Run | None,
    teacher: Teacher | None,
    subset: Subset,
    batches: Sequence[np.ndarray],
    device: torch.device,
    say: Callable[[str], None],
) -> Iterator[dict[str, Tensor]]:
    """For each minibatch, the centred Gram matrices of all maps of the runs and the teacher of `guided`, on the CPU."""
    for number, indices in enumerate(batches, 1):
        say(f"maps of {count(len(runs), 'run')}: minibatch {number} of {len(batches)}")
        out = {}
        for run in runs:
            images = unaugmented(run.recipe, subset.images, indices, device)
            out[run.name] = torch.stack([centred_gram(of_block).cpu() for of_block in run.student(images)[1]])
            if run is guided and teacher is not None:
                if run.recipe.guidance.teacher.offline:
                    seen = unaugmented(run.recipe.teacher, subset.images, indices, device)
                else:
                    seen = teacher.resize_input(images)
                out[TEACHER] = torch.stack([centred_gram(of_layer).cpu() for of_layer in teacher(seen).maps])
        yield out


def _attention_rows(
    runs: Sequence[_Run], subset: Subset, indices: np.ndarray, device: torch.device, say: Callable[[str], None]
) -> tuple[list[AttentionRow], list[str]]:
    """The distances of all runs; or none, and a sentence why."""
    rows = []
    parts = [indices[first : first + ATTENTION_IMAGES] for first in range(0, len(indices), ATTENTION_IMAGES)]
    for number, run in enumerate(runs, 1):
        say(f"attention of {run.name}, {number} of {len(runs)}")
        sums: dict[str, Tensor] = defaultdict(float)
        uniform: dict[str, float] = {}
        for part in parts:
            images = unaugmented(run.recipe, subset.images, part, device)
            try:
                found = block_distances(run.student, images)
            except ValueError as problem:
                return [], [f"Attention distances are missing: {problem}."]
            for layer, (of_heads, of_uniform) in found.items():
                sums[layer] = sums[layer] + of_heads.double().cpu() * len(part)
                uniform[layer] = of_uniform
        for layer, total in sums.items():
            block = run.student.feature_layers.index(layer)
            for head, value in enumerate((total / len(indices)).tolist()):
                rows.append(AttentionRow(run.method, run.recipe.seed, block, layer, head, value, uniform[layer]))
    return rows, []


def _compared(guided: _Run, teacher: Teacher) -> dict[str, int]:
    """{feature layer of the teacher: the student's block that locality guidance compares with it}."""
    guidance, model, network = guided.recipe.guidance, guided.recipe.model, guided.student.network
    methods = dict(zip(guidance.method.split("+"), guidance.params, strict=True))
    if "locality" not in methods:
        return {}
    layers = model.feature_layers or default_feature_layers(network, model)
    pairs, stages = list(zip(layers, teacher.network.feature_layers, strict=False)), methods["locality"].stages
    shown, blocks = pairs if stages is None else [pairs[stage] for stage in stages], guided.student.feature_layers
    return {theirs: blocks.index(ours) for ours, theirs in shown if ours in blocks}

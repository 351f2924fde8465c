"""What guidance changes inside a student: how far its attention reaches, and how similar its maps are to others'.

**Mean attention distance** (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929, figure 7; Raghu et al., NeurIPS 2021,
arXiv 2108.08810): the distance between a query's and a key's position in the image, weighted by the attention, mean over
queries and images. Positions are the centres of the cells of a grid: that of the queries, and in pyramids the smaller one
of the keys. Class tokens are left out as queries and as keys, and the attention to the other keys is divided by its sum.

**Linear CKA** (Kornblith et al., ICML 2019, arXiv 1905.00414) between flattened maps of the same images, without class
tokens: HSIC(K, L) / sqrt(HSIC(K, K) · HSIC(L, L)) of Gram matrices. HSIC is the unbiased estimator of Song et al. (JMLR
2012), each of the three is the mean over minibatches (Nguyen et al., ICLR 2021, arXiv 2010.15327): the usual estimator is
far above zero for independent maps where there are more features than images, as here.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.config.names import split_id
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import BASELINE
from bench.data.loaders import unaugmented
from bench.data.store import open_dataset
from bench.data.subsets import EVALUATED_ON, Subset
from bench.models import default_feature_layers
from bench.models.attention import attention_maps
from bench.models.features import FeatureExtractor, block_names, prefix_tokens
from bench.rng import Stream, generator
from bench.runs.record import Record
from bench.share.load import Folders, read_run, trained_network
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
    """The result of `analyze_runs`.

    subject: student, dataset and images in words.
    reference: the method that the others are compared with.
    compared: {feature layer of the teacher: the student's block that locality guidance compares with it}.
    notes: sentences on what is not comparable or missing.
    """

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
    folders: Sequence[Path], images: int, data_dir: str | Path, device: torch.device, recipes_dir: Folders = ()
) -> Analysis:
    """Attention distances and CKA of runs of one student on one dataset, in fp32, on images that they were evaluated on.

    The teacher is that of the first run that has one. The images are the same for all runs, in a fixed random order, in
    minibatches of about the training batch of that run, by which a teacher with `bn: batch` normalises them.

    Raises:
        RecipeError: a run or the teacher's weights are missing, or the runs are not of one student and the same images.
    """
    runs = _load(folders, device, recipes_dir)
    first, methods = runs[0], [run.method for run in runs]
    reference = BASELINE if BASELINE in methods else methods[0]
    guided = next((run for run in runs if run.recipe.teacher is not None), None)
    teacher = trained_teacher(guided.folder, guided.recipe, guided.record).to(device) if guided else None
    subset = _subset(runs, data_dir)
    order = generator(0, Stream.ORDER).permutation(len(subset))[:images]
    batch = max((guided or first).recipe.train.batch_size, MIN_IMAGES)
    batches = [subset.indices[part] for part in np.array_split(order, max(1, round(len(order) / batch)))]
    others = {run.recipe.seed: run for run in runs if run.method == reference}
    pairs = [(run, TEACHER, TEACHER, teacher.network) for run in runs if teacher is not None]
    for run in runs:
        if (other := others.get(run.recipe.seed)) not in (None, run):
            pairs.append((run, other.name, other.method, other.student))
    grams = (_grams(runs, guided, teacher, subset, indices, device) for indices in batches)
    matrices = cka(grams, [(run.name, other) for run, other, *_ in pairs])
    attention, notes = _attention_rows(runs, subset, np.concatenate(batches), device)
    similarity = [
        SimilarityRow(
            run.method, run.recipe.seed, block, layer, method, *theirs, matrices[run.name, other][block, theirs[0]].item()
        )
        for run, other, method, network in pairs
        for block, layer in enumerate(run.student.feature_layers)
        for theirs in enumerate(network.feature_layers)
    ]
    if teacher is None:
        notes.append("No run has a teacher: give a guided run too for the similarity to its teacher.")
    for run in runs:
        if (own := run.record.teacher) is not None and own.weights != guided.record.teacher.weights:
            notes.append(
                f"{run.name} was guided by another teacher ({own.id} seed {own.seed}) than the one compared with here, that"
                f" of {guided.name}."
            )
    model, dataset, _ = split_id(first.recipe.id)
    where = EVALUATED_ON[first.record.dataset.evaluated_on]
    subject = f"{model} on {dataset}: {len(order):,} {where} images of {first.recipe.model.image_size} px"
    compared = _compared(guided, teacher) if guided else {}
    return Analysis(subject, reference, attention, similarity, compared, notes)


def attention_distance(weights: Tensor, distances: Tensor) -> Tensor:
    """The mean attention distance of each head: [heads], in the unit of the distances.

    Args:
        weights: attention [batch, heads, queries, keys] between patches, without class tokens; rows need not sum to one.
        distances: [queries, keys] between their positions.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights * distances).sum(-1).mean((0, 2))


def block_distances(student: FeatureExtractor, images: Tensor) -> dict[str, tuple[Tensor, float]]:
    """{block: (attention distance of each head, that of uniform attention)} in px.

    Raises ValueError if the network's attention is not known, or not between the cells of square grids of the image.
    """
    network, out = student.network, {}
    for name, weights in attention_maps(network, images).items():
        block = next((block for block in student.feature_layers if name.startswith(f"{block}.")), None)
        if block is None:
            continue
        if weights.ndim != 4 or len(weights) != len(images):
            raise ValueError(
                f"the attention of {type(network).__name__} at {name} is not that of whole images, as in windows"
            )
        ends = [prefix_tokens(count, network) for count in weights.shape[2:]]
        if None in ends:
            raise ValueError(f"the tokens of {type(network).__name__} at {name} are not those of a square")
        weights = weights[:, :, ends[0] :, ends[1] :]
        queries, keys = (round(count**0.5) for count in weights.shape[2:])
        distances = grid_distances(queries, keys, images.shape[-1]).to(images.device)
        out[block] = attention_distance(weights, distances), distances.mean().item()
    return out


def grid_distances(queries: int, keys: int, side: float) -> Tensor:
    """The distances between the centres of the cells of two square grids over one image: [queries², keys²].

    Args:
        queries, keys: cells along a side.
        side: of the image.
    """
    centres = [(torch.arange(cells) + 0.5) * (side / cells) for cells in (queries, keys)]
    ours, theirs = (torch.cartesian_prod(one, one) for one in centres)
    return torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")


def centred_gram(maps: Tensor) -> Tensor:
    """The U-centred linear Gram matrix of maps [n, …], float64, [n²], divided by the root of n(n - 3).

    The inner product of two of them is the unbiased estimate of HSIC (Song et al. 2012, equation 5, in the form of Székely
    and Rizzo, Annals of Statistics 2014, arXiv 1310.2926): the diagonal is zero, and so is each row's and column's sum.
    """
    flat = maps.flatten(1).double()
    gram, n = flat @ flat.T, len(flat)
    gram.fill_diagonal_(0)
    rows = gram.sum(1) / (n - 2)
    gram = gram - rows[:, None] - rows[None] + rows.sum() / (n - 1)
    return gram.fill_diagonal_(0).flatten() / (n * (n - 3)) ** 0.5


def cka(minibatches: Iterable[Mapping[str, Tensor]], pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Tensor]:
    """The linear CKA of all layers of two networks, for each pair of networks: [layers of one, layers of the other].

    Args:
        minibatches: of each the `centred_gram` of every layer, by network: {network: [layers, n²]}.

    A map that is the same for all images has no CKA (nan).
    """
    own, both = defaultdict(float), defaultdict(float)
    for grams in minibatches:
        for name, of_layers in grams.items():
            own[name] = own[name] + of_layers.square().sum(1)
        for one, other in pairs:
            both[one, other] = both[one, other] + grams[one] @ grams[other].T
    return {(one, other): hsic / (own[one][:, None] * own[other]).sqrt() for (one, other), hsic in both.items()}


def _load(folders: Sequence[Path], device: torch.device, recipes_dir: Folders) -> list[_Run]:
    """The runs, each once. Raises RecipeError if they are not of one student and the same images."""
    found = {}
    for folder in folders:
        record, recipe = read_run(folder, recipes_dir)
        found.setdefault((recipe.hash, recipe.seed), (folder, record, recipe))
        if recipe.model.role == "teacher":
            raise RecipeError(f"{folder}: the run of a teacher: name runs of students, guided ones bring their teacher")
    runs = list(found.values())
    for folder, record, recipe in runs[1:]:
        for what, one, other in zip(
            ("another student", "other images"), _same(*runs[0][1:]), _same(record, recipe), strict=True
        ):
            if one != other:
                raise RecipeError(
                    f"{folder}: {recipe.id} has {what} than {runs[0][0]}, {runs[0][2].id}: all runs must be of one"
                    " student, with one image size, and evaluated on the same images"
                )
    methods = method_labels([recipe for *_, recipe in runs])
    out = []
    for (folder, record, recipe), method in zip(runs, methods, strict=True):
        network = trained_network(folder, recipe, record.dataset.classes, record.weights)
        student = FeatureExtractor(network, recipe.model, (), block_names(network, recipe.model)).eval().to(device)
        out.append(_Run(folder, record, recipe, method, student.requires_grad_(False)))
    return out


def _same(record: Record, recipe: Recipe) -> tuple[object, object]:
    """What all runs must have in common: student, and images."""
    data, of = recipe.data, record.dataset
    student = dataclasses.replace(recipe.model, feature_layers=(), drop_path_rate=0.0)
    return student, (of.fingerprint, of.evaluated_on, data.subset, data.holdout, data.test_share)


def method_labels(recipes: Sequence[Recipe]) -> list[str]:
    """The method of each recipe; where several recipes have one, with the keys that differ, as `kd alpha=0.5`."""
    of_method = defaultdict(dict)
    for recipe in recipes:
        of_method[split_id(recipe.id)[2]].setdefault(recipe.hash, dict(_flat(recipe.to_dict())))
    labels = []
    for recipe in recipes:
        method = split_id(recipe.id)[2]
        own, others = of_method[method][recipe.hash], of_method[method].values()
        differing = [name for name in own if any(other.get(name) != own[name] for other in others)]
        settings = (f"{name.removeprefix('guidance.params.')}={own[name]}" for name in differing)
        labels.append(" ".join([method, *settings]))
    return labels


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a recipe with their values, as train.lr; without hashes, and the student's seed."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif name != "hash" and prefix + name != "seed":
            yield prefix + name, value


def _subset(runs: Sequence[_Run], data_dir: str | Path) -> Subset:
    """The images that the runs were evaluated on. Raises RecipeError if these are others than the recorded ones."""
    first = runs[0]
    dataset = open_dataset(first.recipe.data, data_dir)
    if dataset.fingerprint != first.record.dataset.fingerprint:
        raise RecipeError(
            f"{first.folder}: trained with other images (fingerprint {first.record.dataset.fingerprint[:8]}) than"
            f" {first.recipe.data.name} has here ({dataset.fingerprint[:8]})"
        )
    subset = dataset.evaluation(first.recipe.data)
    if len(subset) < MIN_IMAGES:
        raise RecipeError(f"{first.folder}: evaluated on {len(subset)} images, and {MIN_IMAGES} are needed")
    return subset


@torch.no_grad()
def _grams(
    runs: Sequence[_Run],
    guided: _Run | None,
    teacher: Teacher | None,
    subset: Subset,
    indices: np.ndarray,
    device: torch.device,
) -> dict[str, Tensor]:
    """The centred Gram matrices of all maps of the runs and the teacher for one minibatch, on the CPU."""
    out = {}
    for run in runs:
        images = unaugmented(run.recipe, subset.images, indices, device)
        out[run.name] = torch.stack([centred_gram(of_block).cpu() for of_block in run.student(images)[1]])
        if run is guided:
            is_offline = run.recipe.guidance.teacher.offline
            own = unaugmented(run.recipe.teacher, subset.images, indices, device) if is_offline else None
            seen = teacher.resize_input(images) if own is None else own
            out[TEACHER] = torch.stack([centred_gram(of_layer).cpu() for of_layer in teacher(seen).maps])
    return out


def _attention_rows(
    runs: Sequence[_Run], subset: Subset, indices: np.ndarray, device: torch.device
) -> tuple[list[AttentionRow], list[str]]:
    """The distances of all runs; or none, and a sentence why."""
    rows = []
    parts = [indices[first : first + ATTENTION_IMAGES] for first in range(0, len(indices), ATTENTION_IMAGES)]
    for run in runs:
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
    guidance, layers = guided.recipe.guidance, guided.student.feature_layers
    out = {}
    for name, params in zip(guidance.method.split("+"), guidance.params, strict=True):
        if name == "locality":
            chosen = guided.recipe.model.feature_layers or default_feature_layers(
                guided.student.network, guided.recipe.model
            )
            pairs = list(zip(chosen, teacher.network.feature_layers, strict=False))
            shown = pairs if params.stages is None else [pairs[stage] for stage in params.stages]
            out = {theirs: layers.index(ours) for ours, theirs in shown if ours in layers}
    return out

"""`python -m bench analyze`: attention distances and CKA against what they must be, and of real runs."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import bench
from bench import models
from bench.__main__ import main
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.store import open_dataset
from bench.models.features import FeatureExtractor, block_names
from bench.rng import Stream, generator
from bench.share.analysis import method_labels
from bench.share.measures import attention_distance, block_distances, centred_gram, cka, grid_distances
from bench.storage import read_json, write_json
from bench.train.teacher_cache import TeacherCache
from tests.helpers.networks import REGISTRY, build
from tests.helpers.synthetic import make_teacher

grids = st.integers(1, 9)
sides = st.sampled_from([1.0, 16.0, 224.0])
seeds = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(grids, sides, seeds)
@settings(max_examples=30, deadline=None)
def test_distance_of_uniform_attention_is_the_mean_distance_of_the_grid(n, side, seed):
    # two cells are d rows apart in 2 (n - d) of n² ways, and n for d = 0
    ways = [n if d == 0 else 2 * (n - d) for d in range(n)]
    mean = sum(ways[a] * ways[b] * math.hypot(a, b) for a in range(n) for b in range(n)) / n**4
    weights = normal(seed, 2, 3, n * n, 1).square().expand(-1, -1, -1, n * n) + 0.1  # rows have any sum
    found = attention_distance(weights, grid_distances(n, n, side))
    assert torch.allclose(found, torch.full((3,), mean * side / n, dtype=torch.float64), rtol=1e-5)


@given(grids, sides)
@settings(max_examples=20, deadline=None)
def test_distance_of_attention_to_one_key(n, side):
    distances, itself = grid_distances(n, n, side), torch.eye(n * n)[None, None]
    assert torch.equal(attention_distance(itself, distances), torch.zeros(1))
    if n > 1:
        cells = torch.arange(n * n)
        beside = torch.where(cells % n == n - 1, cells - 1, cells + 1)  # in the last column, to the left
        found = attention_distance(torch.eye(n * n)[beside][None, None], distances)
        assert torch.allclose(found, torch.tensor([side / n]), rtol=1e-5)
    # keys of a grid half as fine: each query is half a diagonal of its own cell from the centre of its key
    keys = torch.arange(2 * n) // 2
    keys = (keys[:, None] * n + keys).flatten()
    found = attention_distance(torch.eye(n * n)[keys][None, None], grid_distances(2 * n, n, side))
    assert torch.allclose(found, torch.tensor([math.sqrt(0.5) * side / (2 * n)]), rtol=1e-5)


@pytest.mark.parametrize("name", ["deit_micro", "t2t_vit_7", "pvt_tiny", "pvt_v2_b0", "pit_tiny", "cvt_13"])
def test_students_without_queries_attend_to_all_cells_alike(name):
    """Of every family, with class tokens and grids where they are: queries of zero give uniform attention."""
    size = 16 if name == "deit_micro" else 64
    model = REGISTRY.compose(f"{name}/digits/baseline", "quick", [f"model.image_size={size}"]).model
    network = build(f"{name}/digits/baseline", f"model.image_size={size}").network
    student = FeatureExtractor(network, model, (), block_names(network, model)).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for parameter, value in network.named_parameters():
        if ".attn." in parameter and any(part in ("q", "qkv") for part in parameter.split(".")):
            value.data[: len(value) // (3 if "qkv" in parameter else 1)] = 0
    found = block_distances(student, images)
    assert list(found) == list(student.feature_layers)
    for block, (of_heads, uniform) in found.items():
        assert torch.allclose(of_heads, torch.full_like(of_heads, uniform), rtol=1e-4), block
    assert 0.4 * size < max(uniform for _, uniform in found.values()) < 0.55 * size


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm:swin_tiny_patch4_window7_224", "as in windows"),
        ("timm:resnet18", "has no attention layer"),
        ("timm:cait_xxs24_224", "has weights below zero"),
        ("timm:xcit_medium_24_p16_224", "is not that of the cells of its map"),  # it has 8 x 8 channels a head
    ],
)
def test_students_without_attention_over_the_image_are_refused(name, sentence):
    model = REGISTRY.compose(f"{name}/cifar10/baseline", "paper", ["model.image_size=64"]).model
    network = build(f"{name}/cifar10/baseline", "model.image_size=64").network
    student = FeatureExtractor(network, model, (), block_names(network, model)).eval()
    with pytest.raises(ValueError, match=sentence):
        block_distances(student, torch.ones(1, 3, 64, 64))


def hsic_of_song(one, other):
    """Equation 5 of Song et al. 2012, term by term, of two maps [n, features]."""
    n, ones = len(one), torch.ones(len(one), dtype=one.dtype)
    a, b = (gram - gram.diag().diag() for gram in (one @ one.T, other @ other.T))
    middle = (ones @ a @ ones) * (ones @ b @ ones) / ((n - 1) * (n - 2))
    return ((a @ b).trace() + middle - 2 / (n - 2) * (ones @ a @ b @ ones)) / (n * (n - 3))


def literal_cka(minibatches):
    """The ratio of the means over minibatches [(map, map)]."""
    batches = [(one.flatten(1).double(), other.flatten(1).double()) for one, other in minibatches]
    both = sum(hsic_of_song(one, other) for one, other in batches)
    return both / (sum(hsic_of_song(a, a) for a, _ in batches) * sum(hsic_of_song(b, b) for _, b in batches)).sqrt()


def cka_of(*minibatches):
    """The same with the suite's functions."""
    grams = [{"one": centred_gram(one)[None], "other": centred_gram(other)[None]} for one, other in minibatches]
    return cka(grams, [("one", "other")])["one", "other"].squeeze()


@given(seeds, st.integers(4, 20), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_cka_is_that_of_the_literature(seed, n, width, other_width):
    common = normal(seed, n, 1)
    one, other = common + normal(seed + 1, n, width), common + normal(seed + 2, n, other_width)
    assert torch.allclose(cka_of((one, other)), literal_cka([(one, other)]), rtol=1e-6, atol=1e-9)
    batches = [(one, other), (other + 7, one[:, :1] ** 2)]  # of unequal widths even
    assert torch.allclose(cka_of(*batches), literal_cka(batches), rtol=1e-6, atol=1e-9)


@given(seeds, st.integers(5, 20), st.integers(2, 12), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_cka_of_rotated_scaled_and_moved_maps_is_one(seed, n, width, factor):
    one = normal(seed, n, width)
    rotation = torch.linalg.qr(normal(seed + 1, width, width)).Q
    assert abs(cka_of((one, one)) - 1) < 1e-9
    assert abs(cka_of((one, factor * one @ rotation + normal(seed + 2, width))) - 1) < 1e-6


def test_cka_of_independent_maps_is_near_zero():
    batches = [(normal(k, 32, 500), normal(100 + k, 32, 500)) for k in range(20)]
    assert abs(cka_of(*batches)) < 0.01
    one, other = (maps - maps.mean(0) for maps in batches[0])
    biased = (one.T @ other).square().sum() / ((one.T @ one).norm() * (other.T @ other).norm())
    assert biased > 0.9  # of the usual estimator, which would call all large maps alike


def test_methods_of_several_recipes_are_named_by_what_differs():
    compose = Registry().compose
    recipes = [
        compose("deit_micro/digits/baseline", "quick"),
        compose("deit_micro/digits/kd", "quick", ["guidance.params.alpha=0.7", "teacher.seed=3"]),
        *(compose("deit_micro/digits/kd", "quick", ["guidance.params.alpha=0.5"], seed=seed) for seed in (0, 1)),
    ]
    labels = ["baseline", "kd alpha=0.7 teacher.seed=3", *["kd alpha=0.5 teacher.seed=0"] * 2]
    assert method_labels(recipes) == labels


def test_a_pair_of_runs_is_compared_with_its_teacher(finished, guided, tmp_path, capsys):
    assert main(["analyze", str(finished[0]), str(guided), "--images", "64", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    for part in (
        "deit_micro on digits: 64 test images of 16 px",
        "CKA with teacher's stages.2",
        "CKA with baseline",
        "uniform",
    ):
        assert part in text
    files = {
        "table.md",
        "attention.csv",
        "similarity.csv",
        *(f"analysis.{e}" for e in ("svg", "png", "pdf", "dark.svg", "dark.png")),
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert (tmp_path / "out" / "table.md").read_text() in text


def test_similarity_and_distances_are_those_of_the_pairs_maps(finished, guided):
    """Computed again from `load_pair` and `attention_maps`, for one minibatch of the same images."""
    tf32 = []
    found = bench.analyze([finished[0], guided], images=32, say=lambda _: tf32.append(torch.backends.cudnn.allow_tf32))
    assert set(tf32) == {False}
    subset = open_dataset(Registry().dataset("digits"), "data").test
    order = generator(0, Stream.ORDER).permutation(len(subset))[:32]
    images = [Image.fromarray(subset[index]) for index in order]
    pair = bench.load_pair(guided)
    maps = pair.feature_maps(images)
    for ours in maps.student:
        for theirs in maps.teacher:
            (row,) = found.similarity.query("method == 'guided' and layer == @ours and other_layer == @theirs").itertuples()
            expected = literal_cka([(maps.student[ours], maps.teacher[theirs])]).item()
            assert row.cka == pytest.approx(expected, abs=1e-4) and row.other == "teacher"
    assert found.compared == dict(zip(maps.teacher, (0, 3, 5), strict=True)) and found.reference == "baseline"
    pixels = torch.stack([pair.transform(image) for image in images])
    weights = bench.attention_maps(pair.student, pixels)["blocks.2.attn"][:, :, 1:, 1:].numpy()
    cells = [(4 * row, 4 * column) for row in range(4) for column in range(4)]
    distances = np.array([[math.dist(one, other) for other in cells] for one in cells])
    expected = (weights / weights.sum(-1, keepdims=True) * distances).sum(-1).mean((0, 2))
    rows = found.attention.query("method == 'guided' and block == 2").sort_values("head")
    assert np.allclose(rows["distance_px"], expected, rtol=1e-4) and np.allclose(rows["uniform_px"], distances.mean())
    assert set(found.with_reference["method"]) == {"guided"} and len(found.with_reference) == 6


def test_a_method_that_compares_no_maps_is_compared_with_its_teacher(guided, untrained):
    """kd has no projections and marks no block; its teacher is found as that of guided runs."""
    folder, _ = untrained("deit_micro/digits/kd", "teacher.train.epochs=1", "teacher.data.train_limit=512")
    teacher = read_json(guided / "record.json")["teacher"]
    write_json(folder / "record.json", {**read_json(folder / "record.json"), "teacher": teacher})
    found = bench.analyze(folder, images=32)
    assert set(found.similarity["other"]) == {"teacher"} and not found.compared and found.reference == "kd"
    assert found.similarity["cka"].between(-0.2, 1).all() and not found.notes


def test_runs_without_a_network_are_left_out_in_a_sentence(finished, guided, copy, tmp_path, capsys):
    (unfinished := tmp_path / "unfinished").mkdir()
    record = read_json(copy / "record.json")
    accuracies = dict.fromkeys(("last_accuracy", "best_accuracy", "best_epoch", "weights"))
    write_json(copy / "record.json", {**record, **accuracies, "diverged": True})
    folders = [unfinished, copy, finished[0], guided]
    assert main(["analyze", *map(str, folders), "--images", "16"]) == 0
    done = capsys.readouterr()
    assert f"Left out: {unfinished}: no finished run: it has no record.json yet." in done.out
    assert f"Left out: {copy}: this run diverged" in done.out and "CKA with baseline" in done.out
    for progress in ("maps of 2 runs: minibatch 1 of 1", "attention of guided seed 0, 2 of 2"):
        assert f"{progress}\n" in done.err
    assert main(["analyze", str(unfinished)]) == 2 and "no record.json yet" in capsys.readouterr().err


def test_a_teacher_without_maps_leaves_what_needs_none(untrained, finished, cache, monkeypatch):
    settings = ["teacher.model.name=timm:hrnet_w18_small", "teacher.model.image_size=32"]
    folder, _ = untrained("deit_micro/digits/kd", *settings)
    teacher, record = (
        Registry().compose("deit_micro/digits/kd", "quick", settings).teacher,
        read_json(folder / "record.json"),
    )
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    place = TeacherCache(teacher, record["dataset"]["fingerprint"])
    place.folder.mkdir(parents=True)
    write_json(folder / "record.json", {**record, "teacher": asdict(make_teacher(teacher, key=place.key))})
    for reason in ("this machine does not have the weights", "has no feature map"):
        found = bench.analyze([finished[0], folder], images=16)
        assert set(found.attention["method"]) == {"baseline", "kd"} and set(found.similarity["other"]) == {"baseline"}
        (note,) = found.notes
        assert note.startswith("The similarity to the teacher is missing: ") and reason in note
        save_file(models.create(teacher.model, 10, 0, feature_layers=False).network.state_dict(), place.weights)


def test_it_computes_in_fp32_whatever_the_surroundings_say(finished):
    seen, before = set(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as a variable of some containers does
    try:
        bench.analyze(finished[0], images=16, say=lambda _: seen.add(torch.get_float32_matmul_precision()))
        assert seen == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_runs_without_a_teacher_have_distances_alone(finished):
    found = bench.analyze([finished[0], finished[0]], images=16)
    assert len(found.attention) == 12 and found.similarity.empty and "No run has a teacher" in found.notes[0]


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [("model.width=32", "has another student than"), ("data.holdout=0.2", "has other images than")],
)
def test_runs_that_cannot_be_compared_are_refused(finished, untrained, assignment, sentence):
    other, _ = untrained("deit_micro/digits/baseline", assignment)
    with pytest.raises(RecipeError, match=sentence):
        bench.analyze([finished[0], other])


def test_options_that_cannot_be_are_refused(finished, capsys):
    for words, sentence in (
        ([finished[0], "--images", "15"], "--images: got 15, allowed are 16 or more"),
        ([finished[0], "--device", "cude"], "--device cude: cannot be used"),
        ([finished[0].parent], "no finished run"),
    ):
        assert main(["analyze", *map(str, words)]) == 2
        assert sentence in capsys.readouterr().err

"""Mixup and CutMix against timm's mathematics, and on any number of processes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from timm.data.mixup import mixup_target, rand_bbox

from bench.config.checks import check_processes
from bench.config.registry import Registry
from bench.config.schema import Augment, RecipeError
from bench.data.loaders import Shard, TrainLoader
from bench.data.mix import MixParams, cut_boxes, mix, sample_mix_params
from bench.data.store import open_dataset
from bench.rng import Stream

CPU = torch.device("cpu")
BOTH = Augment(mixup=0.8, cutmix=1.0)


def draw(augment, pairs=4000, size=32, seed=0, epoch=0):
    return sample_mix_params(augment, size, 2 * pairs, seed, epoch, CPU)


def areas(params):
    top, bottom, left, right = params.boxes.double().unbind(1)
    return (bottom - top) * (right - left)


@given(size=st.integers(1, 300), share=st.floats(0, 1, width=32), seed=st.integers(0, 2**32 - 1))
def test_boxes_are_those_of_timm(size, share, seed):
    np.random.seed(seed)
    row, column = np.random.randint(0, size), np.random.randint(0, size)
    np.random.seed(seed)
    expected = rand_bbox((3, size, size), np.float32(share))
    assert tuple(cut_boxes(np.array([share], np.float32), np.array([[row, column]]), size)[0]) == expected


@pytest.mark.parametrize("size", [16, 32, 224])
def test_shares_are_what_the_boxes_leave(size):
    params = draw(BOTH, size=size)
    assert torch.equal(params.shares[params.cut], (1 - areas(params) / size**2).float()[params.cut])
    assert not areas(params)[~params.cut].any() and areas(params)[params.cut].any()
    assert params.boxes.min() == 0 and params.boxes.max() == size


def test_shares_have_the_distributions_of_timm():
    params = draw(BOTH, 20_000)
    assert kstest(params.shares[~params.cut], beta(0.8, 0.8).cdf).pvalue > 0.01
    middle = draw(Augment(cutmix=0.3), 20_000, size=4096)
    inside = (middle.boxes[:, ::2] > 0).all(1) & (middle.boxes[:, 1::2] < 4096).all(1)  # not clipped
    raw = np.random.default_rng(0).beta(0.3, 0.3, 20_000).astype(np.float32)
    boxes = cut_boxes(raw, np.random.default_rng(1).integers(4096, size=(20_000, 2)), 4096)
    kept = (boxes[:, ::2] > 0).all(1) & (boxes[:, 1::2] < 4096).all(1)
    expected = 1 - np.diff(boxes)[kept][:, 0] * np.diff(boxes)[kept][:, 2] / 4096**2
    assert kstest(middle.shares[inside], expected).pvalue > 0.01
    for augment, cut, mixed in (
        (BOTH, 0.5, 1),
        (dataclasses.replace(BOTH, mix_switch=0.2), 0.2, 1),
        (Augment(mixup=0.8), 0, 1),
        (Augment(cutmix=1.0), 1, 1),
        (dataclasses.replace(BOTH, mix_prob=0.3), 0.15, 0.3),
    ):
        params = draw(augment, 20_000, size=224)
        assert params.cut.float().mean() == pytest.approx(cut, abs=0.015)
        assert (params.shares < 1).float().mean() == pytest.approx(mixed, abs=0.015)


def test_epochs_and_seeds_have_their_own_draws_and_nothing_is_drawn_without_mixing():
    first, again, epoch, seed = (draw(BOTH, seed=s, epoch=e).shares for s, e in ((0, 0), (0, 0), (0, 1), (1, 0)))
    assert torch.equal(first, again) and not torch.equal(first, epoch) and not torch.equal(first, seed)
    assert draw(Augment()) is None and [*Stream][-1] == Stream.MIX == 14  # appended


@settings(deadline=None)
@given(size=st.integers(1, 9), pairs=st.integers(1, 4), classes=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_mixed_images_and_labels_are_those_of_timm(size, pairs, classes, seed):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(2 * pairs, 3, size, size)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(classes, size=2 * pairs))
    params = draw(dataclasses.replace(BOTH, mix_prob=0.8), pairs, size, seed % 2**63)
    out, larger, mixed = mix(images, labels, params)
    expected = images.double().numpy().copy()
    for j, (share, cut, (top, bottom, left, right)) in enumerate(zip(*map(list, dataclasses.astuple(params)), strict=True)):
        one, other = images[2 * j].double().numpy(), images[2 * j + 1].double().numpy()
        for position, own, partner in ((2 * j, one, other), (2 * j + 1, other, one)):
            if cut:
                expected[position][:, top:bottom, left:right] = partner[:, top:bottom, left:right]
            else:
                expected[position] = own * share.double().item() + partner * (1 - share.double().item())
        if cut:
            assert np.array_equal(out[2 * j : 2 * j + 2], expected[2 * j : 2 * j + 2])  # no rounding
    assert np.allclose(out, expected, atol=1e-6)
    targets = torch.zeros(2 * pairs, classes).scatter_add_(1, larger[:, None], mixed.shares[:, None])
    targets.scatter_add_(1, mixed.labels[:, None], 1 - mixed.shares[:, None])
    for j, share in enumerate(params.shares):
        theirs = mixup_target(labels[2 * j : 2 * j + 2], classes, share)
        assert torch.allclose(targets[2 * j : 2 * j + 2], theirs, atol=1e-6)
    assert mixed.shares.min() >= 0.5 and torch.equal(targets.gather(1, larger[:, None]), targets.amax(1, keepdim=True))


def test_unmixed_pairs_are_unchanged():
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([3, 1, 4, 1])
    none = MixParams(torch.ones(2), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.int64))
    out, same, mixed = mix(images, labels, none)
    assert torch.equal(out, images) and torch.equal(same, labels) and torch.equal(mixed.shares, torch.ones(4))


SETTINGS = ["augment.mixup=0.8", "augment.cutmix=1", "train.batch_size=32", "augment.erase=0.5", "data.workers=0"]


def compose(pipeline, *more):
    protocol = "paper" if pipeline == "pil" else "quick"
    own = [*SETTINGS, f"data.pipeline={pipeline}", "data.train_limit=96", *more]
    return Registry().compose("deit_micro/digits/baseline", protocol, own)


@pytest.fixture(scope="module")
def digits():
    return open_dataset(Registry().dataset("digits"), "data")


@pytest.mark.parametrize("pipeline", ["batched", "pil"])
def test_any_number_of_processes_sees_the_same_mixed_batches(digits, pipeline):
    recipe = compose(pipeline)
    alone = list(TrainLoader(recipe, digits, CPU).epoch(1))
    parts = [list(TrainLoader(recipe, digits, CPU, Shard(rank, 4)).epoch(1)) for rank in range(4)]
    unmixed = list(TrainLoader(compose(pipeline, "augment.mixup=0", "augment.cutmix=0"), digits, CPU).epoch(1))
    params = draw(recipe.augment, 48, recipe.model.image_size, epoch=1)
    for step, (batch, plain) in enumerate(zip(alone, unmixed, strict=True)):
        for name in ("images", "labels"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(part[step], name) for part in parts]))
        for k in range(2):
            assert torch.equal(batch.mixed[k], torch.cat([part[step].mixed[k] for part in parts]))
        images, labels, _ = mix(plain.images, plain.labels, params.rows(batch.positions))
        assert torch.equal(batch.images, images) and torch.equal(
            batch.labels, labels
        )  # the rest of the transform is as it was
        assert plain.mixed is None and not torch.equal(batch.images, plain.images)
    (last,) = TrainLoader(recipe, digits, CPU).epoch(1, 2)
    assert torch.equal(last.images, alone[2].images) and torch.equal(last.mixed.labels, alone[2].mixed.labels)


@pytest.mark.parametrize(("batch", "world"), [(31, 1), (32, 2), (6, 2)])
def test_batches_of_a_process_are_even(batch, world):
    recipe = compose("batched", f"train.batch_size={batch}")
    if batch // world % 2:
        with pytest.raises(RecipeError, match=f"train.batch_size: {batch} on {world} .*allowed are even numbers"):
            check_processes(recipe, world)
        recipe = dataclasses.replace(recipe, augment=Augment())
    check_processes(recipe, world)

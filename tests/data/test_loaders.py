from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.augment import sample_augment_params
from bench.data.device_loader import MAX_COPIED_BYTES, on_device, prefetch
from bench.data.loaders import EvalLoader, Shard, TrainLoader
from bench.data.pil_loader import posterize
from bench.data.preflight import check_dataset
from bench.data.store import open_dataset
from bench.data.subsets import Images, Subset

CPU = torch.device("cpu")
FIELDS = ("images", "labels", "boxes", "flips")
RAND_AUGMENT = "augment.rand_augment=rand-m9-mstd0.5-inc1"
registry = Registry()


@pytest.fixture(scope="module")
def digits():
    return open_dataset(registry.dataset("digits"), "data")


@pytest.fixture(scope="module")
def ragged(digits):
    """The dataset with training images of many sizes, each with a shade of its own."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 40, (160, 2)).astype(np.int32)
    images = [rng.integers(i, i + 90, (*size, 3)).astype(np.uint8) for i, size in enumerate(sizes)]
    labels = np.arange(160) % 10
    train = Images(np.concatenate([image.ravel() for image in images]), sizes, labels, labels.astype(str))
    return dataclasses.replace(digits, train=train)


def compose(pipeline, *settings, guidance="baseline", seed=0):
    """A recipe of one of PIPELINES."""
    if pipeline == "pil":
        settings = ["data.pipeline=pil", "data.train_limit=96", "train.batch_size=32", "data.workers=0", *settings]
        if guidance == "guided":
            settings.append("teacher.train.batch_size=32")
        return registry.compose(f"deit_micro/digits/{guidance}", "paper", settings, seed=seed)
    more = {"plain": [], "device": [RAND_AUGMENT], "host": [RAND_AUGMENT, "data.residence=host"]}[pipeline]
    augment = ["train.batch_size=32", "augment.crop=random_resized", "augment.flip=0.5", "augment.erase=0.5"]
    return registry.compose(f"deit_micro/digits/{guidance}", "quick", [*augment, *more, *settings], seed=seed)


def assert_same(a, b):
    assert a.positions == b.positions and np.array_equal(a.indices, b.indices)
    assert all(torch.equal(getattr(a, field), getattr(b, field)) for field in FIELDS)


PIPELINES = ["pil", "plain", "device", "host"]


@pytest.mark.parametrize("pipeline", [*PIPELINES, "ragged"])
def test_any_number_of_processes_sees_the_same_global_batches(digits, ragged, pipeline):
    recipe, dataset = (compose("device"), ragged) if pipeline == "ragged" else (compose(pipeline), digits)
    alone = list(TrainLoader(recipe, dataset, CPU).epoch(1))
    parts = [list(TrainLoader(recipe, dataset, CPU, Shard(rank, 4)).epoch(1)) for rank in range(4)]
    assert len(alone) == {"pil": 3, "ragged": 5}.get(pipeline, 1437 // 32)
    for step, batch in enumerate(alone):
        for field in FIELDS:
            assert torch.equal(getattr(batch, field), torch.cat([getattr(part[step], field) for part in parts]))
        assert [part[step].positions.start for part in parts] == list(range(step * 32, step * 32 + 32, 8))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_epochs_and_seeds_differ_and_repeat(digits, pipeline):
    def first(seed, epoch):
        return next(iter(TrainLoader(compose(pipeline, seed=seed), digits, CPU).epoch(epoch))).images

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1)) and not torch.equal(first(0, 0), first(1, 0))


@pytest.mark.parametrize("pipeline", ["pil", "device"])
def test_baseline_and_guided_of_one_seed_see_the_same_batches(digits, pipeline):
    methods = [TrainLoader(compose(pipeline, guidance=g, seed=2), digits, CPU) for g in ("baseline", "guided")]
    for baseline, guided in zip(*(method.epoch(0) for method in methods), strict=True):
        assert_same(baseline, guided)


def test_the_residence_does_not_change_the_batches(digits):
    device, host = (TrainLoader(compose(pipeline), digits, CPU) for pipeline in ("device", "host"))
    for a, b in zip(device.epoch(1), host.epoch(1), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("pipeline", ["pil", "device", "host", "ragged"])
def test_an_epoch_that_starts_in_the_middle_has_the_same_batches(digits, ragged, pipeline):
    recipe, dataset = (compose("host"), ragged) if pipeline == "ragged" else (compose(pipeline), digits)
    whole, rest = (list(TrainLoader(recipe, dataset, CPU).epoch(3, first)) for first in (0, 2))
    assert len(rest) == len(whole) - 2 > 0
    for a, b in zip(whole[2:], rest, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("pipeline", ["pil", "ragged"])
def test_workers_do_not_change_the_batches(digits, ragged, pipeline):
    name, dataset = ("device", ragged) if pipeline == "ragged" else (pipeline, digits)
    one, many = (TrainLoader(compose(name, f"data.workers={n}"), dataset, CPU) for n in (0, 2))
    for epoch in (0, 1):  # the worker processes persist from one epoch to the next
        for a, b in zip(one.epoch(epoch), many.epoch(epoch), strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("crop", ["random_resized", "padded", "none"])
def test_each_image_is_cropped_from_its_own_size(ragged, crop):
    padding = 2 * (crop == "padded")
    plain = ["augment.erase=0", "augment.mean=[0,0,0]", "augment.std=[1,1,1]"]
    recipe = compose("plain", *plain, f"augment.crop={crop}", f"augment.padding={padding}")
    flips = 0
    for batch in TrainLoader(recipe, ragged, CPU).epoch(0):
        for image, index, box, flip in zip(batch.images, batch.indices, batch.boxes, batch.flips, strict=True):
            native = Image.fromarray(ragged.train[index])
            sides = (native.height, native.width) * 2
            top, left, height, width = (round(side * part) for side, part in zip(sides, box.tolist(), strict=True))
            top, left = top - padding, left - padding
            assert height <= native.height and width <= native.width
            expected = native.crop((left, top, left + width, top + height))
            expected = expected.resize(image.shape[1:], Image.Resampling.BICUBIC)
            expected = ImageOps.mirror(expected) if flip else expected
            assert np.array_equal(image.mul(255).round().permute(1, 2, 0).numpy(), np.asarray(expected))
            flips += bool(flip)
    assert 0 < flips < 160


def test_the_crop_of_an_image_depends_on_its_own_size_alone():
    augment = compose("plain").augment
    sizes = np.array([(20, 30), (64, 8)])
    mixed = sample_augment_params(augment, np.resize(sizes, (4000, 2)), 8, 4000, seed=0, epoch=0).boxes
    for i, size in enumerate(sizes):
        alone = sample_augment_params(augment, tuple(size), 8, 4000, seed=0, epoch=0).boxes
        assert torch.equal(mixed[i::2], alone[i::2])


def test_threads_end_with_their_epoch(ragged):
    before = threading.active_count()
    epoch = TrainLoader(compose("host", "data.workers=3"), ragged, CPU).epoch(0)
    next(epoch)
    assert threading.active_count() > before
    epoch.close()
    assert threading.active_count() == before


def test_an_error_of_a_thread_is_raised_and_ends_the_others():
    def prepare(rows):
        if rows.start == 3:
            raise OSError("the disk is gone")
        return torch.tensor([rows.start])

    before, results = threading.active_count(), []
    with pytest.raises(OSError, match="the disk is gone"):
        results.extend(prefetch(prepare, [slice(i, i + 1) for i in range(9)], 2, CPU))
    assert threading.active_count() == before


def test_pixels_that_fit_are_kept_on_the_device(digits, ragged, monkeypatch):
    auto, host, device = (compose("plain", f"data.residence={r}").data for r in ("auto", "host", "device"))
    small, many_sizes = digits.training(auto), ragged.training(auto)
    assert on_device(auto, small, CPU) and not on_device(host, small, CPU) and not on_device(auto, many_sizes, CPU)
    assert not on_device(auto, Subset(small.images, np.zeros(MAX_COPIED_BYTES // 192 + 1, int)), CPU)
    gpu, pixels = torch.device("cuda:0"), len(small) * 8 * 8 * 3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (pixels * 4, 2**40))
    assert on_device(auto, small, gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (pixels * 4 - 1, 2**40))
    assert not on_device(auto, small, gpu) and on_device(device, small, gpu)
    with pytest.raises(RecipeError, match=r"data.residence: the images of digits differ in size"):
        check_dataset(compose("plain", "data.residence=device"), ragged)


def test_an_epoch_has_every_image_at_most_once(digits):
    loader = TrainLoader(compose("plain"), digits, CPU)
    indices = np.concatenate([batch.indices for batch in loader.epoch(0)])
    assert len(indices) == len(set(indices.tolist())) == loader.positions == 1437 // 32 * 32


@pytest.mark.parametrize("world", [1, 2, 7])
def test_every_test_image_is_in_exactly_one_shard(digits, world):
    recipe = compose("plain", "train.test_batch_size=50")
    labels = [torch.cat([y for _, y in EvalLoader(recipe, digits, CPU, Shard(rank, world))]) for rank in range(world)]
    assert sum(map(len, labels)) == 360 and max(map(len, labels)) - min(map(len, labels)) <= 1
    assert np.array_equal(np.bincount(torch.cat(labels)), np.bincount(digits.test.labels))


def test_posterize_accepts_all_bits_that_timm_asks_for():
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for bits in range(1, 8):
        assert np.array_equal(posterize(image, bits), ImageOps.posterize(image, bits))
    assert not np.any(posterize(image, 0)) and np.array_equal(posterize(image, 8), image)

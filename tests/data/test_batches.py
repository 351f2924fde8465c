from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from bench.data import batches
from bench.data.augment import sample_augment_params
from bench.data.loaders import Shard, EvalLoader, _posterize, on_device, make_train_loader
from bench.data.subsets import Images, Subset
from bench.data.store import open_dataset
from bench.config.registry import Registry
from bench.config.schema import RecipeError

CPU = torch.device("cpu")
PIL = ["data.pipeline=pil", "data.train_limit=96", "train.batch_size=32", "data.workers=0"]
GUIDES = ["teacher.train.batch_size=32"]
BATCHED = ["train.batch_size=32", "augment.crop=random_resized", "augment.flip=0.5", "augment.erase=0.5"]
RANDOM = "augment.rand_augment=rand-m9-mstd0.5-inc1"
registry = Registry()


@pytest.fixture(scope="module")
def store():
    return open_dataset(registry.compose("deit_micro/digits/baseline", "quick").data, "data")


@pytest.fixture(scope="module")
def ragged(store):
    """The store with training images of many sizes, each with a shade of its own."""
    numbers = np.random.default_rng(0)
    sizes = numbers.integers(8, 40, (160, 2)).astype(np.int32)
    images = [numbers.integers(i, i + 90, (*size, 3)).astype(np.uint8) for i, size in enumerate(sizes)]
    labels = np.arange(160) % 10
    train = Images(np.concatenate([image.ravel() for image in images]), sizes, labels, labels.astype(str))
    return dataclasses.replace(store, train=train)


def compose(pipeline, *settings, arm="baseline", seed=0):
    if pipeline == "pil":
        settings = [*PIL, *settings, *(GUIDES if arm == "guided" else [])]
        return registry.compose(f"deit_micro/digits/{arm}", "paper", settings, seed=seed)
    settings = [*{"batched": [], "batched-rand": [RANDOM], "host": [RANDOM, "data.residence=host"]}[pipeline], *settings]
    return registry.compose(f"deit_micro/digits/{arm}", "quick", [*BATCHED, *settings], seed=seed)


@pytest.mark.parametrize("pipeline", ["pil", "batched", "batched-rand", "host"])
def test_any_number_of_processes_sees_the_same_global_batches(store, pipeline):
    recipe = compose(pipeline)
    alone = list(make_train_loader(recipe, store, CPU).epoch(1))
    parts = [list(make_train_loader(recipe, store, CPU, Shard(rank, 4)).epoch(1)) for rank in range(4)]
    assert len(alone) == (3 if pipeline == "pil" else 1437 // 32)
    for step, batch in enumerate(alone):
        assert torch.equal(batch.images, torch.cat([part[step].images for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part[step].labels for part in parts]))
        assert [part[step].positions.start for part in parts] == list(range(step * 32, step * 32 + 32, 8))


@pytest.mark.parametrize("pipeline", ["pil", "batched", "batched-rand", "host"])
def test_epochs_and_seeds_differ_and_repeat(store, pipeline):
    def first(seed, epoch):
        return next(iter(make_train_loader(compose(pipeline, seed=seed), store, CPU).epoch(epoch))).images

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1)) and not torch.equal(first(0, 0), first(1, 0))


@pytest.mark.parametrize("pipeline", ["pil", "batched", "batched-rand", "host"])
def test_baseline_and_guided_of_one_seed_see_the_same_images(store, pipeline):
    arms = [make_train_loader(compose(pipeline, arm=arm, seed=2), store, CPU) for arm in ("baseline", "guided")]
    for baseline, guided in zip(*(arm.epoch(0) for arm in arms), strict=True):
        assert torch.equal(baseline.images, guided.images) and torch.equal(baseline.labels, guided.labels)


def same(a, b):
    fields = ("images", "labels", "boxes", "flips")
    return a.positions == b.positions and all(torch.equal(getattr(a, f), getattr(b, f)) for f in fields)


def test_where_the_pixels_lie_does_not_change_the_batches(store):
    device, host = (make_train_loader(compose(p), store, CPU) for p in ("batched-rand", "host"))
    assert device._pixels is not None and host._pixels is None
    for epoch in (0, 1):
        assert all(same(a, b) for a, b in zip(device.epoch(epoch), host.epoch(epoch), strict=True))


@pytest.mark.parametrize("pipeline", ["pil", "batched-rand", "host", "ragged"])
def test_an_epoch_begun_in_the_middle_goes_on_with_the_same_batches(store, ragged, pipeline):
    recipe, store = (compose("host"), ragged) if pipeline == "ragged" else (compose(pipeline), store)
    whole, rest = (list(make_train_loader(recipe, store, CPU).epoch(3, first)) for first in (0, 2))
    assert len(rest) == len(whole) - 2 > 0 and all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_images_of_different_sizes_on_any_number_of_processes_and_threads(ragged):
    def run(share, *settings):
        return list(make_train_loader(compose("batched-rand", *settings), ragged, CPU, share).epoch(1))

    alone, parts = run(Shard(), "data.workers=3"), [run(Shard(rank, 4), "data.workers=0") for rank in range(4)]
    assert len(alone) == 5
    for step, batch in enumerate(alone):
        for field in ("images", "labels", "boxes", "flips"):
            assert torch.equal(getattr(batch, field), torch.cat([getattr(part[step], field) for part in parts]))


@pytest.mark.parametrize("crop", ["random_resized", "padded", "none"])
def test_each_image_is_cropped_from_its_own_size(ragged, crop):
    plain = ["augment.erase=0", "augment.mean=[0,0,0]", "augment.std=[1,1,1]", f"augment.crop={crop}"]
    padding = 2 * (crop == "padded")
    recipe = compose("batched", *plain, f"augment.padding={padding}")
    flips = 0
    for batch in make_train_loader(recipe, ragged, CPU).epoch(0):
        for image, index, share, flip in zip(batch.images, batch.indices, batch.boxes, batch.flips, strict=True):
            native = Image.fromarray(ragged.train[index])
            sides = (native.height, native.width) * 2
            top, left, height, width = (round(side * part) for side, part in zip(sides, share.tolist(), strict=True))
            corner = (left - padding, top - padding)
            box = (*corner, corner[0] + width, corner[1] + height)
            assert height <= native.height and width <= native.width
            expected = native.crop(box).resize(image.shape[1:], Image.Resampling.BICUBIC)
            expected = ImageOps.mirror(expected) if flip else expected
            assert np.array_equal(image.mul(255).round().permute(1, 2, 0).numpy(), np.asarray(expected))
            flips += bool(flip)
    assert 0 < flips < 160


def test_crops_of_many_sizes_have_the_distribution_of_each_size():
    augment = compose("batched").augment
    sizes = np.array([(20, 30), (64, 8)])
    mixed = sample_augment_params(augment, np.resize(sizes, (4000, 2)), 8, 4000, seed=0, epoch=0).boxes
    for i, size in enumerate(sizes):
        alone = sample_augment_params(augment, tuple(size), 8, 4000, seed=0, epoch=0).boxes
        assert torch.equal(mixed[i::2], alone[i::2])


def test_an_error_of_the_feeding_threads_comes_out_and_none_of_them_stays(ragged, monkeypatch):
    before = threading.active_count()
    epoch = make_train_loader(compose("host", "data.workers=3"), ragged, CPU).epoch(0)
    next(epoch)
    assert threading.active_count() > before
    epoch.close()
    assert threading.active_count() == before
    crop, calls = batches._cropped, []

    def fail_late(*arguments):
        calls.append(1)
        if len(calls) > 40:
            raise OSError("the disk is gone")
        return crop(*arguments)

    monkeypatch.setattr(batches, "_cropped", fail_late)
    with pytest.raises(OSError, match="the disk is gone"):
        list(make_train_loader(compose("host", "data.workers=1"), ragged, CPU).epoch(0))
    assert threading.active_count() == before


def test_auto_keeps_on_the_device_what_fits(store, ragged, monkeypatch):
    auto, host, device = (compose("batched", f"data.residence={r}").data for r in ("auto", "host", "device"))
    small, many = store.training(auto), ragged.training(auto)
    assert on_device(auto, small, CPU) and not on_device(host, small, CPU) and not on_device(auto, many, CPU)
    assert not on_device(auto, Subset(small.images, np.zeros(2**30 // 192 + 1, int)), CPU)
    gpu, bytes_wanted = torch.device("cuda:0"), len(small) * 8 * 8 * 3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (bytes_wanted * 4, 2**40))
    assert on_device(auto, small, gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (bytes_wanted * 4 - 1, 2**40))
    assert not on_device(auto, small, gpu) and on_device(device, small, gpu)
    with pytest.raises(RecipeError, match=r"data.residence: the images of digits differ in size"):
        make_train_loader(compose("batched", "data.residence=device"), ragged, CPU)


def test_workers_do_not_change_the_images(store):
    two = make_train_loader(compose("pil", "data.workers=2"), store, CPU)
    none = make_train_loader(compose("pil"), store, CPU)
    for epoch in (0, 1):  # the workers persist from one epoch to the next
        for a, b in zip(two.epoch(epoch), none.epoch(epoch), strict=True):
            assert torch.equal(a.images, b.images)


def test_an_epoch_holds_every_image_at_most_once(store):
    batches = make_train_loader(compose("batched", "augment.crop=none", "augment.flip=0", "augment.erase=0"), store, CPU)
    images = torch.cat([batch.images for batch in batches.epoch(0)])
    assert len(images) == batches.positions == 1437 // 32 * 32
    distinct = len({image.numpy().tobytes() for image in images})
    assert distinct > 0.99 * len(images)  # a few of the digits are the same picture


def test_a_batch_that_the_processes_do_not_divide_is_refused(store):
    with pytest.raises(RecipeError, match="32 does not divide among 3 processes"):
        make_train_loader(compose("batched"), store, CPU, Shard(0, 3))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_test_image_is_in_exactly_one_part(store, world):
    recipe = compose("batched", "train.test_batch_size=50")
    labels = [torch.cat([y for _, y in EvalLoader(recipe, store, CPU, Shard(rank, world))]) for rank in range(world)]
    assert sum(map(len, labels)) == 360
    assert np.array_equal(np.bincount(torch.cat(labels)), np.bincount(store.test.labels))


def test_posterize_takes_what_timm_asks_of_it():
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for bits in range(1, 8):
        assert np.array_equal(_posterize(image, bits), ImageOps.posterize(image, bits))
    assert not np.any(_posterize(image, 0)) and _posterize(image, 8) is image

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from bench.data.batches import Share, TestBatches, _posterize, train_batches
from bench.data.store import open_store
from bench.recipes import Registry
from bench.schema import RecipeError

CPU = torch.device("cpu")
PIL = ["data.pipeline=pil", "data.train_limit=96", "train.batch_size=32", "data.workers=0"]
GUIDES = ["guide.train.batch_size=32"]
BATCHED = ["train.batch_size=32", "augment.crop=random_resized", "augment.flip=0.5", "augment.erase=0.5"]
RANDOM = "augment.rand_augment=rand-m9-mstd0.5-inc1"
registry = Registry()


@pytest.fixture(scope="module")
def store():
    return open_store(registry.compose("deit_micro/digits/baseline", "quick").data, "data")


def compose(pipeline, *settings, arm="baseline", seed=0):
    if pipeline == "pil":
        settings = [*PIL, *settings, *(GUIDES if arm == "guided" else [])]
        return registry.compose(f"deit_micro/digits/{arm}", "paper", settings, seed=seed)
    if pipeline == "batched-rand":
        settings = [RANDOM, *settings]
    return registry.compose(f"deit_micro/digits/{arm}", "quick", [*BATCHED, *settings], seed=seed)


@pytest.mark.parametrize("pipeline", ["pil", "batched", "batched-rand"])
def test_any_number_of_processes_sees_the_same_global_batches(store, pipeline):
    recipe = compose(pipeline)
    alone = list(train_batches(recipe, store, CPU).epoch(1))
    parts = [list(train_batches(recipe, store, CPU, Share(rank, 4)).epoch(1)) for rank in range(4)]
    assert len(alone) == (3 if pipeline == "pil" else 1437 // 32)
    for step, batch in enumerate(alone):
        assert torch.equal(batch.images, torch.cat([part[step].images for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part[step].labels for part in parts]))
        assert [part[step].positions.start for part in parts] == list(range(step * 32, step * 32 + 32, 8))


@pytest.mark.parametrize("pipeline", ["pil", "batched", "batched-rand"])
def test_epochs_and_seeds_differ_and_repeat(store, pipeline):
    def first(seed, epoch):
        return next(iter(train_batches(compose(pipeline, seed=seed), store, CPU).epoch(epoch))).images

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1)) and not torch.equal(first(0, 0), first(1, 0))


@pytest.mark.parametrize("pipeline", ["pil", "batched", "batched-rand"])
def test_baseline_and_guided_of_one_seed_see_the_same_images(store, pipeline):
    arms = [train_batches(compose(pipeline, arm=arm, seed=2), store, CPU) for arm in ("baseline", "guided")]
    for baseline, guided in zip(*(arm.epoch(0) for arm in arms), strict=True):
        assert torch.equal(baseline.images, guided.images) and torch.equal(baseline.labels, guided.labels)


def test_workers_do_not_change_the_images(store):
    two = train_batches(compose("pil", "data.workers=2"), store, CPU)
    none = train_batches(compose("pil"), store, CPU)
    for epoch in (0, 1):  # the workers persist from one epoch to the next
        for a, b in zip(two.epoch(epoch), none.epoch(epoch), strict=True):
            assert torch.equal(a.images, b.images)


def test_an_epoch_holds_every_image_at_most_once(store):
    batches = train_batches(compose("batched", "augment.crop=none", "augment.flip=0", "augment.erase=0"), store, CPU)
    images = torch.cat([batch.images for batch in batches.epoch(0)])
    assert len(images) == batches.positions == 1437 // 32 * 32
    distinct = len({image.numpy().tobytes() for image in images})
    assert distinct > 0.99 * len(images)  # a few of the digits are the same picture


def test_a_batch_that_the_processes_do_not_divide_is_refused(store):
    with pytest.raises(RecipeError, match="32 does not divide among 3 processes"):
        train_batches(compose("batched"), store, CPU, Share(0, 3))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_test_image_is_in_exactly_one_part(store, world):
    recipe = compose("batched", "train.test_batch_size=50")
    labels = [torch.cat([y for _, y in TestBatches(recipe, store, CPU, Share(rank, world))]) for rank in range(world)]
    assert sum(map(len, labels)) == 360
    assert np.array_equal(np.bincount(torch.cat(labels)), np.bincount(store.test.labels))


def test_posterize_takes_what_timm_asks_of_it():
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for bits in range(1, 8):
        assert np.array_equal(_posterize(image, bits), ImageOps.posterize(image, bits))
    assert not np.any(_posterize(image, 0)) and _posterize(image, 8) is image

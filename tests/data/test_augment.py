from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation

from bench.config.schema import Augment
from bench.data.augment import BatchTransform, crop_and_resize, erase, erase_each, sample_augment_params

CPU = torch.device("cpu")
KERNELS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_crop_and_resize_is_pillows(data):
    height, width = data.draw(st.integers(2, 40), "height"), data.draw(st.integers(2, 40), "width")
    box_height, box_width = data.draw(st.integers(1, height), "box height"), data.draw(st.integers(1, width), "box width")
    top, left = data.draw(st.integers(0, height - box_height)), data.draw(st.integers(0, width - box_width))
    size, kernel = data.draw(st.integers(1, 60), "size"), data.draw(st.sampled_from(list(KERNELS)))
    flip = data.draw(st.booleans(), "flip")
    pixels = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    box = torch.tensor([[top, left, box_height, box_width]])
    ours = crop_and_resize(torch.from_numpy(pixels)[None], box, size, kernel, torch.tensor([flip]))[0].permute(1, 2, 0)
    theirs = Image.fromarray(pixels).crop((left, top, left + box_width, top + box_height))
    # In two calls, since Pillow 13 takes the vertical pass first where that is cheaper.
    theirs = theirs.resize((size, box_height), KERNELS[kernel]).resize((size, size), KERNELS[kernel])
    if flip:
        theirs = theirs.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    difference = np.abs(ours.numpy() - np.asarray(theirs, np.float32))
    # Pillow computes with whole-number weights, so a value close to a half may be rounded differently. The second pass then
    # gets one grey level of difference, which bicubic weights can increase to two. Few pixels differ. (In a box of a few
    # pixels whole rows are equal, and differ together.)
    assert difference.max() <= 2
    if difference.size >= 300 and min(box_height, box_width) >= 5:
        assert difference.mean() <= 0.1


def sample(augment, count=4000, native=(32, 32), size=16, epoch=0):
    return sample_augment_params(augment, native, size, count, seed=3, epoch=epoch)


def test_random_resized_crops_have_timms_distribution():
    random.seed(0)  # used by timm; fixed, so that the test does not fail by chance
    theirs = RandomResizedCropAndInterpolation(16)
    boxes = np.array([theirs.get_params(Image.new("RGB", (40, 32)), theirs.scale, theirs.ratio) for _ in range(4000)])
    ours = sample_augment_params(Augment(), (32, 40), 16, 4000, seed=3, epoch=0).boxes.numpy()
    assert (ours[:, 0] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= (32, 40)).all()
    for a, b in zip(ours.T, boxes.T, strict=True):  # top, left, height, width
        tolerance = 4 * b.std() * (2 / 4000) ** 0.5  # four standard errors of a difference of means
        assert a.mean() == pytest.approx(b.mean(), abs=tolerance)
        assert a.std() == pytest.approx(b.std(), rel=0.1)


def test_erased_boxes_have_timms_distribution():
    random.seed(0)
    theirs = RandomErasing(probability=0.25, mode="const", device="cpu")
    area = np.array([(theirs(torch.ones(1, 24, 24)) == 0).float().mean().item() for _ in range(4000)])
    boxes = sample(Augment(erase=0.25), size=24).erased.numpy()
    fractions = boxes[:, 2] * boxes[:, 3] / 24**2
    assert (fractions > 0).mean() == pytest.approx(0.25, abs=0.03)
    assert fractions[fractions > 0].mean() == pytest.approx(area[area > 0].mean(), rel=0.06)
    assert fractions[fractions > 0].std() == pytest.approx(area[area > 0].std(), rel=0.1)


def test_parameters_are_a_function_of_the_position():
    many, few = sample(Augment(), count=100), sample(Augment(), count=60)
    assert all(torch.equal(getattr(many, n)[:60], getattr(few, n)) for n in ("boxes", "flips", "erased", "noise"))
    padded = Augment(crop="padded", padding=2)
    assert torch.equal(sample(padded, count=100).boxes[:60], sample(padded, count=60).boxes)
    assert not torch.equal(many.boxes, sample(Augment(), count=100, epoch=1).boxes)
    assert sample(Augment()).flips.float().mean() == pytest.approx(0.5, abs=0.03)


def test_each_sample_of_a_batch_is_augmented_differently():
    augment = Augment(erase=1.0)
    pixels = torch.randint(256, (1, 16, 16, 3), dtype=torch.uint8).expand(8, -1, -1, -1)
    images = BatchTransform(augment, 12, 0, CPU).train(pixels, sample(augment, native=(16, 16), size=12, count=8))
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_erasing_fills_its_box_with_noise_and_leaves_the_rest():
    augment = Augment(crop="none", flip=0.0, erase=1.0)
    pixels = torch.full((200, 16, 16, 3), 128, dtype=torch.uint8)
    params = sample(augment, native=(16, 16), size=16, count=200)
    images = BatchTransform(augment, 16, 0, CPU).train(pixels, params)
    plain = BatchTransform(augment, 16, 0, CPU).test(pixels)
    noise = []
    for image, clean, (top, left, height, width) in zip(images, plain, params.erased.tolist(), strict=True):
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert height > 0 and torch.equal(image[:, ~inside], clean[:, ~inside])
        noise.append(image[:, inside].flatten())
    noise = torch.cat(noise)
    assert noise.mean().abs() < 0.05 and noise.std().item() == pytest.approx(1, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 9))
def test_all_boxes_erased_at_once_are_those_erased_one_by_one(size, count, seed):
    params = sample_augment_params(Augment(erase=0.7), (8, 8), size, count, seed, epoch=0)
    images, bank = torch.rand(count, 3, size, size), torch.randn(3, 2 * size, 2 * size)
    one_by_one = images.clone()
    erase(images, params.erased, params.noise, bank)
    erase_each(one_by_one, params.erased, params.noise, bank)
    assert torch.equal(images, one_by_one)


def test_batches_augmented_at_once_are_those_augmented_one_by_one():
    augment = Augment(erase=0.5, rand_augment="rand-m9-mstd0.5-inc1-n3")
    pixels = torch.randint(256, (96, 16, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    params = sample(augment, count=96, native=(16, 20), size=24)
    transform = BatchTransform(augment, 24, 0, CPU)
    steps = [slice(first, first + 12) for first in range(0, 96, 12)]
    one_by_one = torch.cat([transform.train(pixels[rows], params[rows]) for rows in steps])
    at_once = transform.augment(pixels, params)
    assert torch.equal(torch.cat([transform.normalise(at_once[rows], params[rows]) for rows in steps]), one_by_one)


def test_padded_crops_shift_the_image_over_black():
    augment = Augment(crop="padded", padding=2, flip=0.0, erase=0.0, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = torch.randint(1, 256, (50, 8, 8, 3), dtype=torch.uint8)
    params = sample(augment, native=(8, 8), size=8, count=50)
    images = BatchTransform(augment, 8, 0, CPU).train(pixels, params).mul(255).round()
    padded = torch.nn.functional.pad(pixels, (0, 0, 2, 2, 2, 2))
    corners = set()
    for image, source, (top, left, *_) in zip(images, padded, params.boxes.int().tolist(), strict=True):
        assert torch.equal(image, source[top : top + 8, left : left + 8].permute(2, 0, 1).float())
        corners.add((top, left))
    assert {0, 4} <= {c for corner in corners for c in corner} and len(corners) > 15


def test_the_test_transform_squashes_to_a_square():
    pixels = torch.randint(256, (2, 20, 30, 3), dtype=torch.uint8)
    transform = BatchTransform(Augment(), 8, 0, CPU)
    theirs = [Image.fromarray(p.numpy()).resize((8, 8), Image.Resampling.BILINEAR) for p in pixels]
    scaled = torch.stack([torch.from_numpy(np.array(image)) for image in theirs]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (Augment().mean, Augment().std))
    assert torch.allclose(transform.test(pixels), (scaled - mean) / std, atol=1.01 / 255 / 0.224)

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from timm.data import auto_augment, create_transform
from torch._dynamo.utils import counters

import bench.data.rand_augment
from bench.config.registry import Registry
from bench.config.schema import Augment, RecipeError
from bench.data.augment import BatchTransform, sample_augment_params
from bench.data.pil_loader import posterize, timm_transform
from bench.data.rand_augment import KINDS, Kind, Settings, argument, parse, rand_augment, sample_operations

CPU = torch.device("cpu")
PAPER = "rand-m9-mstd0.5-inc1"
FILL = (124, 116, 104)
NAMES = {  # timm's, in its order
    "AutoContrast": Kind.AUTO_CONTRAST,
    "Equalize": Kind.EQUALIZE,
    "Invert": Kind.INVERT,
    "Rotate": Kind.ROTATE,
    "Posterize": Kind.POSTERIZE,
    "Solarize": Kind.SOLARIZE,
    "SolarizeAdd": Kind.SOLARIZE_ADD,
    "Color": Kind.COLOR,
    "Contrast": Kind.CONTRAST,
    "Brightness": Kind.BRIGHTNESS,
    "Sharpness": Kind.SHARPNESS,
    "ShearX": Kind.SHEAR_X,
    "ShearY": Kind.SHEAR_Y,
    "TranslateXRel": Kind.TRANSLATE_X,
    "TranslateYRel": Kind.TRANSLATE_Y,
}
# Grey levels by which a pixel may differ from Pillow's, and the fraction of values that may. Positions and products are in
# float32 here and in double precision there, and both are truncated, so a value next to a whole number may be on the other
# side of it. Auto-contrast: Pillow multiplies by a rounded scale and so misses whole numbers sometimes.
MOVED = (Kind.ROTATE, Kind.SHEAR_X, Kind.SHEAR_Y, Kind.TRANSLATE_X, Kind.TRANSLATE_Y)
TOLERANCE = dict.fromkeys(MOVED, (1, 0.002)) | {Kind.AUTO_CONTRAST: (1, 0.03)}


def pictures(count, size, seed=0):
    """[count, size, size, 3] uint8 with large shapes, smooth shades, edges, texture, flat areas, and levels that do not
    cover the whole range, as in photos."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        coarse = rng.integers(0, 256, (rng.integers(2, 7), rng.integers(2, 7), 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), float)
        image += rng.normal(0, rng.uniform(0, 25), image.shape)
        top, left = rng.integers(0, size // 2, 2)
        image[top : top + size // 3, left : left + size // 3] = rng.integers(0, 256, 3)
        low, high = (0, 1) if i % 3 else np.sort(rng.random(2))
        out.append(np.clip(image, 0, 255) * (high - low) + 255 * low)
    return np.array(out).astype(np.uint8)


def applied(pixels, kind, arguments):
    """[count, size, size, 3] int64 after one operation."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    operations = np.full((len(pixels), 1), kind, np.int8), np.asarray(arguments, float)[:, None]
    fill = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    return rand_augment(images, *operations, fill).permute(0, 2, 3, 1).numpy().astype(int)


def pillow(image, name, arguments):
    function = posterize if name.startswith("Posterize") else auto_augment.NAME_TO_OP[name]
    image = function(Image.fromarray(image), *arguments, fillcolor=FILL, resample=Image.Resampling.BICUBIC)
    return np.asarray(image).astype(int)


def timm_argument(name, level, negative, increasing, monkeypatch):
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: -value if negative else value)
    changes = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
    function = auto_augment.LEVEL_TO_ARG[f"{name}Increasing" if increasing and name in changes else name]
    return () if function is None else function(level, {"translate_pct": 0.45})


@pytest.mark.parametrize("size", [32, 57])
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_gives_pillows_levels(name, size, monkeypatch):
    levels = np.concatenate([np.linspace(0, 10, 21), np.random.default_rng(1).normal(9, 0.5, 9).clip(0, 10)])
    kind, pixels = NAMES[name], pictures(len(levels), size)
    most, share = TOLERANCE.get(kind, (0, 0))
    for increasing in (True, False):
        for negative in (False, True):
            theirs = [timm_argument(name, level, negative, increasing, monkeypatch) for level in levels]
            arguments = argument(kind, levels, np.full(len(levels), negative), increasing)
            assert np.array_equal(arguments, [t[0] if t else 0 for t in theirs])
            expected = np.array([pillow(image, name, t) for image, t in zip(pixels, theirs, strict=True)])
            difference = np.abs(applied(pixels, kind, arguments) - expected)
            assert difference.max() <= most
            assert (difference > 0).mean() <= share


def special_images(kind):
    """Images without contrast, with one odd pixel, or of a few pixels."""
    if kind == "flat":
        flat = np.stack([np.full((16, 16, 3), level, np.uint8) for level in (0, 1, 127, 128, 255)])
        one = flat.copy()
        one[:, 3, 5] = (9, 200, 77)
        return np.concatenate([flat, one])
    return pictures(6, 12)[:, :kind, :kind].copy()


@pytest.mark.parametrize("kind", ["flat", 1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_flat_and_tiny_images_too(name, kind):
    pixels = special_images(kind)
    value = {"Posterize": 2, "Solarize": 100, "SolarizeAdd": 90, "Rotate": 27.0}.get(name, 0.27)
    arguments = () if name in ("AutoContrast", "Equalize", "Invert") else (value,)
    expected = np.array([pillow(image, name, arguments) for image in pixels])
    most = TOLERANCE.get(NAMES[name], (0, 0))[0] if kind == "flat" else 1
    assert np.abs(applied(pixels, NAMES[name], [value] * len(pixels)) - expected).max() <= most


def test_each_sample_of_a_batch_has_its_own_operations():
    pixels = pictures(60, 24)
    kinds, arguments = sample_operations(Settings(9, 0.5, True, probability=0.8), 60, seed=1, epoch=0)
    assert len(np.unique(kinds)) == KINDS + 1  # every kind, and NONE
    fill = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    together = rand_augment(images, kinds, arguments, fill)
    alone = [rand_augment(images[i : i + 1], kinds[i : i + 1], arguments[i : i + 1], fill) for i in range(60)]
    assert torch.equal(together, torch.cat(alone))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels)  # the input is not changed


def test_fused_operations_are_the_same_in_one_graph_for_every_batch(monkeypatch):
    # without code generation, which takes minutes
    compiled = functools.cache(lambda f: torch.compile(f, dynamic=True, fullgraph=True, backend="aot_eager"))
    monkeypatch.setattr(bench.data.rand_augment, "_compiled", compiled)
    torch._dynamo.reset()
    counters.clear()
    images = torch.from_numpy(pictures(300, 8)).permute(0, 3, 1, 2).contiguous()
    kinds, arguments = sample_operations(Settings(9, 0.5, True, probability=1), 300, seed=1, epoch=0)
    fill = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    for rows in (slice(0, 150), slice(100, 300), slice(120, 300)):
        inputs = (images[rows], kinds[rows], arguments[rows], fill)
        assert torch.equal(rand_augment(*inputs, fused=True), rand_augment(*inputs))
    assert counters["stats"]["unique_graphs"] == compiled.cache_info().currsize == 7


def test_operations_have_timms_distribution():
    calls = []

    def remember(kind):
        return lambda image, *arguments, **_: calls.append((kind, *arguments[:1])) or image

    transform = create_transform(32, is_training=True, auto_augment=PAPER, interpolation="bicubic", color_jitter=None)
    theirs = next(step for step in transform.transforms if isinstance(step, auto_augment.RandAugment))
    assert len(theirs.ops) == KINDS
    for operation in theirs.ops:
        operation.aug_fn = remember(NAMES[operation.name.removesuffix("Increasing")])
        assert operation.kwargs == {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
    random.seed(0)
    np.random.seed(0)
    count = 20000
    for _ in range(count):
        theirs(None)
    kinds, ours = sample_operations(parse(PAPER), count, seed=0, epoch=0)
    for kind in NAMES.values():
        expected = np.array([call[1] if len(call) > 1 else 0 for call in calls if call[0] == kind])
        arguments = ours[kinds == kind]
        assert len(arguments) == pytest.approx(len(expected), abs=4 * (2 * count / KINDS) ** 0.5)  # four standard errors
        assert ks_2samp(arguments, expected).pvalue > 1e-3
    # drawn with replacement, applied independently: both layers none in a quarter, twice the same in 1/15 of a quarter
    none, same = (kinds == Kind.NONE).all(1), (kinds[:, 0] == kinds[:, 1]) & (kinds[:, 0] >= 0)
    assert none.mean() == pytest.approx(1 / 4, abs=0.013) and same.mean() == pytest.approx(1 / 60, abs=0.004)


def statistics(images):
    """[count, 7]: mean, spread and extremes of the levels, colourfulness, differences of neighbours along each axis."""
    grey = images.mean(1)
    columns = (
        *(images.mean((1, 2, 3)), images.std((1, 2, 3)), images.amin((1, 2, 3)), images.amax((1, 2, 3))),
        (images.amax(1) - images.amin(1)).mean((1, 2)),
        *(grey.diff(dim=axis).abs().mean((1, 2)) for axis in (1, 2)),
    )
    return torch.stack(columns, 1).double().numpy().round(4)  # white is white, however it was normalised


def test_the_whole_pipeline_has_timms_distribution():
    recipe = Registry().compose("deit_tiny/cifar10/baseline", "paper", ["model.image_size=48", "train.batch_size=100"])
    assert recipe.data.pipeline == "batched" and recipe.augment.rand_augment == PAPER
    count, pixels = 2400, pictures(40, 32)
    transform = timm_transform(recipe)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    theirs = statistics(torch.stack([transform(Image.fromarray(pixels[i % 40])) for i in range(count)]))

    def ours(augment):
        params = sample_augment_params(augment, (32, 32), 48, count, seed=0, epoch=0)
        batch = torch.from_numpy(np.resize(pixels, (count, 32, 32, 3)))
        return statistics(BatchTransform(augment, 48, 0, CPU).train(batch, params))

    for a, b in zip(ours(recipe.augment).T, theirs.T, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-3
        assert a.mean() == pytest.approx(b.mean(), abs=4 * b.std() * (2 / count) ** 0.5)
    # The test has the power to see a difference: without RandAugment the same statistics differ.
    plain = ours(Augment(rand_augment=None))
    assert min(ks_2samp(a, b).pvalue for a, b in zip(plain.T, theirs.T, strict=True)) < 1e-6


def test_operations_are_a_function_of_position():
    many, few = (sample_operations(parse(PAPER), count, seed=3, epoch=1) for count in (100, 60))
    assert all(np.array_equal(a[:60], b) for a, b in zip(many, few, strict=True))
    for seed, epoch in ((4, 1), (3, 2)):
        assert not np.array_equal(sample_operations(parse(PAPER), 100, seed, epoch)[0], many[0])


def test_configurations_are_read_as_by_timm():
    assert parse(PAPER) == Settings(9, 0.5, increasing=True)
    assert parse("rand") == Settings() and parse("rand-p1-n3-m0") == Settings(0, layers=3, probability=1)
    kinds, uniform = sample_operations(parse("rand-m8-mstd101-n1-p1"), 3000, 0, 0)
    degrees = np.abs(uniform[kinds == Kind.ROTATE])
    assert degrees.max() < 24 and degrees.mean() == pytest.approx(12, abs=2)
    assert (sample_operations(parse("rand-p0"), 50, 0, 0)[0] == Kind.NONE).all()
    kinds, still = sample_operations(parse("rand-m9-inc1-p1"), 400, 0, 0)
    assert set(np.abs(still[kinds == Kind.ROTATE])) == {27.0}
    refused = "rand-m9-tweights rand-m9-mmax20 rand-m11 rand-m9.5 rand-n0 rand-inc2 rand-m9-m8 rand- rand-foo v0 augmix"
    for text in refused.split():
        with pytest.raises(RecipeError, match=r"augment.rand_augment: .*rand-m9-mstd0.5-inc1; data.pipeline=pil"):
            parse(text)


keys = st.sampled_from(["m", "mstd", "inc", "n", "p", "t", "w", ""])
section = st.builds("{}{}".format, keys, st.integers() | st.floats())


@settings(max_examples=200, deadline=None)
@given(st.text() | st.lists(section, max_size=5).map(lambda sections: "-".join(["rand", *sections])))
def test_any_text_works_or_is_refused(text):
    try:
        operations = sample_operations(parse(text), 3, seed=0, epoch=0)
    except RecipeError as error:
        assert "\n" not in str(error)
        return
    images = torch.from_numpy(pictures(3, 8)).permute(0, 3, 1, 2).contiguous()
    assert rand_augment(images, *operations, torch.zeros(3, 1, 1, dtype=torch.uint8)).shape == images.shape

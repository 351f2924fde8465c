from __future__ import annotations

import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.decode import Unreadable, decode
from bench.data.loaders import EvalLoader, TrainLoader
from bench.data.store import open_dataset
from tests.helpers.generated import encode, save, write, write_parquet

registry = Registry()
ORIENTATION = 0x0112
# By orientation, how the stored image was made from the upright one: the inverse of what a viewer does.
STORED = {
    **{1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE},
    8: Image.Transpose.ROTATE_270,
}


def pixels(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height=40, width=56):
    """An image that a JPEG keeps nearly unchanged."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 4, 200 - rows * 2], -1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_a_png_becomes_rgb(mode):
    source = Image.fromarray(pixels())
    if mode == "I;16":
        high = np.random.default_rng(1).integers(0, 65536, (6, 9)).astype(np.uint16)
        image, expected = Image.fromarray(high), np.repeat((high >> 8).astype(np.uint8)[..., None], 3, -1)
    else:
        image = source.convert(mode)
        expected = np.asarray(image.convert("RGB"))
    assert image.mode == mode and np.array_equal(decode(encode(image)), expected)


def test_an_alpha_channel_is_dropped_not_blended():
    alpha = np.random.default_rng(2).integers(0, 256, (6, 9, 1), dtype=np.uint8)
    seen = decode(encode(Image.fromarray(np.concatenate([pixels(), alpha], -1))))
    assert np.array_equal(seen, pixels())


@pytest.mark.filterwarnings("ignore:Palette images")
@pytest.mark.parametrize("transparency", [3, bytes(range(200))], ids=["one colour", "alpha a colour"])
def test_a_palette_with_transparency_keeps_its_colours(transparency):
    image = Image.fromarray(pixels()).convert("P")
    seen = decode(encode(image, transparency=transparency))
    assert np.array_equal(seen, np.asarray(image.convert("RGB")))


def test_a_cmyk_jpeg_has_its_colours():
    image = Image.fromarray(smooth())
    seen = decode(encode(image.convert("CMYK"), "JPEG", quality=98))
    assert np.abs(seen.astype(int) - smooth()).mean() < 4


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
def test_sixteen_bits_of_other_formats_keep_the_upper_eight(kind):
    grey = np.random.default_rng(1).integers(0, 65536, (6, 9)).astype(np.uint16)
    if kind == "TIFF":
        content = encode(Image.frombytes("I;16B", (9, 6), grey.astype(">u2").tobytes()), kind)
    else:
        content = b"P5 9 6 65535\n" + grey.astype(">u2").tobytes()
    assert np.array_equal(decode(content)[..., 0], grey >> 8)


@pytest.mark.parametrize("values", [np.int32, np.float32])
def test_pixels_without_a_range_are_refused(values):
    with pytest.raises(Unreadable, match="no fixed range"):
        decode(encode(Image.fromarray(np.zeros((4, 5), values)), "TIFF"))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_exif_orientation_comes_out_upright(orientation, kind):
    upright = Image.fromarray(smooth())
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossless = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    seen = decode(encode(stored, kind, exif=exif.tobytes(), **lossless))
    assert seen.shape == smooth().shape and np.abs(seen.astype(int) - smooth()).max() < (12 if kind == "JPEG" else 1)


def test_an_image_with_damaged_exif_is_read():
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 6, "maker"
    damaged = bytearray(exif.tobytes())
    assert damaged[17] == 15
    damaged[17] = 7  # another tag, whose type is not a text's
    assert decode(encode(Image.fromarray(smooth()), "JPEG", exif=bytes(damaged))).shape == (56, 40, 3)


def test_of_an_animation_the_first_frame_is_used():
    frames = [Image.fromarray(np.full((5, 7, 3), level, np.uint8)) for level in (0, 255)]
    assert not decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])).any()


def bomb(side):
    """A PNG whose header gives a huge size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode(Image.fromarray(smooth(200, 200)), "JPEG")[:-700], "truncated"),
        (b"", "no image of a known format"),
        (b"<html>404</html>", "no image of a known format"),
        (bomb(50_000), "exceeds limit"),
        (encode(Image.fromarray(smooth()), "EPS"), "no image of a known format"),  # a program that Ghostscript would run
    ],
    ids=["truncated", "empty", "text", "bomb", "PostScript"],
)
def test_what_cannot_be_decoded_says_why(content, reason):
    for short_side in (None, 16):
        with pytest.raises(Unreadable, match=reason) as caught:
            decode(content, short_side)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("size", "expected"), [((1200, 900), (160, 120)), ((900, 1200), (120, 160)), ((100, 3000), (100, 3000))]
)
def test_large_images_are_shrunk_to_a_short_side(kind, size, expected):
    rows, columns = np.mgrid[: size[1], : size[0]]
    whole = np.stack([rows % 251, columns % 241, rows // 6], -1).astype(np.uint8)
    seen = decode(encode(Image.fromarray(whole), kind), 120)
    assert seen.shape == (*expected[::-1], 3)
    if kind == "PNG" and size != expected:
        assert np.array_equal(seen, np.asarray(Image.fromarray(whole).resize(expected, Image.Resampling.BICUBIC)))


# --- Odd images: any content gives pixels or a reason ------------------------------------------------------------------


@st.composite
def odd_files(draw):
    """(content, its size if it is whole): tiny and thin images of many modes and formats, cut or with flipped bits."""
    width, height = draw(st.sampled_from([(1, 1), (1, 2000), (2000, 1), (3, 5), (17, 16)]))
    mode = draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"]))
    kind = draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    noise = pixels(height, width, draw(st.integers(0, 3)))
    image = (
        Image.fromarray(noise[..., 0].astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(noise).convert(mode)
    )
    exif = Image.Exif()
    exif[ORIENTATION] = orientation = draw(st.sampled_from([1, 3, 6]))
    with_exif = kind in ("JPEG", "PNG", "WEBP", "TIFF")
    try:
        content = encode(image, kind, **({"exif": exif.tobytes()} if with_exif else {}))
    except (OSError, ValueError, KeyError):  # the format does not know the mode
        content = encode(Image.fromarray(noise), kind, **({"exif": exif.tobytes()} if with_exif else {}))
    size = (width, height) if with_exif and orientation == 6 else (height, width)
    if draw(st.booleans()):
        return content, size
    damaged = bytearray(content)
    if draw(st.booleans()):
        damaged = damaged[: draw(st.integers(0, len(content) - 1))]
    for position in draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        if position < len(damaged):
            damaged[position] ^= draw(st.integers(1, 255))
    return bytes(damaged), None


@settings(max_examples=300, deadline=None)
@given(odd_files(), st.sampled_from([None, 1, 8]))
@pytest.mark.filterwarnings("ignore")
def test_any_content_gives_rgb_or_a_reason(file, short_side):
    content, size = file
    try:
        seen = decode(content, short_side)
    except Unreadable as error:
        assert size is None and str(error) and "\n" not in str(error)
        return
    assert seen.dtype == np.uint8 and seen.ndim == 3 and seen.shape[2] == 3 and min(seen.shape) >= 1
    if size is not None:
        scale = min(1, (short_side or 10**6) / min(size))
        # a JPEG's decoder rounds up when it leaves out detail
        assert min(seen.shape[:2]) == min(*size, short_side or 10**6)
        assert all(abs(side - whole * scale) <= 1.5 for side, whole in zip(seen.shape, size, strict=False))


PLACES = {  # the file of each layout that is replaced
    "folder": "photos/train/class_01/002.jpg",
    "flowers102": "flowers/jpg/image_00003.jpg",
    "tiny_imagenet": "tiny-imagenet-200/val/images/val_0.JPEG",
    "chaoyang": "chaoyang/train/500002-2-IMG005x002.JPG",
}


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """A dataset of each layout, in which an odd file can replace another."""
    folder = tmp_path_factory.mktemp("readers")
    for name in PLACES:
        write(name, folder / name, classes=2, train=3, test=2, size=8)
    return folder


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd_files(), st.sampled_from([*PLACES, "hub"]))
@pytest.mark.filterwarnings("ignore")
def test_an_odd_file_in_any_layout_gives_its_pixels_or_one_sentence_that_names_it(
    readers, tmp_path, monkeypatch, file, layout
):
    content, _ = file
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    if layout == "hub":
        name, folder = "hub:odd", tmp_path
        images = [encode(pixels()), content]
        for split in ("train", "test"):
            columns = {"image": images, "label": [0, 1]}
            write_parquet(tmp_path / "odd" / f"{split}.parquet", columns, {"label": ["a", "b"]})
            images = images[:1] * 2
        named = "image 1 of split 'train'"
    else:
        name, folder = ("folder:photos" if layout == "folder" else layout), readers / layout
        path = folder / PLACES[layout]
        assert path.is_file()
        path.write_bytes(content)
        named = PLACES[layout].partition("/")[2]
    data = registry.dataset(name, ["data.subset=2"])
    try:
        expected = decode(content, data.short_side)
    except Unreadable:
        with pytest.raises(RecipeError) as caught:
            open_dataset(data, folder)
        assert named in str(caught.value) and "\n" not in str(caught.value)
        assert "1 image cannot be read" in str(caught.value)
        return
    store = open_dataset(data, folder)
    everything = [split[i] for split in (store.train, store.test) for i in range(len(split))]
    assert any(np.array_equal(image, expected) for image in everything)


@pytest.mark.parametrize("pipeline", ["batched", "pil"])
def test_images_of_one_pixel_and_of_one_row_train_and_are_evaluated(tmp_path, pipeline):
    for split in ("train", "test"):
        for label, name in enumerate(("a", "b")):
            for i, (width, height) in enumerate([(1, 1), (1, 2000), (2000, 1), (5, 3)]):
                save(pixels(height, width, label), tmp_path / "thin" / split / name / f"{i}.png")
    settings_ = [f"data.pipeline={pipeline}", "data.workers=0", "train.batch_size=8"]
    recipe = registry.compose("deit_micro/folder:thin/baseline", "paper", settings_)
    store = open_dataset(recipe.data, tmp_path)
    size = recipe.model.image_size
    for epoch in range(3):
        (batch,) = TrainLoader(recipe, store, torch.device("cpu")).epoch(epoch)
        assert batch.images.shape == (8, 3, size, size) and batch.images.isfinite().all()
        assert (batch.boxes >= 0).all() and (batch.boxes[:, :2] + batch.boxes[:, 2:] <= 1.0001).all()
    ((images, labels),) = EvalLoader(recipe, store, torch.device("cpu"))
    assert images.shape == (8, 3, size, size) and images.isfinite().all() and labels.tolist() == [0] * 4 + [1] * 4

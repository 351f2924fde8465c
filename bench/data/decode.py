"""Encoded images to pixels, for the images of every layout."""

from __future__ import annotations

import functools
import io
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from bench.storage import first_line

# About transparent palettes, odd EXIF data and the like: a user cannot act on them. Real problems are raised.
warnings.filterwarnings("ignore", module=r"PIL\.")

UPRIGHT = {  # by EXIF orientation, as PIL.ImageOps.exif_transpose, which also rewrites the EXIF data and may fail at it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION_TAG = 0x0112  # EXIF
NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # registered by Pillow, which cannot decode them itself


class Unreadable(ValueError):
    """The bytes are not an image that can be decoded; the message says why."""


def decode(encoded: bytes | np.ndarray, short_side: int | None = None) -> np.ndarray:
    """The pixels of an image, [height, width, 3] uint8 RGB, upright.

    Grey, palette and CMYK images are converted to RGB. An alpha channel is dropped, as the loaders of torchvision and
    `datasets` do. 16-bit grey keeps its upper 8 bits. Of an animation the first frame is used. Raises Unreadable for images
    that are truncated, of an unknown format, of a size that could exhaust memory, or of pixels without a range.

    encoded: the content of a file, or pixels, which are returned as they are.
    short_side: px; an image with a longer short side is shrunk to it (Pillow's bicubic, antialiased).
    """
    if isinstance(encoded, np.ndarray):
        return encoded
    try:
        image = Image.open(io.BytesIO(encoded), formats=formats())
        if short_side is not None and image.format == "JPEG":
            # The decoder itself drops detail: several times faster for photos. It keeps at least the requested size.
            image.draft(None, (2 * short_side, 2 * short_side))
        return to_pixels(image, short_side)
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, EOFError …
        reason = first_line(error)
        raise Unreadable(reason if "BytesIO" not in reason else "no image of a known format") from error


def decoded_size(path: Path, short_side: int | None = None) -> tuple[int, int] | None:
    """(height, width) in px that `decode` gives an image file, within a pixel, from its header; None if that is damaged."""
    try:
        with Image.open(path, formats=formats()) as image:
            size = image.size[::-1]
            if image.getexif().get(ORIENTATION_TAG, 1) >= 5:
                size = image.size
    except Exception:  # Pillow raises many kinds; `data check` says which images cannot be read
        return None
    scale = 1.0 if short_side is None else min(1.0, short_side / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def to_pixels(image: Image.Image, short_side: int | None = None) -> np.ndarray:
    """The pixels of an open image, as `decode` returns them. Raises Unreadable, and Pillow's errors for damaged images."""
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image.load()
    orientation = None
    with suppress(Exception):  # damaged EXIF data raise many kinds, and the pixels are intact
        orientation = image.getexif().get(ORIENTATION_TAG)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    if sixteen_bits:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise Unreadable(f"its pixels (mode {image.mode}) have no fixed range: store it with 8 or 16 bits")
    image = image.convert("RGB")
    if short_side is not None and min(image.size) > short_side:
        scale = short_side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(image)


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that Pillow decodes itself. PostScript, whatever its file is called, would be run by another program."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in NOT_DECODED)

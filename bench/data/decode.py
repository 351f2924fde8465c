"""Encoded images to pixels: what every reader's images go through."""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
from PIL import Image

# Of transparent palettes, odd EXIF and the like: nothing that a user could act on. What matters is raised.
warnings.filterwarnings("ignore", module=r"PIL\.")

UPRIGHT = {  # by EXIF's orientation, as PIL.ImageOps.exif_transpose, which also rewrites the EXIF and may fail at that
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(ValueError):
    """The bytes are no image that can be decoded; the message says why."""


def decode(encoded: bytes | np.ndarray, short_side: int | None = None) -> np.ndarray:
    """An image as [height, width, 3] uint8 RGB, upright.

    Grey, palette and CMYK images become RGB; an alpha channel is dropped, as the loaders of torchvision and `datasets` do;
    16-bit grey keeps its upper 8 bits; of an animation the first picture counts. What EXIF asks for is done (turn, mirror).

    Args:
        encoded: the file's content, or pixels, which pass through.
        short_side: px; an image whose shorter side is longer is shrunk to it (Pillow's bicubic, antialiased).

    Raises:
        Unreadable: truncated, of an unknown format, of a size that could exhaust memory, or of pixels without a range.
    """
    if isinstance(encoded, np.ndarray):
        return encoded
    try:
        image = Image.open(io.BytesIO(encoded), formats=_formats())
        if short_side is not None and image.format == "JPEG":
            # The decoder itself leaves out detail: several times faster on photos. It never goes below the size asked for.
            image.draft(None, (2 * short_side, 2 * short_side))
        return to_pixels(image, short_side)
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, EOFError …
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(reason if "BytesIO" not in reason else "no image of a known format") from error


def to_pixels(image: Image.Image, short_side: int | None = None) -> np.ndarray:
    """An opened image as `decode` gives it. Raises Unreadable, and what Pillow raises for damaged ones."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image.load()
    if (turn := UPRIGHT.get(_orientation(image))) is not None:
        image = image.transpose(turn)
    if sixteen:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise Unreadable(f"its pixels (mode {image.mode}) have no fixed range: store it with 8 or 16 bits")
    image = image.convert("RGB")
    if short_side is not None and min(image.size) > short_side:
        scale = short_side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(image)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that Pillow decodes itself: PostScript, whatever a file's name, would be run by another program."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(0x0112)
    except Exception:  # damaged EXIF: of many kinds, and the pixels are whole
        return None

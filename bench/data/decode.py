"""Encoded images to pixels: what every reader's images go through."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps


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
        image = Image.open(io.BytesIO(encoded))
        if short_side is not None and image.format == "JPEG":
            # The decoder itself leaves out detail: several times faster on photos. It never goes below the size asked for.
            image.draft(None, (2 * short_side, 2 * short_side))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise Unreadable(f"its pixels (mode {image.mode}) have no fixed range: store it with 8 or 16 bits")
        image = image.convert("RGB")
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, EOFError …
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(reason if "BytesIO" not in reason else "no image of a known format") from error
    if short_side is not None and min(image.size) > short_side:
        scale = short_side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(image)

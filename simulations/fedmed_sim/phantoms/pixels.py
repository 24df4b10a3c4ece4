"""Pictures with writing in them.

Why it exists: a name in the pixels is the identifier that no table of attributes
names, so it must be drawn where a scanner would draw it.

Rules:
    * Anatomy is a smooth phantom with a little noise, so that a byte-for-byte search does not hit it by chance.
    * Writing is drawn with the font that comes with Pillow, so that the bytes depend on no system font.
    * What was written, and the box that it fills, is told.

What it does not do: draw Chinese characters; scanners' burned-in names are romanised here.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle of an image in pixels; right and lower edge are not included."""

    left: int
    top: int
    right: int
    bottom: int


def anatomy(rng: Generator, rows: int, columns: int, *, peak: int) -> npt.NDArray[np.uint16]:
    """Return a picture of a bright ellipse with an inner structure, shape (rows, columns), values 0 to `peak`."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    centre_x, centre_y = rng.uniform(-0.3, 0.3, 2)
    body = np.clip(1.2 - (x / 0.8) ** 2 - (y / 0.7) ** 2, 0, 1)
    organ = 0.4 * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) * 12)
    noise = rng.normal(0, 0.01, (rows, columns))
    picture = np.asarray((0.6 * body + organ * (body > 0) + noise * (body > 0)) * peak, dtype=np.float64)
    return np.clip(picture, 0, peak).astype(np.uint16)


def write_text(pixels: Pixels, text: str, *, left: int, top: int, height: int) -> tuple[Pixels, Box]:
    """Draw `text` in the brightest value into a copy of `pixels`.

    Args:
        pixels: Shape (rows, columns), or (rows, columns, 3).
        text: ASCII text on one line; what lies beyond the right edge is cut off.
        left: Column of its left edge.
        top: Row of its upper edge.
        height: Height of the letters in pixels, about.

    Returns:
        The picture with the text, and the box that the text fills.
    """
    stencil = bitmap(text, rows=pixels.shape[0], columns=pixels.shape[1], left=left, top=top, height=height)
    filled_rows, filled_columns = np.flatnonzero(stencil.any(axis=1)), np.flatnonzero(stencil.any(axis=0))
    out = pixels.copy()
    out[stencil] = max(int(pixels.max()), 200)
    box = Box(
        left=int(filled_columns[0]),
        top=int(filled_rows[0]),
        right=int(filled_columns[-1]) + 1,
        bottom=int(filled_rows[-1]) + 1,
    )
    return out, box


def bitmap(text: str, *, rows: int, columns: int, left: int, top: int, height: int) -> npt.NDArray[np.bool_]:
    """Return `text` as a stencil of shape (rows, columns): True where a letter is."""
    canvas = Image.new("L", (columns, rows), 0)
    ImageDraw.Draw(canvas).text((left, top), text, fill=255, font=ImageFont.load_default(height))
    return np.asarray(canvas) > 96


def jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a baseline JPEG of a picture of shape (rows, columns) or (rows, columns, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()

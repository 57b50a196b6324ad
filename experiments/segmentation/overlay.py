"""Pictures of a segmentation for people to look at: tinted images with a legend below them."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiments.segmentation.data.classes import VOID, ClassSet, Color

# At 38, the letters of a picture with the shape of a screen are 15 pixels high once the picture is
# shown 800 pixels wide.
_LETTERS_ALONG_IMAGE = 38
_LEAST_LETTER_HEIGHT = 12
_LEAST_SHARE: Final = 0.001
"""The share of the pixels from which on a class is in the legend."""
_BACKGROUND, _INK = (255, 255, 255), (32, 32, 32)


def tint(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: ClassSet, strength: float
) -> NDArray[np.uint8]:
    """An image tinted in the colours of its pixels' classes.

    Args:
      image: the image, `(H, W, 3)` RGB.
      labels: the class of each pixel, `(H, W)`.
      classes: the colours of the classes.
      strength: the weight of the colours beside the image, from 0 to 1.
    """
    mixed = cv2.addWeighted(classes.paint(labels), strength, image, 1 - strength, 0)
    return np.asarray(mixed, np.uint8)


def with_legend(
    picture: NDArray[np.uint8], labels: NDArray[np.uint8], classes: ClassSet
) -> NDArray[np.uint8]:
    """A picture with the names of its classes and their shares of the pixels below it.

    Args:
      picture: the picture, `(H, W, 3)` RGB.
      labels: the class of each pixel, `(H, W)`.
      classes: the names and colours of the classes.

    Returns:
      The picture, `(H + h, max(W, w), 3)`, where `h` and `w` are what the legend needs. Its first
      `H` rows and `W` columns are those of `picture`.
    """
    height, width = labels.shape
    letters = max(_LEAST_LETTER_HEIGHT, round(math.sqrt(height * width) / _LETTERS_ALONG_IMAGE))
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), letters)
    rows = _rows(_entries(labels, classes, font), width, letters)
    needed = max(entry.left + entry.width for row in rows for entry in row)
    line = round(1.6 * letters)
    strip = Image.new("RGB", (max(width, needed), line * len(rows) + letters // 2), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for number, row in enumerate(rows):
        top = number * line + letters // 2
        for entry in row:
            square = (entry.left, top, entry.left + letters, top + letters)
            draw.rectangle(square, fill=entry.color, outline=_INK)
            start = (entry.left + round(1.4 * letters), top + letters / 2)
            draw.text(start, entry.text, fill=_INK, font=font, anchor="lm")
    whole = np.full((height + strip.height, strip.width, 3), 255, np.uint8)
    whole[:height, :width] = picture
    whole[height:] = np.asarray(strip)
    return whole


class _Entry(NamedTuple):
    """A class in the legend, with its place in pixels."""

    text: str
    color: Color
    width: int
    left: int = 0


def _entries(
    labels: NDArray[np.uint8], classes: ClassSet, font: ImageFont.FreeTypeFont
) -> list[_Entry]:
    """The classes in a picture, the most frequent first; their places are not known yet."""
    counts = np.bincount(labels.ravel(), minlength=VOID + 1)[: len(classes)]
    shares = counts / labels.size
    found = [c for c in np.argsort(-shares, stable=True).tolist() if shares[c] >= _LEAST_SHARE]
    texts = {c: f"{classes.names[c]} {_percent(shares[c])}" for c in found or [0]}
    return [
        _Entry(text, classes.colors[c], math.ceil(font.getlength(text) + 2.4 * font.size))
        for c, text in texts.items()
    ]


def _rows(entries: Sequence[_Entry], width: int, margin: int) -> list[list[_Entry]]:
    """The entries in rows of at most a width in pixels, or of one entry that is wider."""
    rows: list[list[_Entry]] = [[]]
    left = margin // 2
    for entry in entries:
        if rows[-1] and left + entry.width > width:
            rows.append([])
            left = margin // 2
        rows[-1].append(entry._replace(left=left))
        left += entry.width
    return rows


def _percent(share: float) -> str:
    return "<1%" if share < 0.005 else f"{100 * share:.0f}%"

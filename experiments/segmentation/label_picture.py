"""Label files that can be looked at: PNG files of class numbers with the classes' colours."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.segmentation.data.classes import ClassSet


def encode_labels(labels: NDArray[np.uint8], classes: ClassSet) -> bytes:
    """A palette PNG, whose pixels are class numbers that viewers show in the classes' colours.

    Args:
      labels: the class of each pixel, `(H, W)`.
      classes: the colours of the classes.

    Example:
      >>> classes = ClassSet(("road", "car"), ((128, 64, 128), (0, 0, 142)), codes=(0, 1))
      >>> labels = np.array([[0, 1, 1]], np.uint8)
      >>> picture = Image.open(io.BytesIO(encode_labels(labels, classes)))
      >>> np.asarray(picture).tolist(), picture.convert("RGB").getpixel((1, 0))
      ([[0, 1, 1]], (0, 0, 142))
    """
    picture = Image.fromarray(labels, "L")
    picture.putpalette(classes.paint(np.arange(256)).tobytes())
    encoded = io.BytesIO()
    # Or Pillow would store 1, 2 or 4 bits a pixel where there are few classes.
    picture.save(encoded, "PNG", bits=8)
    return encoded.getvalue()

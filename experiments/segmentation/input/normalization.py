"""How the pixels of images become the input of networks."""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

type Levels = tuple[float, float, float]
"""A value for each of red, green and blue."""


@dataclass(frozen=True)
class Normalization:
    """Shifts and scales each channel: a pixel `x` becomes `(x / 255 - mean) / std`.

    Attributes:
      mean: the mean of each channel, in units of the largest pixel value.
      std: the standard deviation of each channel, in the same units.

    Raises:
      ValueError: they are not three finite numbers, or a deviation is not positive.
    """

    mean: Levels
    std: Levels

    def __post_init__(self) -> None:
        for name, least in (("mean", -math.inf), ("std", 0)):
            values = getattr(self, name)
            if (
                not isinstance(values, tuple)
                or len(values) != 3
                or not all(type(v) in (int, float) and least < v < math.inf for v in values)
            ):
                raise ValueError(f"{name} must be three numbers, got {values!r}")

    def levels(self) -> NDArray[np.float32]:
        """The input for each of the 256 values of a pixel and each channel, `(256, 1, 3)`."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = (np.arange(256, dtype=np.float32) / 255)[:, None, None]
        return np.asarray((scaled - mean) / std, np.float32)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalises an image, `(H, W, 3)` RGB."""
        return np.asarray(cv2.LUT(np.ascontiguousarray(image), self.levels()), np.float32)


IMAGENET: Final = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The mean and standard deviation of natural images."""

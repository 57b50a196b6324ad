"""The classes of a segmentation data set: names, colours and how label files spell them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOID = 255
"""The label of a pixel that neither trains nor counts in the evaluation."""


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set.

    Attributes:
      names: the name of every class.
      colors: its 8-bit RGB colour in pictures; void is black.
      codes: what the values in the label files mean: a pixel with value `v` is of class
        `codes[v]`, or void. Values of `len(codes)` and more do not occur.

    Example:
      >>> CAMVID.names[3], CAMVID.colors[3], len(CAMVID)
      ('road', (128, 64, 128), 11)
      >>> [int(label) for label in CITYSCAPES.decode(np.array([7, 8, 9], np.uint8))]
      [0, 1, 255]
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    codes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turns the values of a label file into classes.

        Args:
          values: any shape, each below `len(codes)`.

        Returns:
          The same shape: classes, void is `VOID`.

        Raises:
          ValueError: a value has no meaning in this data set.
        """
        if values.size and values.max() >= len(self.codes):
            wrong = int(values[values >= len(self.codes)].min())
            raise ValueError(f"label value {wrong} is outside the palette 0..{len(self.codes) - 1}")
        return np.asarray(self.codes, np.uint8)[values]

    def paint(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Paints labels in the class colours.

        Args:
          labels: `(..., H, W)` classes; void is `VOID`.

        Returns:
          `(..., H, W, 3)` RGB picture.
        """
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colors
        return palette[labels]


CITYSCAPES = ClassSet(
    names=(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
    # Seven void values, then flat, construction, object, nature, sky, human and vehicle.
    codes=(
        *(VOID,) * 7,
        *(0, 1, VOID, VOID),
        *(2, 3, 4, VOID, VOID, VOID),
        *(5, VOID, 6, 7),
        *(8, 9),
        10,
        *(11, 12),
        *(13, 14, 15, VOID, VOID, 16, 17, 18),
    ),
)

CAMVID = ClassSet(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    codes=(*range(11), VOID),
)

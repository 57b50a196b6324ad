"""The classes of a segmentation data set: names, colours and how label files spell them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOID = 255
"""The label of a pixel that neither trains nor counts in the evaluation."""


# Also a class nobody has.
_MEANINGLESS = VOID - 1

type Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set.

    Attributes:
      names: the name of every class.
      colors: its 8-bit RGB colour in pictures; void is black.
      codes: what the values in the label files mean: a pixel with value `v` is of class
        `codes[v]`, or void, or `v` does not occur where that is `None`. Values of `len(codes)` and
        more do not occur. Empty where label files are pictures in `colors`.
      void_colors: the colours of void in label files that are pictures in `colors`.
      categories: the category of every class, where the data set evaluates categories too.

    Example:
      >>> CAMVID.names[3], CAMVID.colors[3], len(CAMVID)
      ('road', (128, 64, 128), 11)
      >>> [int(label) for label in CITYSCAPES.decode(np.array([7, 8, 9], np.uint8))]
      [0, 1, 255]
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    codes: tuple[int | None, ...]
    void_colors: tuple[Color, ...] = ()
    categories: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turns the values of a label file into classes.

        Args:
          values: any shape.

        Returns:
          The same shape: classes, void is `VOID`.

        Raises:
          ValueError: a value has no meaning in this data set.
        """
        table = np.full(256, _MEANINGLESS, np.uint8)
        table[: len(self.codes)] = [_MEANINGLESS if c is None else c for c in self.codes]
        labels = np.take(table, values)
        wrong = values[labels == _MEANINGLESS]
        if wrong.size:
            palette = _ranges(np.flatnonzero(table != _MEANINGLESS))
            raise ValueError(f"label value {wrong.min()} is outside the palette {palette}")
        return labels

    def decode_colors(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turns a label file that is a picture in the class colours into classes.

        Args:
          picture: `(..., 3)` RGB.

        Returns:
          `(...)`: classes, void is `VOID`.

        Raises:
          ValueError: a colour is neither a class's nor void's.
        """
        palette = _as_numbers(np.array([*self.colors, *self.void_colors], np.uint8))
        labels = np.array([*range(len(self)), *(VOID for _ in self.void_colors)], np.uint8)
        order = np.argsort(palette)
        numbers = _as_numbers(picture)
        found = order[np.searchsorted(palette[order[:-1]], numbers)]
        unknown = palette[found] != numbers
        if unknown.any():
            color = tuple(map(int, picture[unknown][0]))
            raise ValueError(f"label colour {color} is not in the palette")
        return labels[found]

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


def _as_numbers(picture: NDArray[np.uint8]) -> NDArray[np.int32]:
    """One number a colour."""
    red, green, blue = np.moveaxis(picture.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _ranges(values: NDArray[np.intp]) -> str:
    """Ascending numbers, such as `0..2, 7`."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


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
    categories=(
        *("flat",) * 2,
        *("construction",) * 3,
        *("object",) * 3,
        *("nature",) * 2,
        "sky",
        *("human",) * 2,
        *("vehicle",) * 6,
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

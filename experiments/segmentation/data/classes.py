"""The classes of a segmentation data set: their names, colours and values in label files."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOID = 255
"""The label of a pixel that neither trains nor counts in the evaluation."""


# A label that no class has, since there are at most 254; it stands for values without a meaning.
_MEANINGLESS = VOID - 1

type Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set.

    Attributes:
      names: the name of every class.
      colors: the 8-bit RGB colour of every class in pictures; void is black.
      codes: the meaning of the values in label files: a pixel with value `v` is of class
        `codes[v]`, or void where that is `VOID`. Values for which `codes[v]` is `None`, and values
        of `len(codes)` and more, must not occur. Empty if label files are pictures in `colors`.
      void_colors: the colours of void in label files that are pictures in `colors`.
      categories: the category of every class if the data set evaluates categories too.

    Example:
      >>> colors = ((128, 64, 128), (0, 0, 142))
      >>> classes = ClassSet(("road", "car"), colors, codes=(VOID, 0, 1))
      >>> len(classes), classes.decode(np.array([2, 0, 1], np.uint8)).tolist()
      (2, [1, 255, 0])
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
          values: the pixels of the file, of any shape.

        Returns:
          The class of each pixel, in the same shape; void is `VOID`.

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

    def encode(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Turns classes into the values that they have in label files.

        Args:
          labels: the class of each pixel, of any shape; none is void.

        Returns:
          The values, in the same shape: the lowest where several stand for a class.

        Raises:
          ValueError: the label files of this data set are pictures in colours, or have no value for
            one of the classes.

        Example:
          >>> classes = ClassSet(("road",), ((128, 64, 128),), codes=(VOID, 0))
          >>> classes.encode(np.array([0])).tolist()
          [1]
        """
        if not self.codes:
            raise ValueError("label files are pictures in the colours of the classes")
        missing = [name for c, name in enumerate(self.names) if c not in self.codes]
        if missing:
            raise ValueError(f"label files have no values for the classes {', '.join(missing)}")
        values = np.array([self.codes.index(c) for c in range(len(self))], np.uint8)
        return values[labels]

    def decode_colors(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turns a label file that is a picture in the class colours into classes.

        Args:
          picture: the file's pixels, `(..., 3)` RGB.

        Returns:
          The class of each pixel, `(...)`; void is `VOID`.

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
          The picture, `(..., H, W, 3)` RGB.
        """
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colors
        return palette[labels]


def _as_numbers(picture: NDArray[np.uint8]) -> NDArray[np.int32]:
    """One integer for each colour of a picture, `(..., 3)`."""
    red, green, blue = np.moveaxis(picture.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _ranges(values: NDArray[np.intp]) -> str:
    """Text for ascending numbers, such as `0..2, 7`."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)

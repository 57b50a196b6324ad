"""What the input pipeline requires of a data set, and what the table of data sets lists."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.classes import ClassSet

type Split = Literal["train", "val"]
type Size = tuple[int, int]
"""Height and width in pixels."""


class Sample(TypedDict):
    """A picture and the class of each of its pixels.

    Attributes:
      image: `(H, W, 3)` 8-bit RGB.
      label: `(H, W)` classes; void is `VOID`.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


class Source(Protocol):
    """One split of a data set, with random access to samples that all have the same size."""

    @property
    def classes(self) -> ClassSet:
        """The classes that the labels name."""

    @property
    def size(self) -> Size:
        """`(H, W)` of every sample, in pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample without its image."""

    def original_label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample at the size at which the data set stores it."""


@dataclass(frozen=True)
class FilesDataSet:
    """An entry in the table of data sets, for one in a directory: `--data NAME:DIR`.

    Attributes:
      load: opens a split in a directory, with pictures brought to a size; the arguments are
        `(directory, split, size)`.
      usual_size: `(H, W)` in pixels, divisible by 8, if `--size` is not given; None if it has to be
        given.
      usual_recipe: the name of the recipe, a key of `RECIPES`, if `--recipe` is not given.
      note: what `--help` says about it in brackets; may be empty.
      classes: the classes, if they are the same in all directories.
      license: on what terms a network that was trained on it may be used, for its card.
    """

    load: Callable[[str | Path, Split, Size], Source]
    usual_size: Size | None
    usual_recipe: str
    note: str = ""
    classes: ClassSet | None = None
    license: str = "not stated: that of the images it was trained on applies"


@dataclass(frozen=True)
class GeneratedDataSet:
    """An entry in the table of data sets, for one that needs no files: `--data NAME`.

    Attributes:
      generate: generates a split; the arguments are `(split, size, seed)`.
      usual_size: `(H, W)` in pixels, divisible by 8, if `--size` is not given.
      usual_recipe: the name of the recipe, a key of `RECIPES`, if `--recipe` is not given.
      license: on what terms a network that was trained on it may be used, for its card.
      note: what `--help` says about it in brackets; may be empty.
    """

    generate: Callable[[Split, Size, int], Source]
    usual_size: Size
    usual_recipe: str
    license: str
    note: str = ""


def check_split(split: str) -> None:
    """Raises `ValueError` unless the split is `"train"` or `"val"`."""
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")


def check_size(size: Size) -> None:
    """Raises `ValueError` unless the size is `(H, W)` in whole pixels, each at least 1."""
    if len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size):
        raise ValueError(f"size must be (H, W) in pixels, each an int of at least 1, got {size!r}")

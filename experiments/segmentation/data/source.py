"""What the input pipeline asks of a data set."""

from typing import Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.classes import ClassSet

type Split = Literal["train", "val"]


class Sample(TypedDict):
    """A picture and the class of each of its pixels.

    Attributes:
      image: `(H, W, 3)` 8-bit RGB.
      label: `(H, W)` classes; void is `VOID`.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


class Source(Protocol):
    """A data set with random access, every sample of the same size."""

    @property
    def classes(self) -> ClassSet:
        """The classes its labels name."""

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of every sample, in pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample without its image."""

    def original_label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample at the size at which the data set has it."""


def check_split(split: str) -> None:
    """Raises `ValueError` unless the split is one that is trained on or evaluated."""
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")


def check_size(size: tuple[int, int]) -> None:
    """Raises `ValueError` unless the size is `(H, W)` in whole pixels, each at least 1."""
    if len(size) != 2 or not all(isinstance(n, int) and n >= 1 for n in size):
        raise ValueError(f"size must be (H, W) in pixels, each an int of at least 1, got {size!r}")

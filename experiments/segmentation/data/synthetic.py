"""Generated street scenes: a data set that needs no download."""

import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.classes import CITYSCAPES
from experiments.segmentation.data.source import Sample, Split, check_size, check_split
from experiments.segmentation.data.street_scene import Hardness, draw_street

_SPLITS: tuple[Split, ...] = ("train", "val")


class SyntheticStreets:
    """Street scenes in Cityscapes' classes, drawn when they are asked for.

    Scene `i` is a pure function of `seed`, `split`, `i`, `size` and `hardness`; no scene of one
    split is in the other.

    Args:
      split: `"train"` or `"val"`.
      size: `(H, W)` in pixels.
      length: number of scenes.
      seed: 0 or more.
      hardness: what makes a scene hard to label.

    Raises:
      ValueError: an argument is not allowed.

    Example:
      >>> sample = SyntheticStreets("train", (96, 192), length=100)[7]
      >>> sample["image"].shape, sample["label"].shape
      ((96, 192, 3), (96, 192))
    """

    classes = CITYSCAPES

    def __init__(
        self,
        split: Split,
        size: tuple[int, int] = (96, 192),
        *,
        length: int = 1000,
        seed: int = 0,
        hardness: Hardness | None = None,
    ):
        check_split(split)
        check_size(size)
        if length < 1 or seed < 0:
            raise ValueError(f"length must be >= 1 and seed >= 0, got {length} and {seed}")
        self.size = size
        self.hardness = hardness or Hardness()
        self._length = length
        self._entropy = (seed, _SPLITS.index(split))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(f"index must be from 0 to {self._length - 1}, got {index}")
        rng = np.random.default_rng((*self._entropy, index))
        image, label = draw_street(self.size, self.hardness, rng)
        return Sample(image=image, label=label)

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label of one scene."""
        return self[index]["label"]

    def original_label(self, index: int) -> NDArray[np.uint8]:
        """The same: a scene has no other size."""
        return self.label(index)

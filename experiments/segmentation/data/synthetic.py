"""Generated street scenes: a data set that needs no download."""

import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.data.source import (
    GeneratedDataSet,
    Sample,
    Size,
    Split,
    check_size,
    check_split,
)
from experiments.segmentation.data.street_scene import Hardness, draw_street

_SPLITS: tuple[Split, ...] = ("train", "val")
# How many scenes the programs train on and evaluate on.
_SCENES: dict[Split, int] = {"train": 576, "val": 64}


class SyntheticStreets:
    """Street scenes with Cityscapes' classes, each drawn when it is read.

    Scene `i` is a pure function of `seed`, `split`, `i`, `size` and `hardness`; the splits have no
    scene in common.

    Args:
      split: `"train"` or `"val"`.
      size: `(H, W)` in pixels.
      length: the number of scenes.
      seed: the seed of all scenes, 0 or more.
      hardness: what makes a scene hard to label; the usual by default.

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
        size: Size = (96, 192),
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
        """The label of one scene without its image."""
        return self[index]["label"]

    def original_label(self, index: int) -> NDArray[np.uint8]:
        """The label of one scene: it is drawn at the size at which it is read."""
        return self.label(index)


def _generate(split: Split, size: Size, seed: int) -> SyntheticStreets:
    return SyntheticStreets(split, size, length=_SCENES[split], seed=seed)


DATA_SET = GeneratedDataSet(
    _generate,
    usual_size=(96, 192),
    usual_recipe="quick",
    license="Apache-2.0",
    note="generated, no download",
)

"""Cityscapes, fine annotations, with its nineteen evaluated classes."""

from pathlib import Path

from experiments.segmentation.data.classes import CITYSCAPES
from experiments.segmentation.data.paired_images import PairedImages, files_by_name
from experiments.segmentation.data.source import Split, check_split

_IMAGE, _LABEL = "_leftImg8bit", "_gtFine_labelIds"


class Cityscapes(PairedImages):
    """Cityscapes as its two archives unpack: `leftImg8bit/` and `gtFine/`.

    `gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png` belongs to
    `leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`; its 34 values become 19 classes and void.

    Args:
      root: the directory with those folders.
      split: `"train"` or `"val"`.
      size: `(H, W)` in pixels; the files are 1024 x 2048, the paper trains on 512 x 1024.

    Raises:
      DataError: see `PairedImages`; also when a folder is missing or empty.
      ValueError: `split` or `size` is not allowed.

    Source: Cordts et al. 2016.
    """

    def __init__(self, root: str | Path, split: Split, size: tuple[int, int] = (512, 1024)):
        check_split(split)
        super().__init__(
            files_by_name(Path(root, "leftImg8bit", split), f"*/*{_IMAGE}.png", _IMAGE),
            files_by_name(Path(root, "gtFine", split), f"*/*{_LABEL}.png", _LABEL),
            CITYSCAPES,
            size,
        )

"""Cityscapes, fine annotations, with its nineteen evaluated classes."""

from pathlib import Path

from experiments.segmentation.data.classes import VOID, ClassSet
from experiments.segmentation.data.paired_images import PairedImages
from experiments.segmentation.data.picture_files import LABEL_SUFFIXES, files_by_name
from experiments.segmentation.data.source import FilesDataSet, Size, Split, check_split

_IMAGE, _LABEL = "_leftImg8bit", "_gtFine_labelIds"

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
"""The evaluated classes, in the order of their `trainId`; all other labels are void."""


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

    def __init__(self, root: str | Path, split: Split, size: Size = (512, 1024)):
        check_split(split)
        super().__init__(
            files_by_name(Path(root, "leftImg8bit", split), ending=_IMAGE, subfolders=True),
            files_by_name(
                Path(root, "gtFine", split), LABEL_SUFFIXES, ending=_LABEL, subfolders=True
            ),
            CITYSCAPES,
            size,
        )


DATA_SET = FilesDataSet(
    Cityscapes,
    usual_size=(512, 1024),
    usual_recipe="paper-enet",
    note="DIR holds leftImg8bit/ and gtFine/",
    classes=CITYSCAPES,
    license="non-commercial: the terms of Cityscapes apply",
)

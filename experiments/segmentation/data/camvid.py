"""CamVid with SegNet's eleven classes."""

from pathlib import Path

from experiments.segmentation.data.classes import VOID, ClassSet
from experiments.segmentation.data.paired_images import PairedImages
from experiments.segmentation.data.picture_files import LABEL_SUFFIXES, files_by_name
from experiments.segmentation.data.source import FilesDataSet, Size, Split, check_split

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
"""SegNet's classes, and void for the value 11."""


class CamVid(PairedImages):
    """CamVid as SegNet lays it out: `train/`, `trainannot/`, `val/`, `valannot/`.

    A label file `trainannot/NAME.png` belongs to `train/NAME.png` (or `.jpg`); its values 0 to 10
    are the classes, 11 is void.

    Args:
      root: the directory with those folders.
      split: `"train"` or `"val"`.
      size: `(H, W)` in pixels; the files are 360 x 480.

    Raises:
      DataError: see `PairedImages`; also when a folder is missing or empty.
      ValueError: `split` or `size` is not allowed.

    Source: Brostow et al. 2009; Badrinarayanan et al. 2017 (SegNet) for the classes.
    """

    def __init__(self, root: str | Path, split: Split, size: Size = (360, 480)):
        check_split(split)
        super().__init__(
            files_by_name(Path(root, split)),
            files_by_name(Path(root, f"{split}annot"), LABEL_SUFFIXES),
            CAMVID,
            size,
        )


DATA_SET = FilesDataSet(
    CamVid,
    usual_size=(360, 480),
    usual_recipe="plain",
    classes=CAMVID,
    license="non-commercial: the terms of CamVid apply",
)

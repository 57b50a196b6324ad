"""SUN RGB-D's colour pictures with its 37 classes."""

import colorsys
import re
from collections.abc import Mapping
from pathlib import Path

from experiments.segmentation.data.classes import VOID, ClassSet, Color
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.paired_images import PairedImages
from experiments.segmentation.data.picture_files import LABEL_SUFFIXES, files_by_name
from experiments.segmentation.data.source import FilesDataSet, Size, Split, check_split

_IMAGE_FOLDERS: dict[Split, str] = {
    "train": "SUNRGBD-train_images",
    "val": "SUNRGBD-test_images",
}
_LABEL_FOLDER = "sunrgbd_train_test_labels"
_NAME = re.compile("img-[0-9]{6}")
# Label files are numbered consecutively: first those of the test pictures, then the others.
_TEST_PICTURES = 5050

_NAMES = (
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floor mat",
    "clothes",
    "ceiling",
    "books",
    "fridge",
    "tv",
    "paper",
    "towel",
    "shower curtain",
    "box",
    "whiteboard",
    "person",
    "night stand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
)


def _color(index: int) -> Color:
    """A colour unlike those of neighbouring classes; the data set itself defines none."""
    hue = index * 0.618034 % 1  # Multiples of the golden ratio spread evenly over the circle.
    brightness = (1.0, 0.75, 0.5)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


SUN_RGBD = ClassSet(
    names=_NAMES,
    colors=tuple(map(_color, range(len(_NAMES)))),
    codes=(VOID, *range(len(_NAMES))),
)


class SunRgbd(PairedImages):
    """SUN RGB-D as three archives unpack, each into a folder of its own name.

    `SUNRGBD-train_images/img-NUMBER.jpg` (1 to 5285) has the label
    `sunrgbd_train_test_labels/img-(NUMBER + 5050).png`, and `SUNRGBD-test_images/img-NUMBER.jpg`
    (1 to 5050) has the label of the same number. The value 0 is void, 1 to 37 are the classes.

    Args:
      root: the directory with those folders.
      split: `"train"` or `"val"`; the latter is the official test split.
      size: `(H, W)` in pixels; the files have several sizes, mostly 441 x 591 to 530 x 730.

    Raises:
      DataError: see `PairedImages`; also when a folder is missing or empty, or a file has no
        number.
      ValueError: `split` or `size` is not allowed.

    Source: Song et al. 2015; Handa et al. 2016 for the archives.
    """

    def __init__(self, root: str | Path, split: Split, size: Size = (480, 640)):
        check_split(split)
        images = _by_number(files_by_name(Path(root, _IMAGE_FOLDERS[split])))
        labels = _by_number(files_by_name(Path(root, _LABEL_FOLDER), LABEL_SUFFIXES))
        if split == "train":
            images = {number + _TEST_PICTURES: path for number, path in images.items()}
        super().__init__(
            {f"{number:06}": path for number, path in images.items()},
            {
                f"{number:06}": path
                for number, path in labels.items()
                if (number > _TEST_PICTURES) == (split == "train")
            },
            SUN_RGBD,
            size,
        )


def _by_number(found: Mapping[str, Path]) -> dict[int, Path]:
    """Files by the number in their name."""
    wrong = [
        f"{path}: not named img- and six digits; remove it"
        for name, path in found.items()
        if not _NAME.fullmatch(name)
    ]
    if wrong:
        raise DataError("\n".join(wrong))
    return {int(name[-6:]): path for name, path in found.items()}


DATA_SET = FilesDataSet(
    SunRgbd,
    usual_size=(480, 640),
    usual_recipe="paper-enet",
    classes=SUN_RGBD,
    license="not stated: the terms of SUN RGB-D apply",
)

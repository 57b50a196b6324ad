"""The data sets a program can be told to use, by the text that names them on the command line."""

from dataclasses import dataclass

from experiments.segmentation.data.camvid import CamVid
from experiments.segmentation.data.cityscapes import Cityscapes
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.image_folder import ImageFolder
from experiments.segmentation.data.source import Source
from experiments.segmentation.data.sunrgbd import SunRgbd
from experiments.segmentation.data.synthetic import SyntheticStreets

_KINDS = "synthetic, camvid:DIR, cityscapes:DIR, sunrgbd:DIR or folder:DIR"


@dataclass(frozen=True)
class DataSet:
    """Both splits of a data set.

    Attributes:
      train: the training split.
      val: the held-out split.
      size: `(H, W)` of both, in pixels.
    """

    train: Source
    val: Source
    size: tuple[int, int]


def open_dataset(text: str, size: tuple[int, int] | None, seed: int) -> DataSet:
    """Opens a data set.

    Args:
      text: `synthetic`, `camvid:DIR`, `cityscapes:DIR`, `sunrgbd:DIR` or `folder:DIR`.
      size: `(H, W)` in pixels to which pictures are brought; by default the data set's usual size,
        which `folder:DIR` has not.
      seed: of generated scenes.

    Raises:
      DataError: there is no such data set, it is incomplete, or it needs a size.

    Example:
      >>> open_dataset("synthetic", (48, 96), seed=0).train[0]["image"].shape
      (48, 96, 3)
    """
    kind, _, directory = text.partition(":")
    train: Source
    val: Source
    if kind == "synthetic" and not directory:
        size = size or (96, 192)
        train = SyntheticStreets("train", size, length=576, seed=seed)
        val = SyntheticStreets("val", size, length=64, seed=seed)
    elif kind == "camvid" and directory:
        size = size or (360, 480)
        train, val = CamVid(directory, "train", size), CamVid(directory, "val", size)
    elif kind == "cityscapes" and directory:
        size = size or (512, 1024)
        train, val = Cityscapes(directory, "train", size), Cityscapes(directory, "val", size)
    elif kind == "sunrgbd" and directory:
        size = size or (480, 640)
        train, val = SunRgbd(directory, "train", size), SunRgbd(directory, "val", size)
    elif kind == "folder" and directory:
        if size is None:
            raise DataError(f"{text} has no usual size; give one such as 480x640")
        train, val = ImageFolder(directory, "train", size), ImageFolder(directory, "val", size)
    else:
        raise DataError(f"unknown data {text!r}; choose {_KINDS}")
    return DataSet(train, val, size)

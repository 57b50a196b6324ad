"""The data sets a program can be told to use, by the text that names them on the command line."""

from dataclasses import dataclass

from segmentation.camvid import CamVid
from segmentation.cityscapes import Cityscapes
from segmentation.errors import DataError
from segmentation.source import Source
from segmentation.synthetic import SyntheticStreets

_KINDS = "synthetic, camvid:DIR or cityscapes:DIR"


@dataclass(frozen=True)
class DataSet:
    """Both splits of a data set, and how to train on it unless told otherwise.

    Attributes:
      train: the training split.
      val: the held-out split.
      size: `(H, W)` of both, in pixels.
      epochs: a sensible length of training.
    """

    train: Source
    val: Source
    size: tuple[int, int]
    epochs: int


def open_dataset(text: str, size: tuple[int, int] | None, seed: int) -> DataSet:
    """Opens a data set.

    Args:
      text: `synthetic`, `camvid:DIR` or `cityscapes:DIR`.
      size: `(H, W)` in pixels to which pictures are brought; by default the data set's usual size.
      seed: of generated scenes.

    Raises:
      DataError: there is no such data set, or it is incomplete.

    Example:
      >>> open_dataset("synthetic", (48, 96), seed=0).train[0]["image"].shape
      (48, 96, 3)
    """
    kind, _, directory = text.partition(":")
    train: Source
    val: Source
    if kind == "synthetic" and not directory:
        size, epochs = size or (96, 192), 3
        train = SyntheticStreets("train", size, length=1024, seed=seed)
        val = SyntheticStreets("val", size, length=128, seed=seed)
    elif kind == "camvid" and directory:
        size, epochs = size or (360, 480), 100
        train, val = CamVid(directory, "train", size), CamVid(directory, "val", size)
    elif kind == "cityscapes" and directory:
        size, epochs = size or (512, 1024), 300
        train, val = Cityscapes(directory, "train", size), Cityscapes(directory, "val", size)
    else:
        raise DataError(f"unknown data {text!r}; choose {_KINDS}")
    return DataSet(train, val, size, epochs)

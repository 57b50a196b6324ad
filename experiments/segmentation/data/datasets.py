"""The table of data sets: which ones the programs know, by their names on the command line.

To add one, write a file beside this with a `FilesDataSet`, import it here and add a line to
`DATA_SETS`. The text of `--help`, the usual size and the usual recipe follow from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from experiments.segmentation.data import camvid, cityscapes, image_folder, sunrgbd, synthetic
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.source import (
    FilesDataSet,
    GeneratedDataSet,
    Size,
    Source,
    Split,
)

DATA_SETS: Final[Mapping[str, FilesDataSet | GeneratedDataSet]] = MappingProxyType(
    {
        "synthetic": synthetic.DATA_SET,
        "camvid": camvid.DATA_SET,
        "cityscapes": cityscapes.DATA_SET,
        "sunrgbd": sunrgbd.DATA_SET,
        "folder": image_folder.DATA_SET,
    }
)


@dataclass(frozen=True)
class DataSet:
    """Both splits of a data set.

    Attributes:
      train: the training split.
      val: the held-out split.
      size: `(H, W)` of the samples of both, in pixels.
      has_files: whether samples are read from files, which may be damaged.
    """

    train: Source
    val: Source
    size: Size
    has_files: bool


def usage() -> str:
    """How the command line names each data set, for `--help`."""
    forms = [
        _form(name) + (f" ({entry.note})" if entry.note else "")
        for name, entry in DATA_SETS.items()
    ]
    return _listed(forms, ", or ")


def usual_recipe(text: str) -> str:
    """The name of the recipe for a data set where the command line gives none.

    Args:
      text: the data set, as on the command line.
    """
    entry = DATA_SETS.get(text.partition(":")[0])
    # `open_dataset` refuses unknown data sets, with a better message than one about recipes.
    return "plain" if entry is None else entry.usual_recipe


def open_dataset(text: str, size: Size | None, seed: int) -> DataSet:
    """Opens both splits of a data set.

    Args:
      text: the data set, as on the command line: `synthetic`, or a name and a directory such as
        `camvid:DIR`.
      size: `(H, W)` in pixels to which pictures are brought; by default the data set's usual size,
        which `folder:DIR` does not have.
      seed: the seed of generated scenes.

    Raises:
      DataError: there is no such data set, it is incomplete, or it needs a size.

    Example:
      >>> open_dataset("synthetic", (48, 96), seed=0).train[0]["image"].shape
      (48, 96, 3)
    """
    has_files = isinstance(_entry(text), FilesDataSet)
    train, val = (open_split(text, split, size, seed) for split in ("train", "val"))
    return DataSet(train, val, val.size, has_files)


def open_split(text: str, split: Split, size: Size | None, seed: int) -> Source:
    """Opens one split of a data set; for the other arguments and the errors see `open_dataset`."""
    entry = _entry(text)
    size = size or entry.usual_size
    if size is None:
        raise DataError(f"{text} has no usual size; give one such as 480x640")
    if isinstance(entry, GeneratedDataSet):
        return entry.generate(split, size, seed)
    return entry.load(text.partition(":")[2], split, size)


def _entry(text: str) -> FilesDataSet | GeneratedDataSet:
    """The entry of the table for a data set as the command line gives it."""
    name, _, directory = text.partition(":")
    entry = DATA_SETS.get(name)
    if entry is None or bool(directory) != isinstance(entry, FilesDataSet):
        forms = _listed([_form(known) for known in DATA_SETS], " or ")
        raise DataError(f"unknown data {text!r}; choose {forms}")
    return entry


def _form(name: str) -> str:
    """How the command line names a data set."""
    return f"{name}:DIR" if isinstance(DATA_SETS[name], FilesDataSet) else name


def _listed(forms: list[str], last: str) -> str:
    return ", ".join(forms[:-1]) + last + forms[-1]

"""The pictures that a command line names: files, and folders of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.common.program import UserError
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.picture_files import (
    PICTURE_SUFFIXES,
    distinct_names,
    find_pictures,
)


class Inputs(NamedTuple):
    """The files that were found.

    Attributes:
      pictures: the pictures, by a name for what is made of each; no two have the same name.
      others: the files in folders that are no pictures by their names.
    """

    pictures: dict[Path, Path]
    others: list[Path]


def find_inputs(paths: Sequence[Path]) -> Inputs:
    """Finds the pictures among files and in folders, and in the folders below these.

    A picture's name is its path in the folder that was given, or the file's own name, without the
    suffix unless several would have the same.

    Args:
      paths: the files and folders; a file counts as a picture whatever its name.

    Raises:
      DataError: a path does not exist, or a folder cannot be read.
      UserError: there are no paths, there is no picture in a folder, or pictures of different
        folders would have the same name.
    """
    if not paths:
        raise UserError("IMAGES must be one or more files or folders; got none")
    beside: dict[Path, list[Path]] = {}
    others: list[Path] = []
    for path in dict.fromkeys(paths):
        if path.is_dir():
            found = find_pictures(path)
            _check_any(path, found.pictures)
            beside.setdefault(path, []).extend(found.pictures)
            others += found.others
        elif path.exists():
            beside.setdefault(path.parent, []).append(path)
        else:
            raise DataError(f"{path}: no such file or directory; name pictures, or their folder")
    pictures: dict[Path, Path] = {}
    for folder, files in beside.items():
        for name, path in distinct_names(folder, list(dict.fromkeys(files))).items():
            if pictures.setdefault(name, path) != path:
                raise UserError(
                    f"{pictures[name]} and {path} would have results of the same name; segment "
                    "them into different --out"
                )
    return Inputs(pictures, others)


def _check_any(folder: Path, pictures: Sequence[Path]) -> None:
    if not pictures:
        forms = ", ".join(f"*{suffix}" for suffix in sorted(PICTURE_SUFFIXES))
        raise UserError(f"{folder} holds no images: no {forms} in it or below it")

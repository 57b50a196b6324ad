"""Finding the pictures in a folder, and in the folders below it."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Final, NamedTuple

from experiments.segmentation.data.errors import DataError

PICTURE_SUFFIXES: Final[Set[str]] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"}
)
"""The suffixes of pictures, in lower case; files may have them in any case."""

LABEL_SUFFIXES: Final[Set[str]] = frozenset({".png"})
"""The suffixes of label files, in lower case; files may have them in any case."""


class FolderContent(NamedTuple):
    """The files of a folder, both lists in the order of their paths.

    Attributes:
      pictures: the files with a suffix that was asked for.
      others: all other files.
    """

    pictures: list[Path]
    others: list[Path]


def find_pictures(
    directory: Path, suffixes: Set[str] = PICTURE_SUFFIXES, *, subfolders: bool = True
) -> FolderContent:
    """Finds the pictures in a folder.

    Args:
      directory: the folder to search.
      suffixes: the suffixes of pictures, in lower case; those of files may have any case.
      subfolders: whether to search all folders below it too, also those behind links.

    Returns:
      The files; those that are hidden or in hidden folders are left out.

    Raises:
      DataError: there is no such folder, or a folder cannot be read.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; name the one that holds the pictures")
    paths = sorted(_files(directory, suffixes, subfolders))
    pictures = [path for path in paths if path.suffix.lower() in suffixes]
    others = [path for path in paths if path.suffix.lower() not in suffixes]
    return FolderContent(pictures, others)


def files_by_name(
    directory: Path,
    suffixes: Set[str] = PICTURE_SUFFIXES,
    *,
    ending: str = "",
    subfolders: bool = False,
) -> dict[str, Path]:
    """Finds files, by the part of their path that they share with their partners.

    Names that look alike are alike: an accented letter may be one character or a letter and an
    accent, and which of the two a file has depends on the system that it was made on.

    Args:
      directory: the folder to search; it must exist.
      suffixes: the suffixes of the files, in lower case; those of files may have any case.
      ending: the end of a file's name before its suffix, which its partner does not have. Files
        without it are left out.
      subfolders: whether to search all folders below it too.

    Returns:
      The files by their path relative to `directory`, without `ending` and suffix.

    Raises:
      DataError: there is no such directory, no file in it matches, or files share a name; the
        message names all of these, one on each line.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; pass the root of the unpacked data set")
    found: dict[str, Path] = {}
    doubles = []
    for path in find_pictures(directory, suffixes, subfolders=subfolders).pictures:
        if not path.stem.endswith(ending):
            continue
        name = str(path.relative_to(directory).with_suffix("")).removesuffix(ending)
        first = found.setdefault(_composed(name), path)
        if first != path:
            doubles.append(
                f"{path}: same name as {_told_apart(first, path)}; remove one of the two"
            )
    if doubles:
        raise DataError("\n".join(doubles))
    if not found:
        forms = ", ".join(f"*{ending}{suffix}" for suffix in sorted(suffixes))
        raise DataError(f"{directory}: no files {forms}; unpack the data set there")
    return found


def distinct_names(directory: Path, paths: Sequence[Path]) -> dict[Path, Path]:
    """Names for what is made of each file in a folder: no two files get the same.

    Args:
      directory: the folder.
      paths: the files in it and in folders below it.

    Returns:
      For each name its file. A name is the file's path in the folder without its suffix, or with it
      if other files would have the same name.
    """
    names = {path: path.relative_to(directory).with_suffix("") for path in paths}
    while True:
        counts = Counter(names.values())
        # A whole name is no other's whole name, so this ends.
        shared = {path for path, name in names.items() if counts[name] > 1}
        if not shared:
            return {name: path for path, name in names.items()}
        names |= {path: path.relative_to(directory) for path in shared}


def _files(directory: Path, suffixes: Set[str], subfolders: bool) -> Iterator[Path]:
    """The files in a folder, and below it if `subfolders` is set, that are not hidden."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); make it readable")

    for folder, below, names in os.walk(directory, onerror=fail, followlinks=True):
        here = Path(folder)
        # A link may lead back to a folder that holds it.
        if here != directory and here.resolve() in _resolved_parents(here, directory):
            below.clear()
            continue
        # A folder that is named like a picture counts as one, and is named when it is read.
        like_pictures = [name for name in below if Path(name).suffix.lower() in suffixes]
        yield from (here / name for name in (*names, *like_pictures) if not name.startswith("."))
        if not subfolders:
            break
        below[:] = sorted(
            name for name in below if not name.startswith(".") and name not in like_pictures
        )


def _resolved_parents(folder: Path, directory: Path) -> set[Path]:
    """The folders between a folder and a directory above it, which is included, without links."""
    depth = len(folder.relative_to(directory).parts)
    return {parent.resolve() for parent in folder.parents[:depth]}


def _told_apart(first: Path, path: Path) -> str:
    """The name of the first of two files, which may look like the name of the second."""
    if first.name != path.name and _composed(first.name) == _composed(path.name):
        return f"{first.name} in another Unicode form"
    return first.name


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)

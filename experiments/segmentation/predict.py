"""The `predict` subcommand: a trained network segments a folder of images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.common.command_line import read_settings
from experiments.common.outputs import is_marked, make_directory, mark, picture
from experiments.common.program import UserError, describe_os_error, first_line
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.picture_files import (
    PICTURE_SUFFIXES,
    distinct_names,
    find_pictures,
)
from experiments.segmentation.data.picture_reading import read_image
from experiments.segmentation.predictor import (
    Predictor,
    predictor_of_file,
    predictor_of_run,
    read_network_file,
)
from experiments.segmentation.saved_run import check_run, open_run

_START = 256  # bytes of a picture that hold the mark, which follows its header


@dataclass(frozen=True)
class _Settings:
    """Segments every image of a folder, and of all folders below it, with a trained network.

    Images are JPEG, PNG, BMP, TIFF and WebP files; their EXIF orientation is obeyed. Writes for
    each, at its own size and into a folder of the same name, NAME_overlay.png (the image tinted in
    the classes' colours) and NAME_labels.png (8-bit grey: the number of each pixel's class). NAME
    is the image's, with its suffix only where several images would have the same. Replaces results
    of its own, which it recognises and never segments, and no other files.

    Images may be of any size and shape. Each is resized as a whole to the size of the training
    images, as it was in training, and what the network finds is enlarged again.
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run, whose newest checkpoint is used, or a file in its place: the weights
    that training or jaxbox.models.save wrote, or what export.py wrote."""
    images: tyro.conf.Positional[Path]
    """Folder of images."""
    out: Path
    """Folder for the results; created if missing."""
    tint: float = 0.5
    """Strength of the colours in the overlay, from 0 to 1."""
    codes: bool = False
    """Write the values that classes have in the data set's own label files, such as Cityscapes'
    labelIds, and no overlays: what an evaluation server expects."""
    data: str | None = None
    """Where the run's data set is now, such as folder:DIR; only needed for runs of older programs,
    which did not record the names and colours of their classes."""


def predict(arguments: Sequence[str]) -> None:
    """Runs the subcommand with the arguments that follow it on the command line."""
    settings = read_settings(_Settings, arguments, prog="predict")
    if not 0 <= settings.tint <= 1:
        raise UserError(f"--tint must be from 0 to 1; got {settings.tint}")
    if settings.run.is_file() and settings.data is not None:
        raise UserError(f"--data must not be given for a file; got {settings.data!r}")
    file = read_network_file(settings.run) if settings.run.is_file() else None
    if file is None:
        check_run(settings.run)
    make_directory(settings.out)
    found = find_pictures(settings.images)
    images = distinct_names(settings.images, _without_results(found.pictures, settings.images))
    if file is None:
        predictor = predictor_of_run(open_run(settings.run, settings.data, history=False))
    else:
        predictor = predictor_of_file(file, settings.run)
    _check_codes(settings, predictor.classes)
    failed = []
    for name, path in tqdm(images.items(), unit="img", desc="predicting", disable=None):
        try:
            _predict(predictor, path, settings.out / name, settings)
        except OSError as error:
            failed.append(describe_os_error(error))
        except UserError as error:  # which names the file that cannot be read or written
            failed.append(str(error))
        except (MemoryError, cv2.error) as error:
            failed.append(f"{path}: too large for this machine ({first_line(error)})")
    print(f"{len(images) - len(failed)} images segmented into {settings.out}")
    if found.others:
        print(f"left out, since they are no images by their names: {_by_suffix(found.others)}")
    if failed:
        count = f"{len(failed)} of {len(images)} images"
        raise UserError("\n".join([f"{count} cannot be read or written:", *map(_escaped, failed)]))


def _without_results(images: Sequence[Path], folder: Path) -> list[Path]:
    """The images that are no results of this program, which may be in the folder of images."""
    if not images:
        forms = ", ".join(f"*{suffix}" for suffix in sorted(PICTURE_SUFFIXES))
        raise UserError(f"{folder} holds no images: no {forms} in it or below it")
    kept = [path for path in images if not _is_result(path)]
    if not kept:
        raise UserError(f"{folder} holds nothing but results of predict")
    if len(kept) < len(images):
        print(f"{len(images) - len(kept)} results of this program are left out")
    return kept


def _is_result(path: Path) -> bool:
    if not path.is_file():  # to open a pipe would wait for its other end
        return False
    try:
        with path.open("rb") as file:
            return is_marked(file.read(_START))
    except OSError:
        return False  # what cannot be read is named later


def _check_codes(settings: _Settings, classes: ClassSet) -> None:
    """Raises `UserError` if values of classes are asked for and the data set has none."""
    try:
        if settings.codes:
            classes.encode(np.arange(len(classes)))
    except ValueError as error:
        raise UserError(f"--codes must not be given for {settings.run}: its {error}") from error


def _predict(predictor: Predictor, path: Path, out: Path, settings: _Settings) -> None:
    """Segments an image and writes the results, to whose names `out` is the start.

    Raises:
      DataError: the image cannot be read.
      OSError: a result cannot be written.
      UserError: there is another file in the place of a result.
    """
    image, classes = read_image(path), predictor.classes
    labels = predictor.segment(image)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, "labels", classes.encode(labels) if settings.codes else labels)
    if not settings.codes:
        _write(out, "overlay", tint(image, labels, classes, settings.tint)[..., ::-1])


def tint(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], classes: ClassSet, strength: float
) -> NDArray[np.uint8]:
    """An image tinted in the colours of its pixels' classes.

    Args:
      image: the image, `(H, W, 3)` RGB.
      labels: the class of each pixel, `(H, W)`.
      classes: the colours of the classes.
      strength: the weight of the colours beside the image, from 0 to 1.
    """
    mixed = cv2.addWeighted(classes.paint(labels), strength, image, 1 - strength, 0)
    return np.asarray(mixed, np.uint8)


def _write(out: Path, kind: str, pixels: NDArray[np.uint8]) -> None:
    """Writes grey pixels, or colours in OpenCV's order, BGR.

    OpenCV only encodes them: it cannot open files whose names are not UTF-8.
    """
    _, encoded = cv2.imencode(".png", pixels)
    picture(out.with_name(f"{out.name}_{kind}.png")).write(mark(encoded.tobytes()))


def _by_suffix(paths: Sequence[Path]) -> str:
    """How many files there are of each suffix."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return _escaped(", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items())))


def _escaped(message: str) -> str:
    """A message in one line, whatever characters the names of files have."""
    return "".join(c if ord(c) >= 32 else c.encode("unicode_escape").decode() for c in message)

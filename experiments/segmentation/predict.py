"""The `predict` subcommand: a trained network segments a folder of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.common.command_line import read_settings
from experiments.common.outputs import OutputFile, is_marked, make_directory, mark, picture
from experiments.common.program import UserError, describe_os_error
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.picture_files import files_by_name
from experiments.segmentation.data.picture_reading import read_image
from experiments.segmentation.saved_run import SavedRun, check_run, most_likely, open_run

_START = 256  # bytes of a picture that hold the mark, which follows its header


@dataclass(frozen=True)
class _Settings:
    """Segments every image (JPEG or PNG) of a folder with a trained network.

    Writes for each image, at its own size, NAME_overlay.png (the image tinted in the classes'
    colours) and NAME_labels.png (8-bit grey: the number of each pixel's class). Replaces results of
    its own, which it recognises and never segments, and no other files.
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run, whose newest checkpoint is used."""
    images: tyro.conf.Positional[Path]
    """Folder of images."""
    out: Path
    """Folder for the results; created if missing."""
    tint: float = 0.5
    """Strength of the colours in the overlay, from 0 to 1."""
    data: str | None = None
    """Where the run's data set is now, such as folder:DIR; only needed for runs of older programs,
    which did not record the names and colours of their classes."""


def predict(arguments: Sequence[str]) -> None:
    """Runs the subcommand with the arguments that follow it on the command line."""
    settings = read_settings(_Settings, arguments, prog="predict")
    if not 0 <= settings.tint <= 1:
        raise UserError(f"--tint must be from 0 to 1; got {settings.tint}")
    check_run(settings.run)
    make_directory(settings.out)
    images = _without_results(files_by_name(settings.images))
    opened = open_run(settings.run, settings.data, history=False)
    failed = []
    for name, path in tqdm(images.items(), unit="img", desc="predicting", disable=None):
        try:
            _predict(opened, path, settings.out / name, settings.tint)
        except OSError as error:
            failed.append(describe_os_error(error))
        except UserError as error:  # which names the file that cannot be read or written
            failed.append(str(error))
    print(f"{len(images) - len(failed)} images segmented into {settings.out}")
    if failed:
        count = f"{len(failed)} of {len(images)} images"
        raise UserError("\n".join([f"{count} cannot be read or written:", *map(_escaped, failed)]))


def _without_results(images: Mapping[str, Path]) -> dict[str, Path]:
    """The images that are no results of this program, which may be in the folder of images."""
    kept = {name: path for name, path in images.items() if not _is_result(path)}
    if not kept:
        raise UserError(
            f"{next(iter(images.values())).parent} holds nothing but results of predict"
        )
    if len(kept) < len(images):
        print(f"{len(images) - len(kept)} results of this program are left out")
    return kept


def _is_result(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_marked(file.read(_START))
    except OSError:
        return False  # what cannot be read is named later


def _predict(opened: SavedRun, path: Path, out: Path, strength: float) -> None:
    """Segments an image and writes both results, to whose names `out` is the start.

    Raises:
      DataError: the image cannot be read.
      OSError: a result cannot be written.
      UserError: there is another file in the place of a result.
    """
    image = read_image(path)
    labels = _segment(opened, image)
    overlay = tint(image, labels, opened.classes, strength)
    for kind, pixels in (("labels", labels), ("overlay", overlay[..., ::-1])):
        _write(picture(out.with_name(f"{out.name}_{kind}.png")), pixels)


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


def _segment(opened: SavedRun, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The class of each pixel; the image is resized to the network's input and the logits back."""
    state, (height, width) = opened.state, opened.size
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    pixels = opened.normalization(np.asarray(small, np.uint8))
    logits = opened.trainer.logits(state.params, state.model_state, pixels[None])
    return most_likely(np.asarray(logits[0], np.float32), image.shape[:2]).astype(np.uint8)


def _write(file: OutputFile, pixels: NDArray[np.uint8]) -> None:
    """Writes grey pixels, or colours in OpenCV's order, BGR.

    OpenCV only encodes them: it cannot open files whose names are not UTF-8.
    """
    _, encoded = cv2.imencode(".png", pixels)
    file.write(mark(encoded.tobytes()))


def _escaped(message: str) -> str:
    """A message in one line, whatever characters the names of files have."""
    return "".join(c if ord(c) >= 32 else c.encode("unicode_escape").decode() for c in message)

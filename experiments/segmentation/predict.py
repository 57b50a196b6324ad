"""The `predict` subcommand: a trained network segments images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.common.outputs import is_marked, make_directory, mark, picture
from experiments.common.program import UserError, describe_os_error, first_line
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.picture_inputs import find_inputs
from experiments.segmentation.data.picture_reading import read_image
from experiments.segmentation.label_picture import encode_labels
from experiments.segmentation.overlay import tint, with_legend
from experiments.segmentation.predictor import (
    Predictor,
    predictor_of_file,
    predictor_of_run,
    read_network_file,
)
from experiments.segmentation.saved_run import check_run, open_run

_START = 256  # bytes of a picture that hold the mark, which follows its header


@dataclass(frozen=True)
class PredictSettings:
    """Segments images, or every image of a folder and of all folders below it.

    Images are JPEG, PNG, BMP, TIFF and WebP files; their EXIF orientation is obeyed. Writes for
    each, at its own size and into a folder of the same name, NAME_overlay.png (the image tinted in
    the classes' colours, with a legend below it) and NAME_labels.png (the number of each pixel's
    class, 8 bits, with a palette of the classes' colours). NAME is the image's, with its suffix
    only where several images would have the same. Replaces results of its own, which it recognises
    and never segments, and no other files.

    Images may be of any size and shape. Each is resized as a whole to the size of the training
    images, as it was in training, and what the network finds is enlarged again.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Directory of the run, whose newest checkpoint is used, or a file in its place: the weights
    that training or jaxbox.models.save wrote, or what export.py wrote."""
    images: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGES [IMAGES ...]")]
    ]
    """Images, and folders of images."""
    out: Path = Path("runs/predictions")
    """Folder for the results; created if missing."""
    tint: float = 0.5
    """Strength of the colours in the overlay, from 0 to 1."""
    codes: bool = False
    """Write the values that classes have in the data set's own label files, such as Cityscapes'
    labelIds, as 8-bit grey and without overlays: what an evaluation server expects."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME:DIR")] = None
    """Where the run's data set is now, such as folder:DIR; only needed for runs of older programs,
    which did not record the names and colours of their classes."""


def predict(settings: PredictSettings) -> None:
    """Runs the subcommand."""
    if not 0 <= settings.tint <= 1:
        raise UserError(f"--tint must be from 0 to 1; got {settings.tint}")
    if settings.run.is_file() and settings.data is not None:
        raise UserError(f"--data must not be given for a file; got {settings.data!r}")
    file = read_network_file(settings.run) if settings.run.is_file() else None
    if file is None:
        check_run(settings.run)
    make_directory(settings.out)
    found = find_inputs(settings.images)
    images = _without_results(found.pictures)
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


def _without_results(images: Mapping[Path, Path]) -> dict[Path, Path]:
    """The images that are no results of this program, which may be in the folder of images."""
    kept = {name: path for name, path in images.items() if not _is_result(path)}
    if not kept:
        raise UserError("IMAGES must be pictures; got nothing but results of predict")
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


def _check_codes(settings: PredictSettings, classes: ClassSet) -> None:
    """Raises `UserError` if values of classes are asked for and the data set has none."""
    try:
        if settings.codes:
            classes.encode(np.arange(len(classes)))
    except ValueError as error:
        raise UserError(f"--codes must not be given for {settings.run}: its {error}") from error


def _predict(predictor: Predictor, path: Path, out: Path, settings: PredictSettings) -> None:
    """Segments an image and writes the results, to whose names `out` is the start.

    Raises:
      DataError: the image cannot be read.
      OSError: a result cannot be written.
      UserError: there is another file in the place of a result.
    """
    image, classes = read_image(path), predictor.classes
    labels = predictor.segment(image)
    out.parent.mkdir(parents=True, exist_ok=True)
    if settings.codes:
        _write(out, "labels", _encoded(classes.encode(labels)))
        return
    _write(out, "labels", encode_labels(labels, classes))
    tinted = with_legend(tint(image, labels, classes, settings.tint), labels, classes)
    _write(out, "overlay", _encoded(tinted[..., ::-1]))


def _write(out: Path, kind: str, png: bytes) -> None:
    picture(out.with_name(f"{out.name}_{kind}.png")).write(mark(png))


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Grey pixels, or colours in OpenCV's order, BGR, as PNG.

    OpenCV only encodes them: it cannot open files whose names are not UTF-8.
    """
    _, encoded = cv2.imencode(".png", pixels)
    return encoded.tobytes()


def _by_suffix(paths: Sequence[Path]) -> str:
    """How many files there are of each suffix."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return _escaped(", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items())))


def _escaped(message: str) -> str:
    """A message in one line, whatever characters the names of files have."""
    return "".join(c if ord(c) >= 32 else c.encode("unicode_escape").decode() for c in message)

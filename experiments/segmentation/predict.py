"""The `predict` subcommand: a trained network segments a folder of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.common.program import UserError
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.picture_files import files_by_name
from experiments.segmentation.data.picture_reading import read_image
from experiments.segmentation.data.source import Sample
from experiments.segmentation.input.pipeline import normalize
from experiments.segmentation.saved_run import SavedRun, most_likely, open_run


@dataclass(frozen=True)
class _Settings:
    """Segments every image (JPEG or PNG) of a folder with a trained network.

    Writes for each image, at its own size, NAME_overlay.png (the image tinted in the classes'
    colours) and NAME_labels.png (8-bit grey: the number of each pixel's class).
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run, whose newest checkpoint is used."""
    images: tyro.conf.Positional[Path]
    """Folder of images."""
    out: Path
    """Folder for the results; created if missing."""
    tint: float = 0.5
    """Strength of the colours in the overlay, from 0 to 1."""


def predict(arguments: Sequence[str]) -> None:
    """Runs the subcommand with the arguments that follow it on the command line."""
    settings = tyro.cli(_Settings, args=arguments, prog="predict")
    if not 0 <= settings.tint <= 1:
        raise UserError(f"--tint must be from 0 to 1; got {settings.tint}")
    images = files_by_name(settings.images)
    opened = open_run(settings.run)
    settings.out.mkdir(parents=True, exist_ok=True)
    bad = []
    for name, path in tqdm(images.items(), unit="img", desc="predicting", disable=None):
        try:
            image = read_image(path)
        except DataError as error:
            bad.append(str(error))
            continue
        labels = _segment(opened, image)
        overlay = tint(image, labels, opened.val.classes, settings.tint)
        _write(settings.out / f"{name}_labels.png", labels)
        _write(settings.out / f"{name}_overlay.png", overlay[..., ::-1])
    print(f"{len(images) - len(bad)} images segmented into {settings.out}")
    if bad:
        raise UserError("\n".join([f"{len(bad)} of {len(images)} images cannot be read:", *bad]))


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
    run, state, (height, width) = opened.run, opened.state, opened.size
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    sample = normalize(
        Sample(image=np.asarray(small, np.uint8), label=np.zeros((height, width), np.uint8))
    )
    logits = run.trainer.logits(state.params, state.model_state, sample["image"][None])
    return most_likely(np.asarray(logits[0], np.float32), image.shape[:2]).astype(np.uint8)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Writes grey pixels, or colours in OpenCV's order, BGR."""
    if not cv2.imwrite(str(path), pixels):
        raise UserError(f"{path}: cannot be written; is there space, and may you write there?")

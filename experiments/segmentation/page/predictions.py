"""The predictions that a page shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.segmentation.data.classes import VOID
from experiments.segmentation.data.source import Sample
from experiments.segmentation.input.pipeline import normalize
from experiments.segmentation.label_picture import encode_labels
from experiments.segmentation.page.data_uri import jpeg_uri, png_uri
from experiments.segmentation.saved_run import SavedRun
from experiments.segmentation.training.confusion_matrix import count_pixels, scores_of
from experiments.segmentation.training.prediction_picture import chosen_samples


@dataclass(frozen=True)
class Shown:
    """Predictions for a page.

    Attributes:
      samples: the samples.
      pictures: for each sample its pictures as data URIs, and its scores.
      counts: the confusion matrix of all samples.
    """

    samples: Sequence[Sample]
    pictures: list[dict[str, Any]]
    counts: NDArray[np.int64]


def show_predictions(run: SavedRun, most: int) -> Shown:
    """Segments held-out samples with the newest network of a run.

    Args:
      run: the run.
      most: the largest number of samples.

    Raises:
      DataError: the data set cannot be read.
    """
    samples = chosen_samples(run.val, most)
    counts = np.zeros((len(run.classes),) * 2, np.int64)
    pictures = []
    for sample in tqdm(samples, desc="predicting", unit="img", disable=None, leave=False):
        image = jnp.asarray(normalize(sample)["image"])[None]
        predicted = np.asarray(run.trainer.predict(run.state, image)[0], np.uint8)
        label = sample["label"]
        own = count_pixels(label, predicted, len(run.classes))
        counts += own
        wrong = (label != predicted) & (label != VOID)
        pictures.append(
            {
                "image": jpeg_uri(sample["image"]),
                "truth": png_uri(encode_labels(label, run.classes)),
                "prediction": png_uri(encode_labels(predicted, run.classes)),
                "errors": png_uri(_encode_errors(wrong)),
                "pixel_accuracy": scores_of(own).pixel_accuracy,
                "mean_iou": scores_of(own).mean_iou,
            }
        )
    return Shown(samples, pictures, counts)


def _encode_errors(wrong: NDArray[np.bool_]) -> bytes:
    """A PNG that is red where a prediction is wrong, and transparent elsewhere."""
    blue_green_red_alpha = np.array([[0, 0, 0, 0], [40, 40, 230, 255]], np.uint8)
    _, encoded = cv2.imencode(".png", blue_green_red_alpha[wrong.astype(np.intp)])
    return encoded.tobytes()

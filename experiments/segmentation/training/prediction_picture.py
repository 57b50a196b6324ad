"""A picture of what a network predicts for a few held-out samples."""

import cv2
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.source import Sample, Source
from experiments.segmentation.input.pipeline import normalize
from experiments.segmentation.training.prepared_run import PreparedRun
from experiments.segmentation.training.trainer import TrainState

_ROWS = 3
_CELL_WIDTH = 320


def chosen_samples(val: Source, most: int) -> list[Sample]:
    """At most this many samples, spread over the data set: neighbours may be of one film."""
    indices = np.linspace(0, len(val) - 1, min(most, len(val)))
    return [val[index] for index in indices.round().astype(int).tolist()]


def prediction_picture(run: PreparedRun, state: TrainState) -> NDArray[np.uint8]:
    """Input, truth and prediction side by side, one sample in each row, `(H, W, 3)` RGB."""
    val = run.dataset.val
    samples = chosen_samples(val, _ROWS)
    images = jnp.asarray(np.stack([normalize(sample)["image"] for sample in samples]))
    predictions = np.asarray(run.trainer.predict(state, images))
    rows = [
        np.hstack([sample["image"], val.classes.paint(sample["label"]), val.classes.paint(found)])
        for sample, found in zip(samples, predictions, strict=True)
    ]
    picture = np.vstack(rows)
    factor = min(1.0, 3 * _CELL_WIDTH / picture.shape[1])
    # Not a mean: it would mix the colours of neighbouring classes into those of others.
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(small, np.uint8)

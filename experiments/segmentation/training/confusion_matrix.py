"""Intersection over union as Cityscapes defines it, without losing a count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.training.metrics import MetricState
from numpy.typing import NDArray

from experiments.segmentation.data.classes import VOID


@dataclass(frozen=True)
class Scores:
    """How well predictions fit labels.

    Attributes:
      iou: `(classes,)` intersection over union; NaN where neither labels nor predictions (outside
        void) have the class.
      mean_iou: mean of `iou` over the classes that are not NaN; NaN if there are none.
      accuracy: `(classes,)` share of the pixels of each class that are right; NaN where the labels
        do not have the class.
      class_accuracy: mean of `accuracy` over the classes that are not NaN; NaN if there are none.
      pixel_accuracy: share of the pixels outside void that are right; NaN if there are none.
    """

    iou: NDArray[np.float64]
    mean_iou: float
    accuracy: NDArray[np.float64]
    class_accuracy: float
    pixel_accuracy: float


def scores_of(counts: NDArray[np.int64]) -> Scores:
    """The scores of a confusion matrix, `(classes, classes)`: rows are labels."""
    exact = counts.astype(np.float64)
    right, labelled, predicted = np.diagonal(exact), exact.sum(axis=1), exact.sum(axis=0)
    iou = _ratio(right, labelled + predicted - right)
    accuracy = _ratio(right, labelled)
    return Scores(
        iou=iou,
        mean_iou=_mean(iou),
        accuracy=accuracy,
        class_accuracy=_mean(accuracy),
        pixel_accuracy=_ratio(right.sum(keepdims=True), labelled.sum(keepdims=True)).item(),
    )


def merge_classes(counts: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The confusion matrix, `(groups, groups)`, of groups of classes, each given by its classes."""
    member = np.zeros((len(groups), len(counts)), np.int64)
    for row, classes in zip(member, groups, strict=True):
        row[list(classes)] = 1
    return member @ counts @ member.T


def count_pixels(
    labels: NDArray[np.integer], predictions: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """The confusion matrix of one picture of any size, on the host; void pixels do not count."""
    seen = labels != VOID
    cells = labels[seen].astype(np.int64) * classes + predictions[seen]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


class ConfusionMatrix(nnx.Metric):
    """How often each class was predicted as each class.

    Counts are 64-bit integers, kept as two 32-bit halves since JAX has no wider ones by default:
    float32 sums would stall at 2**24 pixels, less than nine Cityscapes images.

    Args:
      classes: number of classes.

    Example:
      >>> metric = ConfusionMatrix(2)
      >>> metric.update(predictions=jnp.array([[0, 1, 1]]), labels=jnp.array([[0, 0, 255]]))
      >>> scores = metric.compute()
      >>> scores.iou.tolist(), scores.mean_iou, scores.pixel_accuracy
      ([0.5, 0.0], 0.25, 0.5)
    """

    def __init__(self, classes: int):
        if classes < 1 or classes > VOID:
            raise ValueError(f"classes must be from 1 to {VOID}, got {classes}")
        self.classes = classes
        # Cell `label * classes + prediction`; the last cell is for what is neither class nor void.
        self.low = MetricState(jnp.zeros(classes**2 + 1, jnp.uint32))
        self.high = MetricState(jnp.zeros(classes**2 + 1, jnp.uint32))

    def reset(self) -> None:
        """Forgets all counts."""
        self.low[...] = jnp.zeros_like(self.low[...])
        self.high[...] = jnp.zeros_like(self.high[...])

    def update(  # type: ignore[override]  # the base class names no arguments
        self, *, predictions: jax.Array, labels: jax.Array, **_: Any
    ) -> None:
        """Counts a batch; takes and ignores other keywords, as metrics do for `nnx.MultiMetric`.

        Args:
          predictions: classes, integers with the shape of `labels`, or logits, floats with one
            more axis of `classes` channels, of which the largest is the prediction.
          labels: integers, any shape; pixels with `VOID` do not count.

        Raises:
          TypeError: `labels` are not integers.
          ValueError: the shapes do not fit.
        """
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        is_logits = jnp.issubdtype(predictions.dtype, jnp.floating)
        expected = (*labels.shape, self.classes) if is_logits else labels.shape
        if predictions.shape != expected:
            raise ValueError(
                f"predictions must be {expected} for {predictions.dtype} and labels "
                f"{labels.shape}, got {predictions.shape}"
            )
        if is_logits:
            predictions = jnp.argmax(predictions, axis=-1)
        cells = self._cells(predictions.astype(jnp.int32), labels.astype(jnp.int32))
        counts = jnp.bincount(cells.ravel(), length=self.classes**2 + 2)[:-1].astype(jnp.uint32)
        low = self.low[...] + counts
        carry = (low < counts).astype(jnp.uint32)
        self.low[...] = low
        self.high[...] = self.high[...] + carry

    def _cells(self, predictions: jax.Array, labels: jax.Array) -> jax.Array:
        """The cell each pixel counts in; void pixels get one past the end."""
        invalid = self.classes**2
        is_class = (labels >= 0) & (labels < self.classes)
        is_class &= (predictions >= 0) & (predictions < self.classes)
        cells = jnp.where(is_class, labels * self.classes + predictions, invalid)
        return jnp.where(labels == VOID, invalid + 1, cells)

    def counts(self) -> NDArray[np.int64]:
        """The matrix itself, `(classes, classes)`: rows are labels, columns are predictions.

        Raises:
          ValueError: a label was neither a class nor void, or a prediction was no class.
        """
        high, low = np.asarray(self.high[...]), np.asarray(self.low[...])
        counts = (high.astype(np.int64) << 32) + low.astype(np.int64)
        if counts[-1]:
            raise ValueError(
                f"{counts[-1]} pixels have a label or prediction outside 0..{self.classes - 1} "
                f"that is not void ({VOID})"
            )
        return counts[:-1].reshape(self.classes, self.classes)

    def compute(self) -> Scores:
        """The scores of everything counted so far; not for use under `jax.jit`.

        Raises:
          ValueError: see `counts`.
        """
        return scores_of(self.counts())


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")

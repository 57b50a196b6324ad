"""The confusion matrix with exact counts, and the scores computed from it, as in Cityscapes."""

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
    """How well predictions agree with labels.

    Attributes:
      iou: intersection over union of each class, `(classes,)`; NaN for a class that occurs neither
        in labels nor in predictions (outside void).
      mean_iou: the mean of `iou` over the classes that are not NaN; NaN if there are none.
      accuracy: the share of each class's pixels that are predicted right, `(classes,)`; NaN for a
        class that does not occur in the labels.
      class_accuracy: the mean of `accuracy` over the classes that are not NaN; NaN if there are
        none.
      pixel_accuracy: the share of all pixels outside void that are predicted right; NaN if there
        are none.
    """

    iou: NDArray[np.float64]
    mean_iou: float
    accuracy: NDArray[np.float64]
    class_accuracy: float
    pixel_accuracy: float


def scores_of(counts: NDArray[np.int64]) -> Scores:
    """The scores of a confusion matrix, `(classes, classes)`, whose rows are labels."""
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


def format_score(score: float | None, form: str = ".3f") -> str:
    """A score as text.

    Args:
      score: the score; NaN, or None as in JSON, if it does not exist.
      form: the format of a score that exists, as in f-strings.

    Returns:
      The text; it is `none` for a score that does not exist.

    Example:
      >>> format_score(0.5), format_score(float("nan"))
      ('0.500', 'none')
    """
    return "none" if score is None or np.isnan(score) else format(score, form)


def merge_classes(counts: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The confusion matrix of groups of classes, `(groups, groups)`.

    Args:
      counts: the confusion matrix of the classes, `(classes, classes)`.
      groups: the classes of each group.
    """
    member = np.zeros((len(groups), len(counts)), np.int64)
    for row, classes in zip(member, groups, strict=True):
        row[list(classes)] = 1
    return member @ counts @ member.T


def count_pixels(
    labels: NDArray[np.integer], predictions: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """The confusion matrix of one picture of any size, computed on the host.

    Args:
      labels: the class of each pixel; pixels with `VOID` do not count.
      predictions: the predicted class of each pixel, in the same shape.
      classes: the number of classes.
    """
    seen = labels != VOID
    cells = labels[seen].astype(np.int64) * classes + predictions[seen]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


class ConfusionMatrix(nnx.Metric):
    """Counts how often each class was predicted as each class.

    Counts are 64-bit integers, stored as two 32-bit halves because JAX has no wider integers by
    default. Sums in float32 would stall at 2**24 pixels, which is less than nine Cityscapes images.

    Args:
      classes: the number of classes.

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
        # Cell `label * classes + prediction`; the last cell counts values that are not allowed.
        self.low = MetricState(jnp.zeros(classes**2 + 1, jnp.uint32))
        self.high = MetricState(jnp.zeros(classes**2 + 1, jnp.uint32))

    def reset(self) -> None:
        """Sets all counts to 0."""
        self.low[...] = jnp.zeros_like(self.low[...])
        self.high[...] = jnp.zeros_like(self.high[...])

    def update(  # type: ignore[override]  # the base class names no arguments
        self, *, predictions: jax.Array, labels: jax.Array, **_: Any
    ) -> None:
        """Counts a batch; other keywords are ignored, as `nnx.MultiMetric` requires.

        Args:
          predictions: classes, which are integers with the shape of `labels`, or logits, which are
            floats with one more axis of `classes` channels; the largest logit is the prediction.
          labels: the classes of the pixels, integers of any shape; pixels with `VOID` do not count.

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
        """The cell that each pixel counts in; the cell of void pixels is one past the end."""
        invalid = self.classes**2
        is_class = (labels >= 0) & (labels < self.classes)
        is_class &= (predictions >= 0) & (predictions < self.classes)
        cells = jnp.where(is_class, labels * self.classes + predictions, invalid)
        return jnp.where(labels == VOID, invalid + 1, cells)

    def counts(self) -> NDArray[np.int64]:
        """The matrix, `(classes, classes)`: rows are labels, columns are predictions.

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
        """The scores of all counts so far; not for use under `jax.jit`.

        Raises:
          ValueError: see `counts`.
        """
        return scores_of(self.counts())


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """`part / whole`, and NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")

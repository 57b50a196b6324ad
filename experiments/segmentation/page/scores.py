"""Learning curves and the confusion matrix for a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.drawing import label_shares
from experiments.segmentation.training.confusion_matrix import scores_of


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """The metrics of a run over its epochs; each list has an entry for each record.

    Args:
      records: the metrics, one record for each epoch.
    """
    names = ("epoch", "loss", "mean_iou", "pixel_accuracy")
    return {name: [record[name] for record in records] for name in names}


def score_table(counts: NDArray[np.int64], classes: ClassSet) -> dict[str, Any]:
    """Scores of the classes that occur, and the shares of each that are predicted as each.

    Args:
      counts: the confusion matrix, `(classes, classes)`, whose rows are labels.
      classes: the names of the classes.
    """
    scores = scores_of(counts)
    occurs = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    absent = [name for c, name in enumerate(classes.names) if c not in occurs]
    return {
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "classes": occurs.tolist(),
        "iou": scores.iou[occurs].tolist(),
        "accuracy": scores.accuracy[occurs].tolist(),
        "shares": np.round(label_shares(counts)[np.ix_(occurs, occurs)], 4).tolist(),
        "absent": absent,
    }

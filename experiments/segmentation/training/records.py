"""What the first process records while a run trains, beside its checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.training.box_history import BoxHistory
from experiments.segmentation.training.box_statistics import box_sizes
from experiments.segmentation.training.metrics_log import MetricsLog
from experiments.segmentation.training.optimizer import learning_rate
from experiments.segmentation.training.prepared_run import PreparedRun
from jaxbox.analysis import BoxLayer

_MOST_PICTURES = (
    50  # A run of a thousand epochs would fill the disk with pictures that differ little.
)

_LEAST_MOMENTS = 24  # Boxes seem to jump, not to move, where a short run has fewer.


class Records:
    """Records steps, epochs, boxes and predictions of a run.

    Args:
      run: the run.
      log: the log of its metrics.
      history: the history of its boxes.
    """

    def __init__(self, run: PreparedRun, log: MetricsLog, history: BoxHistory):
        self._log, self._history = log, history
        recipe = run.settings.training
        self._learning_rate = learning_rate(recipe, run.steps, run.steps_per_epoch)

    def add_step(self, step: int, loss: float) -> None:
        """Records the recent loss, and the learning rate of the last step."""
        rate = float(self._learning_rate(step - 1))
        self._log.add_numbers(step, {"step/loss": loss, "step/learning_rate": rate})

    def add_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of an epoch."""
        self._log.add(metrics)

    def add_boxes(self, step: int, layers: Sequence[BoxLayer]) -> None:
        """Records the boxes of all layers after a step."""
        self._history.add(step, layers)
        self._log.add_numbers(step, box_sizes(layers))

    def add_predictions(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Records a picture of predictions, `(H, W, 3)` RGB."""
        self._log.add_picture(step, "predictions/input_truth_prediction", picture)


def is_shown(run: PreparedRun, step: int) -> bool:
    """Whether predictions are drawn after the epoch that ends with a step."""
    epoch = -(-step // run.steps_per_epoch)
    return step == run.steps or epoch % -(-run.epochs // _MOST_PICTURES) == 0


def steps_between_boxes(run: PreparedRun) -> int:
    """The number of steps after which boxes are recorded, besides the end of each epoch."""
    return min(run.steps_per_epoch, -(-run.steps // _LEAST_MOMENTS))


class RecentLoss:
    """The mean loss since it was last asked for, from sums of losses since the epoch began.

    Args:
      step: the present step.
      total: the sum of the losses of the epoch so far.

    Example:
      >>> recent = RecentLoss(10, 0.0)
      >>> recent.read(12, 3.0), recent.read(13, 4.0)
      (1.5, 1.0)
    """

    def __init__(self, step: int, total: float):
        self._step, self._total = step, total

    def read(self, step: int, total: float) -> float:
        """The mean loss of the steps since the last call, or since the beginning."""
        mean = (total - self._total) / (step - self._step)
        self._step, self._total = step, total
        return mean

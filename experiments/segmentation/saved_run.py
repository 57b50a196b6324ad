"""Opening a saved run to use the network that it trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from experiments.common.program import UserError
from experiments.segmentation.data.source import Size, Source
from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.prepared_run import PreparedRun, prepare
from experiments.segmentation.training.run_directory import read_settings
from experiments.segmentation.training.trainer import TrainState
from jaxbox.models import SegmentationNetwork


@dataclass(frozen=True)
class SavedRun:
    """A run with its saved states.

    Attributes:
      run: the run as it was prepared for training.
      states: the state before training and all saved states, by their number of steps, in ascending
        order.
    """

    run: PreparedRun
    states: Mapping[int, TrainState]

    @property
    def name(self) -> str:
        """The name of the network, as in `jaxbox.models.NETWORKS`."""
        return self.run.settings.model

    @property
    def val(self) -> Source:
        """The held-out samples; the logits have the same classes."""
        return self.run.dataset.val

    @property
    def size(self) -> Size:
        """`(H, W)` of the network's input, in pixels."""
        return self.run.dataset.size

    @property
    def state(self) -> TrainState:
        """The newest state."""
        return self.states[max(self.states)]

    @property
    def history(self) -> Mapping[int, SegmentationNetwork]:
        """The network of each state, in evaluation mode, by the number of steps."""
        return {step: self._network(state) for step, state in self.states.items()}

    @property
    def initial(self) -> SegmentationNetwork:
        """The network before training, in evaluation mode."""
        return self._network(self.states[0])

    @property
    def trained(self) -> SegmentationNetwork:
        """The network of the newest state, in evaluation mode."""
        return self._network(self.state)

    def _network(self, state: TrainState) -> SegmentationNetwork:
        model = self.run.trainer.model(state)
        model.eval()
        return model


def open_run(directory: Path) -> SavedRun:
    """Opens the run in a directory.

    Raises:
      DataError: the run's data set is missing or damaged.
      UserError: `directory` holds no run, or one without a checkpoint.
    """
    run = prepare(read_settings(directory))
    initial = run.trainer.initial
    with Checkpoints(directory) as checkpoints:
        saved = checkpoints.all(initial)
    if not saved:
        raise UserError(f"{directory} holds a run without a checkpoint; train it first")
    return SavedRun(run, {0: initial, **saved})


def most_likely(logits: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.intp]:
    """The most likely class of each pixel at another size.

    Args:
      logits: the network's output for one image, `(h, w, classes)`.
      size: `(H, W)` in pixels, to which the logits are interpolated linearly.

    Returns:
      The classes, `(H, W)`.
    """
    height, width = size
    return cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR).argmax(-1)

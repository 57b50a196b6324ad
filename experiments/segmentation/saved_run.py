"""Opening a run again, to look at what it learnt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.segmentation.data.source import Source
from experiments.segmentation.training.checkpoints import Checkpoints, RunError, read_settings
from experiments.segmentation.training.run import Run, prepare
from experiments.segmentation.training.settings import from_record
from experiments.segmentation.training.trainer import TrainState
from jaxbox.models import SegmentationNetwork


@dataclass(frozen=True)
class SavedRun:
    """What a run trained, and on what it can be judged.

    Attributes:
      run: the run as it began.
      states: by the number of steps, in order: the state before training, and those saved.
    """

    run: Run
    states: Mapping[int, TrainState]

    @property
    def name(self) -> str:
        """The network's, as in `jaxbox.models.NETWORKS`."""
        return self.run.settings.model

    @property
    def val(self) -> Source:
        """The held-out samples, whose classes are those of the logits."""
        return self.run.dataset.val

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the images that the network sees, in pixels."""
        return self.run.dataset.size

    @property
    def state(self) -> TrainState:
        """The newest state."""
        return self.states[max(self.states)]

    @property
    def history(self) -> Mapping[int, SegmentationNetwork]:
        """The network in evaluation mode in each state."""
        return {step: self._network(state) for step, state in self.states.items()}

    @property
    def initial(self) -> SegmentationNetwork:
        """The network before training, in evaluation mode."""
        return self._network(self.states[0])

    @property
    def trained(self) -> SegmentationNetwork:
        """The network as trained, in evaluation mode."""
        return self._network(self.state)

    def _network(self, state: TrainState) -> SegmentationNetwork:
        model = self.run.trainer.model(state)
        model.eval()
        return model


def open_run(directory: Path) -> SavedRun:
    """Opens the run in a directory.

    Raises:
      DataError: its data set is missing or damaged.
      RunError: `directory` holds no run, or none that was saved.
    """
    run = prepare(from_record(read_settings(directory), directory))
    initial = run.trainer.initial
    with Checkpoints(directory) as checkpoints:
        saved = checkpoints.all(initial)
    if not saved:
        raise RunError(f"{directory} holds a run without a checkpoint; train it first")
    return SavedRun(run, {0: initial, **saved})

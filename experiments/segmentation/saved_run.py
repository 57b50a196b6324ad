"""Opening a saved run to use the network that it trained."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from experiments.common.program import UserError
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.datasets import DATA_SETS, open_split
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.inspection import describe_left_out, without_bad_samples
from experiments.segmentation.data.source import FilesDataSet, Size, Source
from experiments.segmentation.input.normalization import IMAGENET, Normalization
from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.data_record import read_data_record
from experiments.segmentation.training.devices import data_mesh
from experiments.segmentation.training.network import build_network
from experiments.segmentation.training.optimizer import optimizer
from experiments.segmentation.training.run_directory import read_settings
from experiments.segmentation.training.settings import Settings, image_size
from experiments.segmentation.training.settings_record import data_set_name
from experiments.segmentation.training.trainer import Trainer, TrainState
from jaxbox.models import SegmentationNetwork

_SMALLEST_SIZE: Size = (8, 8)


@dataclass(frozen=True)
class SavedRun:
    """A run with its saved states.

    Attributes:
      settings: the settings of the run.
      classes: the classes, in the order of the network's logits.
      normalization: how pixels become the network's input.
      size: `(H, W)` of the network's input, in pixels.
      trainer: the trainer of the network; it cannot go on training, since it knows no data set.
      states: the state before training and saved states, by their number of steps, in ascending
        order.
    """

    settings: Settings
    classes: ClassSet
    normalization: Normalization
    size: Size
    trainer: Trainer
    states: Mapping[int, TrainState]

    @property
    def name(self) -> str:
        """The name of the network, as in `jaxbox.models.NETWORKS`."""
        return self.settings.model

    @cached_property
    def val(self) -> Source:
        """The held-out samples, which are opened and checked when they are first asked for.

        Raises:
          DataError: they are missing or damaged, or have other classes than the network.
        """
        settings = self.settings
        val = open_split(settings.data, "val", self.size, settings.seed)
        if val.classes.names != self.classes.names:
            raise DataError(
                f"{settings.data} has the classes {', '.join(val.classes.names)}, and the run in "
                f"{settings.out} was trained with {', '.join(self.classes.names)}"
            )
        return _readable(val, settings) if ":" in settings.data else val

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
        model = self.trainer.model(state)
        model.eval()
        return model


def open_run(directory: Path, data: str | None = None, *, history: bool = True) -> SavedRun:
    """Opens the run in a directory, without its data set if the run recorded the classes.

    Args:
      directory: the directory of the run.
      data: where the run's data set is now, as on the command line; by default where it was.
      history: whether to read all saved states, and not only the newest.

    Raises:
      DataError: the classes are not recorded and cannot be found.
      UserError: `directory` holds no run, or one without a checkpoint, or `data` is another data
        set.
    """
    settings = _moved(read_settings(directory), data)
    classes, normalization = _data_of(directory, settings)
    size = image_size(settings) or DATA_SETS[data_set_name(settings)].usual_size
    if size is None:
        raise UserError(f"the settings in {directory} give no size of the images")
    trainer = make_trainer(settings, classes, size)
    with Checkpoints(directory, read_only=True) as checkpoints:
        if history:
            saved = checkpoints.all(trainer.initial)
        else:
            newest = checkpoints.latest(trainer.initial)
            saved = {} if newest is None else {int(newest.step): newest}
    if not saved:
        raise UserError(f"{directory} holds a run without a checkpoint; train it first")
    states = {0: trainer.initial, **saved}
    return SavedRun(settings, classes, normalization, size, trainer, states)


def number_of_blocks(settings: Settings) -> int:
    """The number of blocks of a run's network, found without computing anything."""
    size = image_size(settings) or _SMALLEST_SIZE
    return len(nnx.eval_shape(lambda: build_network(settings, 2, size)).blocks)


def check_run(directory: Path) -> None:
    """Raises `UserError` unless a directory holds a run whose settings can be read."""
    read_settings(directory)


def most_likely(logits: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """The most likely class of each pixel at another size.

    Args:
      logits: the network's output for one image, `(h, w, classes)`, of at most 254 classes.
      size: `(H, W)` in pixels, to which the logits are interpolated linearly.

    Returns:
      The classes, `(H, W)`; of equally likely ones the first.
    """
    height, width = size
    labels = np.zeros((height, width), np.uint8)
    largest = np.full((height, width), -np.inf, np.float32)
    # One class after the other: all of them would take gigabytes for the largest images.
    for label in range(logits.shape[-1]):
        plane = np.ascontiguousarray(logits[..., label])
        enlarged = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
        labels[enlarged > largest] = label
        np.maximum(largest, enlarged, out=largest)
    return labels


def _moved(settings: Settings, data: str | None) -> Settings:
    """The settings of a run, with the place where its data set is now."""
    known = data_set_name(settings)
    if known not in DATA_SETS:
        raise UserError(f"the run in {settings.out} has the unknown data set {settings.data!r}")
    if data is None:
        return settings
    moved = dataclasses.replace(settings, data=data)
    if data_set_name(moved) != known:
        raise UserError(
            f"--data must be the data set of the run in {settings.out}, {known}; got {data!r}"
        )
    return moved


class _Data(NamedTuple):
    """What a network needs to know of its data set."""

    classes: ClassSet
    normalization: Normalization


def _data_of(directory: Path, settings: Settings) -> _Data:
    """The classes that the run recorded, or for one of an older program those of its data set."""
    recorded = read_data_record(directory)
    if recorded is not None:
        return _Data(recorded.classes, recorded.normalization)
    entry = DATA_SETS[data_set_name(settings)]
    if isinstance(entry, FilesDataSet) and entry.classes is not None:
        return _Data(entry.classes, IMAGENET)
    val = open_split(settings.data, "val", image_size(settings), settings.seed)
    return _Data(val.classes, IMAGENET)


def _readable(val: Source, settings: Settings) -> Source:
    """The held-out samples that can be read; the others are treated as in training."""
    good = without_bad_samples(val)
    if good.left_out:
        message = describe_left_out(good.left_out, len(good))
        if settings.on_bad == "stop":
            raise DataError(message)
        print(message, file=sys.stderr)
    return good


def make_trainer(settings: Settings, classes: ClassSet, size: Size) -> Trainer:
    """A trainer whose states have the structure of a run's checkpoints.

    Args:
      settings: the settings of the run.
      classes: the classes of its data set.
      size: `(H, W)` of the images in pixels.
    """
    model = build_network(settings, len(classes), size)
    # The numbers of steps and the weights of classes are no part of the state.
    tx = optimizer(settings, model, steps=settings.steps or 1, steps_per_epoch=1)
    return Trainer(model, tx, np.ones(len(classes)), mesh=data_mesh())

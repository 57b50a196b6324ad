"""A training run prepared from its settings: data set, network, optimizer and number of steps."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np
from numpy.typing import NDArray

from experiments.common.command_line import MOST_STEPS
from experiments.common.program import UserError
from experiments.segmentation.data.datasets import DataSet, open_dataset
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.inspection import describe_left_out, without_bad_samples
from experiments.segmentation.data.source import Source
from experiments.segmentation.input.pipeline import class_frequencies
from experiments.segmentation.training.devices import data_mesh
from experiments.segmentation.training.network import build_network
from experiments.segmentation.training.optimizer import optimizer
from experiments.segmentation.training.settings import Settings, check_batch_fits, image_size
from experiments.segmentation.training.trainer import Trainer, class_weights

_LABELS_READ_FOR_WEIGHTS = 400


@dataclass(frozen=True)
class PreparedRun:
    """All that training needs.

    Attributes:
      settings: the user's settings, completed by the size of the images and the number of steps.
      dataset: both splits, without the samples that cannot be read.
      left_out: the errors of the samples that were left out.
      trainer: the trainer, with the initial state.
      steps: the number of batches in the whole training.
      steps_per_epoch: the number of batches in which each training image is used once.
    """

    settings: Settings
    dataset: DataSet
    left_out: tuple[Exception, ...]
    trainer: Trainer
    steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """The number of epochs, after each of which scores are recorded and the state is saved."""
        return -(-self.steps // self.steps_per_epoch)


def prepare(settings: Settings) -> PreparedRun:
    """Opens the data set and builds the network and its optimizer.

    Raises:
      DataError: the data set is missing or damaged.
      UserError: the settings do not fit the devices or the network.
    """
    recipe = settings.training
    if recipe.batch_size % jax.device_count():
        raise UserError(
            f"--batch-size must be a multiple of the {jax.device_count()} devices; "
            f"got {recipe.batch_size}"
        )
    dataset = open_dataset(settings.data, image_size(settings), settings.seed)
    check_batch_fits(recipe.batch_size, dataset.size)
    # Before all files are read, since not every network can have every --context.
    model = build_network(settings, len(dataset.train.classes), dataset.size)
    dataset, left_out = _readable(settings, dataset)
    steps_per_epoch = -(-len(dataset.train) // recipe.batch_size)
    steps = settings.steps or recipe.epochs * steps_per_epoch
    if steps_per_epoch * max(recipe.epochs, *recipe.decay_epochs, 0) > MOST_STEPS:
        raise UserError(
            f"--epochs and --decay-epochs must be at most {MOST_STEPS // steps_per_epoch} for "
            f"{steps_per_epoch} steps in each; got {recipe.epochs} and {recipe.decay_epochs}"
        )
    height, width = dataset.size
    settings = dataclasses.replace(settings, size=f"{height}x{width}", steps=steps)
    weights = class_weights(_class_frequencies(dataset.train))
    trainer = Trainer(
        model, optimizer(settings, model, steps, steps_per_epoch), weights, mesh=data_mesh()
    )
    return PreparedRun(settings, dataset, left_out, trainer, steps, steps_per_epoch)


def _class_frequencies(train: Source) -> NDArray[np.float64]:
    try:
        return class_frequencies(train, _LABELS_READ_FOR_WEIGHTS)
    except ValueError as error:
        raise DataError(
            "every pixel of the training labels is void, so there is nothing to learn; check the "
            "labels, and which of their values are classes"
        ) from error


def _readable(settings: Settings, dataset: DataSet) -> tuple[DataSet, tuple[Exception, ...]]:
    """The data set without the samples that cannot be read, and the errors of those."""
    if not dataset.has_files:
        return dataset, ()
    train, val = without_bad_samples(dataset.train), without_bad_samples(dataset.val)
    left_out = (*train.left_out, *val.left_out)
    if left_out and settings.on_bad == "stop":
        raise DataError(describe_left_out(left_out, len(train) + len(val)))
    return dataclasses.replace(dataset, train=train, val=val), left_out

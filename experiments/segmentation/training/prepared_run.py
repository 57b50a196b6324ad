"""A training run put together from its settings."""

import dataclasses
from dataclasses import dataclass

import jax

from experiments.segmentation.data.datasets import DataSet, open_dataset
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.inspection import describe_left_out, without_bad_samples
from experiments.segmentation.input.pipeline import class_frequencies
from experiments.segmentation.training.devices import data_mesh
from experiments.segmentation.training.network import build_network
from experiments.segmentation.training.recipe import optimizer
from experiments.segmentation.training.settings import Settings, UsageError, image_size
from experiments.segmentation.training.trainer import Trainer, class_weights

_LABELS_READ_FOR_WEIGHTS = 400


@dataclass(frozen=True)
class Run:
    """All that training needs.

    Attributes:
      settings: what it was told, with the size and the number of steps that follow from it.
      dataset: both splits; damaged samples are left out.
      left_out: what is wrong with each sample that was left out.
      trainer: with the initial state.
      steps: batches in the whole training.
      steps_per_epoch: batches in which each training image comes once.
    """

    settings: Settings
    dataset: DataSet
    left_out: tuple[Exception, ...]
    trainer: Trainer
    steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """How often scores are recorded and the state is saved."""
        return -(-self.steps // self.steps_per_epoch)


def prepare(settings: Settings) -> Run:
    """Reads what training needs and builds the network.

    Raises:
      DataError: the data set is missing or damaged.
      UsageError: the settings do not fit the devices, or the network.
    """
    dataset = open_dataset(settings.data, image_size(settings), settings.seed)
    dataset, left_out = _readable(settings, dataset)
    recipe = settings.training
    steps_per_epoch = -(-len(dataset.train) // recipe.batch_size)
    steps = settings.steps or recipe.epochs * steps_per_epoch
    if recipe.batch_size % jax.device_count():
        raise UsageError(
            f"--batch-size must be a multiple of the {jax.device_count()} devices; "
            f"got {recipe.batch_size}"
        )
    height, width = dataset.size
    settings = dataclasses.replace(settings, size=f"{height}x{width}", steps=steps)
    model = build_network(settings, len(dataset.train.classes), dataset.size)
    weights = class_weights(class_frequencies(dataset.train, _LABELS_READ_FOR_WEIGHTS))
    trainer = Trainer(
        model, optimizer(recipe, model, steps, steps_per_epoch), weights, mesh=data_mesh()
    )
    return Run(settings, dataset, left_out, trainer, steps, steps_per_epoch)


def _readable(settings: Settings, dataset: DataSet) -> tuple[DataSet, tuple[Exception, ...]]:
    """The data set without samples that cannot be read, and what is wrong with those."""
    if settings.data == "synthetic":
        return dataset, ()
    train, val = without_bad_samples(dataset.train), without_bad_samples(dataset.val)
    left_out = (*train.left_out, *val.left_out)
    if left_out and settings.on_bad == "stop":
        raise DataError(describe_left_out(left_out, len(train) + len(val)))
    return DataSet(train, val, dataset.size), left_out
